"""`Timings`: how long prompts and steps take here, measured with rows of the input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request, new_request_id
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from worker.plan.shares import Planned, SampleRow

POINT_SECONDS = 1.5
"""What the steps of one width are to take: a busy machine hides what less would tell."""
STEPS = (8, 64)
"""Least and most tokens of each row at one width."""
CONTEXTS = 4
"""Prompts that rows of a timed step go on from."""
END_STARTS = 2
"""Starts of a command that the last job, verification and summary take: 2 s and 1 s, measured."""
SHARED = (0.25, 2.0)
"""Least and most that a shared token may take of one's own: a difference of timings is noisy."""
LEAST_SHARED = 0.05
"""Of the computed tokens; where fewer are shared, these are not timed apart."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, as measured.

    Attributes:
        own: a prompt token that one row needs, joining the batch included.
        shared: a prompt token that several rows need.
        steps: a step of so many rows.
        start: all but the rows, which is mostly until a worker's engine is ready.
        spread: how far two timings of the same lie apart, as a share of them.
    """

    own: float
    shared: float
    steps: dict[int, float]
    start: float
    spread: float

    def step(self, rows: int) -> float:
        """Return what a step of so many rows takes, between the widths that were timed."""
        known = sorted(self.steps.items())
        for (low, short), (high, long) in pairwise(known):
            if low <= rows <= high:
                return short + (long - short) * (rows - low) / (high - low)
        return known[-1][1] if rows > known[-1][0] else known[0][1]

    def prefill(self, planned: Seq[Planned]) -> float:
        """Return what all prompts take."""
        own, shared = sum(each.own for each in planned), sum(each.shared for each in planned)
        return own * self.own + shared * self.shared


Clock = Callable[[], float]


def measure(
    core: EngineCore, sample: Seq[SampleRow], width: int, *, start: float, clock: Clock
) -> Timings:
    """Time a few prompts, and steps at the batch's width and at narrower ones.

    Args:
        sample: rows of the input that would run; at least one.
        width: most rows side by side.
        start: seconds of a run beside its rows.
        clock: tells seconds.
    """
    prober = _Prober(core, clock)
    contexts = _contexts(sample)
    params = [sampled.request.params for sampled in _spaced(sample, min(width, len(sample)))]
    own, shared = prober.prompts(sample)  # first: steps leave prefixes that these are to compute
    first = prober.step(contexts, params, width)
    widths = sorted({1, width // 4, width // 2} - {0, width})
    steps = {each: prober.step(contexts, params, each) for each in widths}
    last = prober.step(contexts, params, width)
    steps[width] = (first + last) / 2
    return Timings(own, shared, steps, start, abs(first - last) / (first + last))


def overhead(clock: Clock) -> float:
    """Return how long a run takes beside its rows and the loading of the model.

    The command, the worker and its engine start one after the other.
    """
    started = _import("worker.cli.app", clock)
    return (2 + END_STARTS) * started + _import("vllm_mlx.models.loading", clock)


def _import(module: str, clock: Clock) -> float:
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    command = [sys.executable, "-P", "-c", f"import {module}"]
    started = clock()
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    return clock() - started


class _Prober:
    """Has an engine compute a little, and looks at a clock."""

    def __init__(self, core: EngineCore, clock: Clock) -> None:
        self._core = core
        self._clock = clock

    def prompts(self, sample: Seq[SampleRow]) -> tuple[float, float]:
        """Return the seconds of a prompt token of a row's own, and of one that is shared."""
        computed = sum(each.planned.own + each.planned.shared for each in sample)
        shared = sum(each.planned.shared for each in sample)
        mean = max(1.0, sum(each.planned.own for each in sample) / len(sample))
        bounds = self._core.runner.bounds
        rows = int(2 * bounds.max_num_batched_tokens / mean)
        rows = max(1, min(rows, bounds.max_num_seqs, len(sample)))
        self._read(sample[:1])  # what happens once happens here
        if shared <= LEAST_SHARED * computed or len(sample) < 4:
            seconds, tokens = self._read(_by_own(sample, rows))
            return seconds / tokens, seconds / tokens
        rows = max(2, min(rows, len(sample) // 2))
        both = _by_own(sample, 2 * rows)
        first, others = both[::2], both[1::2]
        seconds, tokens = self._read(first)
        more_seconds, more_tokens = self._read(others)  # their prefixes are there
        own = more_seconds / more_tokens
        if (prefixes := tokens - more_tokens) <= LEAST_SHARED * tokens:
            return own, own
        found = (seconds - more_seconds) / prefixes
        return own, min(SHARED[1] * own, max(SHARED[0] * own, found))

    def step(self, contexts: Seq[Request], params: Seq[SamplingParams], width: int) -> float:
        """Return the seconds of a step of so many rows, text and all."""
        few = self._run_steps(contexts, params, width, STEPS[0])
        tokens = min(STEPS[1], int(POINT_SECONDS / few))
        if tokens <= STEPS[0]:
            return few
        return self._run_steps(contexts, params, width, tokens)

    def _run_steps(
        self,
        contexts: Seq[Request],
        params: Seq[SamplingParams],
        width: int,
        tokens: int,
    ) -> float:
        """Decode rows of a few prompts, and time it from when the last one has its first token."""
        at: list[list[tuple[float, int]]] = [[] for _ in range(width)]

        def note(times: list[tuple[float, int]], output: GenerationOutput) -> None:
            times.append((self._clock(), output.completion_tokens))

        requests = []
        for row in range(width):  # rows of one prompt follow each other, and it is read once
            context = contexts[row * len(contexts) // width]
            asked = _asked(context, params[row % len(params)], tokens)
            requests.append(replace(asked, on_chunk=partial(note, at[row])))
        started = self._clock()
        for future in self._core.submit(*requests):
            future.result()
        joined = max(times[0][0] for times in at if times)
        ended = max(times[-1][0] for times in at if times)
        made = sum(
            times[-1][1] - max(count for when, count in times if when <= joined)
            for times in at
            if times
        )
        if made < width:  # nothing is decoded, or rows wait for each other
            total = sum(times[-1][1] for times in at if times)
            return (self._clock() - started) * width / max(1, total)
        return (ended - joined) * width / made

    def _read(self, sample: Seq[SampleRow]) -> tuple[float, int]:
        """Have prompts computed; return the seconds, and the tokens that were computed."""
        before, started = self._core.stats, self._clock()
        requests = [_asked(each.request, each.request.params, 1) for each in sample]
        for future in self._core.submit(*requests):
            future.result()
        seconds, after = self._clock() - started, self._core.stats
        computed = after.prompt_tokens - before.prompt_tokens
        return seconds, max(1, computed - (after.cached_tokens - before.cached_tokens))


def _by_own(sample: Seq[SampleRow], count: int) -> list[SampleRow]:
    return _spaced(sorted(sample, key=lambda each: each.planned.own), count)


def _spaced(sample: Seq[SampleRow], count: int) -> list[SampleRow]:
    """Return so many of them, from everywhere between the first and the last."""
    return [sample[int((at + 0.5) * len(sample) / count)] for at in range(count)]


def _contexts(sample: Seq[SampleRow]) -> list[Request]:
    """Return rows as long as those that are decoded, by the steps that they take part in."""
    ordered = sorted(sample, key=lambda each: each.planned.tokens)
    total = sum(each.planned.most for each in ordered) or len(ordered)
    found: list[Request] = []
    passed = 0.0
    for each in ordered:
        share = (each.planned.most or 1) / total
        wanted = (len(found) + 0.5) / CONTEXTS
        if passed <= wanted < passed + share or (not found and passed + share >= wanted):
            found.append(each.request)
        passed += share
    return found or [ordered[-1].request]


def _asked(request: Request, params: SamplingParams, tokens: int) -> Request:
    """Return a request for so many tokens, which ends no sooner where nothing holds it."""
    changes: dict[str, object] = {"max_tokens": tokens, "min_tokens": 0}
    if params.score_choices:
        changes |= {"score_choices": False, "structured_outputs": None}
    if not params.structured_outputs or params.score_choices:
        changes |= {"ignore_eos": True, "stop": None, "stop_token_ids": None}
    asked = params.model_copy(update=changes)
    return replace(request, params=asked, request_id=new_request_id())
