"""`Plan`: what a run would take and meet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.models.loading import load_model
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.plan.answers import Answers, run_some
from worker.plan.memory import Memory
from worker.plan.prompts import PlannedPrompts, Reading, histogram, read_prompts
from worker.plan.schedule import decode_seconds
from worker.plan.timings import Clock, Timings, measure, overhead

MODEL_ERROR = 0.2
"""How far a prediction is off on a quiet machine, as a share of it."""
MOST_ERROR = 0.3
"""The same where timings differ, or answers that were measured do."""
START_ERROR = 0.3

Tell = Callable[[str], None]


class Range(NamedTuple):
    """What something lies between, both included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found.

    Attributes:
        model: its name.
        way: what runs it and why, in the words of the worker's log.
        context: tokens that the model holds of a row; None if it sets no bound.
        answers: of rows that were run for it.
        output_tokens, seconds: of all rows.
        timings: None where no row would run.
    """

    model: str
    runner: str
    way: str
    context: int | None
    prompts: PlannedPrompts
    memory: Memory
    answers: Answers | None
    timings: Timings | None
    output_tokens: Range
    seconds: Range

    @property
    def fails(self) -> bool:
        """Whether a row would end in error."""
        return bool(self.prompts.failures) or bool(self.answers and self.answers.errors)

    @property
    def is_wide(self) -> bool:
        """Whether the time is known worse than where it is known how long answers get."""
        low, high = self.seconds
        return high - low > (MOST_ERROR + 0.01) * (high + low)

    def as_dict(self) -> dict[str, Any]:
        prompts = self.prompts
        return {
            "model": self.model,
            "runner": self.runner,
            "way": self.way,
            "context_length": self.context,
            "rows": prompts.rows,
            "samples": prompts.samples,
            "bad_rows": prompts.bad_rows,
            "failing_rows": prompts.failing,
            "failures": [asdict(each) for each in prompts.failures.values()],
            "duplicate_rows": prompts.duplicates,
            "copied_rows": prompts.copied,
            "prompt_tokens": prompts.prompt_tokens,
            "computed_prompt_tokens": prompts.computed_tokens,
            "histogram": histogram(prompts.planned),
            "memory": asdict(self.memory),
            "timings": self.timings and asdict(self.timings),
            "measured": self.answers and self.answers.as_dict(),
            "output_tokens": self.output_tokens,
            "seconds": self.seconds,
        }


def make_plan(
    reading: Reading,
    model: str,
    *,
    adapter: Path | None,
    config: SchedulerConfig,
    media: MediaPolicy,
    measures: bool,
    tell: Tell,
    clock: Clock = time.perf_counter,
) -> Plan:
    """Load a model, read an input as it would, and time a few rows.

    Args:
        measures: run some rows of each class of prompt lengths, too.
        tell: called with what is being done.
        clock: tells seconds; of a busy machine the processor's may say more.

    Raises:
        InputFileError: the input can't be read.
        ModelLoadError: the model can't be loaded.
    """
    tell("loading the model")
    started, held = clock(), mx.get_active_memory()
    core = EngineCore(
        model, lambda name: load_model(name, adapter_path=adapter), config, media=media
    )
    core.start()
    try:
        start, weights = clock() - started, mx.get_active_memory() - held
        prompts = read_prompts(reading, core, lambda rows: tell(f"reading prompts: {rows} rows"))
        memory = Memory.of(core, prompts.planned, weights)
        answers = timings = None
        if prompts.planned:
            tell("timing a few prompts and steps")
            start += overhead(clock)
            width = min(memory.width, len(prompts.planned))
            timings = measure(core, prompts.sample, width, start=start, clock=clock)
            if measures:
                answers = run_some(core, prompts.sample, prompts.planned, tell)
        return _plan(core, prompts, memory, answers, timings)
    finally:
        core.stop()


def _plan(
    core: EngineCore,
    prompts: PlannedPrompts,
    memory: Memory,
    answers: Answers | None,
    timings: Timings | None,
) -> Plan:
    make = partial(
        Plan,
        core.model_name,
        type(core.runner).__name__,
        core.runner.way,
        core.loaded.context_length,
        prompts,
        memory,
        answers,
        timings,
    )
    if timings is None:
        return make(Range(0, 0), Range(0, 0))
    planned = prompts.planned
    low, high = [each.least for each in planned], [each.most for each in planned]
    unsure = 0.0
    if answers:
        low = high = list(answers.draw(planned))
        unsure = min(MOST_ERROR, answers.uncertainty(planned))
    prefill = timings.prefill(planned)
    times = []
    for lengths, sign in ((low, -1), (high, 1)):
        work = prefill + (decode := decode_seconds(lengths, memory.width, timings.step))
        of_answers = unsure * decode / work if work else 0.0
        error = min(MOST_ERROR, math.hypot(max(MODEL_ERROR, timings.spread), of_answers))
        times.append(timings.start * (1 + sign * START_ERROR) + work * (1 + sign * error))
    tokens = Range(sum(low) * (1 - unsure), sum(high) * (1 + unsure))
    return make(tokens, Range(*times))
