"""What constraints cost and gain: a flat schema, free rows beside it, and labels.

    python benchmarks/constrained.py [--model NAME] [--rows 32] [--labels 200]

Each ratio is of two runs that alternate on one machine; rows that are compared have as many tokens.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

from vllm_mlx import platform
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request
from vllm_mlx.models.loading import load_model
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "city": {"type": "string", "maxLength": 24},
        "mood": {"enum": ["positive", "negative", "neutral"]},
    },
    "required": ["name", "age", "city", "mood"],
}
LABELS = {"choice": ["positive", "negative", "neutral"]}
NAMES = ["Anna", "Bo", "Chen", "Dara", "Emil", "Fay", "Gita", "Hugo"]


def facts(rows: int, **options: Any) -> list[Request]:
    """A person a row."""
    return [
        _request(f"{NAMES[at % 8]} is {20 + at % 50}, and lives in Oslo. As JSON:", options)
        for at in range(rows)
    ]


def reviews(rows: int, **options: Any) -> list[Request]:
    """A review a row, to be sorted into a class."""
    return [
        _request(f"Review {at}: it broke after {at % 9 + 2} days. The mood is", options)
        for at in range(rows)
    ]


def _request(prompt: str, options: Any) -> Request:
    return Request.of_user(prompt, {"temperature": 0, **options})


def timed(core: EngineCore, requests: list[Request]) -> tuple[float, list[GenerationOutput]]:
    """Seconds that these take together, and their answers.

    On a CPU these are of processor time, of which others on the machine take nothing.
    """
    clock = time.process_time if platform.backend() == "cpu" else time.perf_counter
    started = clock()
    outputs = [future.result() for future in core.submit(*requests)]
    return clock() - started, outputs


def free_like(outputs: list[GenerationOutput], rows: list[Request]) -> list[Request]:
    """The same prompts, free, with as many tokens as these answers have."""
    return [
        _request(str(row.prompt), {"max_tokens": output.completion_tokens, "ignore_eos": True})
        for row, output in zip(rows, outputs, strict=True)
    ]


def ratio(core: EngineCore, one: Any, other: Any, repeats: int) -> tuple[float, str]:
    """How many times as fast `one` is as `other`, and of each pair."""
    pairs = []
    for _ in range(repeats):
        slow, _ = timed(core, other())
        fast, _ = timed(core, one())
        pairs.append(slow / fast)
    return median(pairs), ", ".join(f"{each:.3f}" for each in sorted(pairs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    core = EngineCore(given.model, load_model, SchedulerConfig(max_num_seqs=given.rows))
    core.start()
    held = {"structured_outputs": {"json": SCHEMA}, "max_tokens": 96}
    timed(core, facts(2, **held))  # its tokens are read once
    _, outputs = timed(core, facts(given.rows, **held))
    tokens = sum(output.completion_tokens for output in outputs)
    whole = sum(output.complete is True for output in outputs)
    print(f"{given.rows} rows, {tokens} tokens, {whole} whole: {outputs[0].text}")
    found, each = ratio(
        core,
        lambda: facts(given.rows, **held),
        lambda: free_like(outputs, facts(given.rows)),
        given.repeats,
    )
    print(f"schema: tokens/s, of the same rows free: {found:.3f} ({each})")

    half = given.rows // 2
    others = free_like(outputs[:half], facts(half))
    alone = [output.text for output in timed(core, free_like(outputs[:half], facts(half)))[1]]
    beside = timed(core, [*others, *facts(half, **held)])[1][:half]
    same = sum(output.text == text for output, text in zip(beside, alone, strict=True))
    found, each = ratio(
        core,
        lambda: [*free_like(outputs[:half], facts(half)), *facts(half, **held)],
        lambda: [*free_like(outputs[:half], facts(half)), *free_like(outputs[:half], facts(half))],
        given.repeats,
    )
    print(f"free rows beside it: {found:.3f} ({each}); {same} of {half} texts unchanged")

    found, each = ratio(
        core,
        lambda: reviews(given.labels, structured_outputs=LABELS),
        lambda: reviews(given.labels, max_tokens=4, ignore_eos=True),
        given.repeats,
    )
    print(f"labels, times the same free with max_tokens 4: {found:.3f} ({each})")
    core.stop()


if __name__ == "__main__":
    main()
