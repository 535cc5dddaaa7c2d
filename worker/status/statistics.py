"""`Statistics`: what an engine did in a stretch of time, as numbers and as one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ByteSize, Field

from vllm_mlx.json_record import JSONRecord
from vllm_mlx.outputs import HELD_NOW, EngineStats

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
PARTS = ("schedule", "prefill", "decode", "deliver")


@dataclass(frozen=True, slots=True)
class Statistics(JSONRecord):
    """An engine now, and its work between two moments; None where it did nothing of a kind.

    Attributes:
        running, waiting, max_num_seqs, slots, kv_cache_bytes, way: as in `EngineStats`.
        prefill_tokens_per_second: prompt tokens computed per second of prefill.
        decode_tokens_per_second: generated tokens per second of decoding.
        padding_share: of the tokens computed in prefill, those that only made rows equally long.
        cached_share: of the prompt tokens, those that another prompt had computed.
        time_shares: of the time at work, by part; waiting for work is no part.
    """

    running: Count = 0
    waiting: Count = 0
    max_num_seqs: Count = 0
    slots: Count = 0
    kv_cache_bytes: Count = 0
    way: Annotated[str, Field(max_length=2000)] = ""

    @property
    def is_slower_way(self) -> bool:
        """Whether a faster way was tried before: `way` gives the reason then."""
        return self.way.endswith(")")

    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    padding_share: float | None = None
    cached_share: float | None = None
    time_shares: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def between(cls, before: EngineStats, now: EngineStats) -> Statistics:
        """Return what happened from `before` to `now`."""

        def more(name: str) -> float:
            return float(getattr(now, name) - getattr(before, name))

        prompt, cached, padding = map(more, ("prompt_tokens", "cached_tokens", "padding_tokens"))
        # The fallback divides a step between two parts only when it ends.
        seconds = {part: max(0.0, more(f"{part}_seconds")) for part in PARTS}
        at_work = sum(seconds.values())
        return cls(
            **held_now(now),
            prefill_tokens_per_second=_rate(prompt - cached, seconds["prefill"]),
            decode_tokens_per_second=_rate(more("completion_tokens"), seconds["decode"]),
            padding_share=_ratio(padding, prompt - cached + padding),
            cached_share=_ratio(cached, prompt),
            time_shares={part: round(s / at_work, 4) for part, s in seconds.items() if at_work > 0},
        )

    @property
    def is_idle(self) -> bool:
        """Whether nothing happened."""
        return not self.time_shares

    @property
    def has_speed(self) -> bool:
        """Whether any tokens came of it."""
        speeds = (self.prefill_tokens_per_second, self.decode_tokens_per_second)
        return speeds != (None, None)

    @property
    def is_within_step(self) -> bool:
        """Whether the engine was at work, but ended no step."""
        return self.running > 0 and not self.has_speed

    def __str__(self) -> str:
        rounded = {part: round(100 * share) for part, share in self.time_shares.items()}
        shares = " ".join(f"{part} {share} %" for part, share in rounded.items() if share)
        kv_cache = ByteSize(self.kv_cache_bytes).human_readable(decimal=True, separator=" ")
        parts = [
            _formatted("decode {:,.0f} tok/s", self.decode_tokens_per_second),
            _formatted("prefill {:,.0f} tok/s", self.prefill_tokens_per_second),
            f"slots {self.running}" + (f"/{most}" if (most := self.max_num_seqs) else ""),
            _formatted("waiting {}", self.waiting or None),
            _formatted("KV cache {}", kv_cache if self.kv_cache_bytes else None),
            _formatted("padding {:.0f} %", self.padding_share or None, 100),
            _formatted("cached {:.0f} %", self.cached_share or None, 100),
            _formatted("time: {}", shares or None),
        ]
        return ", ".join(filter(None, parts))


class Meter:
    """Measures from one look at an engine to the next; the first look is from its start.

    A step may take longer than the time between two looks. Its tokens come at its end, so what is
    measured goes on until then.
    """

    def __init__(self) -> None:
        self._before = EngineStats()

    def read(self, now: EngineStats) -> Statistics:
        """Return what happened since the last call that saw a step end, or nothing to do."""
        statistics = Statistics.between(self._before, now)
        if not statistics.is_within_step:
            self._before = now
        return statistics


def held_now(stats: EngineStats) -> dict[str, Any]:
    """Return what an engine holds, apart from what it did."""
    return {name: getattr(stats, name) for name in HELD_NOW}


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole > 0 else None


def _rate(tokens: float, seconds: float) -> float | None:
    return round(tokens / seconds, 1) if tokens > 0 and seconds > 0 else None


def _formatted(template: str, value: Any, times: int = 1) -> str:
    return "" if value is None else template.format(times * value)
