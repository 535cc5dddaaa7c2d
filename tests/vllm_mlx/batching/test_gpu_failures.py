"""A GPU that fails as Metal does: the rows start again in a smaller batch, and none is blamed."""

from __future__ import annotations

import logging

import mlx.core as mx
import pytest

from tests.helpers.decoding import VOCAB, new_scheduler, sequence, sequential, step, tiny_llama
from tests.helpers.metal import OUT_OF_MEMORY, TOO_SLOW, FailingGPU, choose_as_metal
from vllm_mlx import platform
from vllm_mlx.batching import scheduler as scheduling
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.runners.one_by_one import text_runner
from vllm_mlx.batching.runners.split import SplitRunner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.errors import EngineError, ModelLoadError
from vllm_mlx.scheduler_config import Bounds

MODEL = tiny_llama()
ROWS = [([3 + i, 1, 4 + i % 3, 1, 5, 9, 2 + i], 4 + 3 * i) for i in range(8)]


@pytest.fixture
def on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are asked for before tokens are believed."""
    choose_as_metal(monkeypatch)


def failing(
    patch: pytest.MonkeyPatch, error: str = OUT_OF_MEMORY, lag: int = 0, **bounds: int
) -> tuple[FailingGPU, Scheduler]:
    gpu = FailingGPU(patch, MODEL, error, lag)
    scheduler = new_scheduler(gpu, **{"max_num_seqs": 8, **bounds})
    assert isinstance(scheduler._runner, SlotRunner)
    gpu.calls.clear()
    return gpu, scheduler


def answer(scheduler: Scheduler, rows: list[Sequence]) -> None:
    for row in rows:
        scheduler.add(row)
    while scheduler.has_unfinished:
        step(scheduler)


def assert_right(rows: list[Sequence]) -> None:
    for row in rows:
        row.future.result(0)
        assert row.output_tokens == sequential(MODEL, row.prompt_tokens, row.max_tokens)


def rows_of(count: int = len(ROWS)) -> list[Sequence]:
    return [sequence(str(i), *each) for i, each in enumerate(ROWS[:count])]


@pytest.mark.usefixtures("on_metal")
@pytest.mark.parametrize("lag", [0, 1, 2, 3])
@pytest.mark.parametrize(("fails_at", "error"), [(2, OUT_OF_MEMORY), (5, TOO_SLOW), (9, TOO_SLOW)])
def test_all_start_again_together_in_a_smaller_batch(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: str,
    lag: int,
    fails_at: int,
) -> None:
    gpu, scheduler = failing(monkeypatch, error, lag)
    gpu.fails_at = {fails_at}
    rows = rows_of()
    answer(scheduler, rows)

    assert gpu.raised == 1
    assert_right(rows)
    assert not any(row.alone for row in rows)
    assert scheduler.max_num_seqs < 8
    assert max(width for width, _ in gpu.calls[fails_at + lag + 2 :]) <= 4
    (said,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert error in said.getMessage()


@pytest.mark.usefixtures("on_metal")
@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_decode_that_failed_is_not_the_fault_of_the_prompts_that_come_after(
    monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    """The failure surfaces in a prefill; what decoded beside it has bad keys."""
    gpu, scheduler = failing(monkeypatch, lag=lag)
    decoding = [sequence(f"old {i}", [7, 3 + i, 5], 20) for i in range(2)]
    for row in decoding:
        scheduler.add(row)
    while not all(len(row.output_tokens) > 2 for row in decoding):
        step(scheduler)
    gpu.fails_at = {len(gpu.calls) + 1}
    step(scheduler)  # launches what fails
    late = [sequence(f"new {i}", [9, 9, i] * 20, 5) for i in range(3)]
    answer(scheduler, late)

    assert gpu.raised == 1
    assert_right(decoding + late)


@pytest.mark.usefixtures("on_metal")
@pytest.mark.parametrize("kind", ["batches", "alone", "split"])
@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("fails_at", [1, 8])
def test_other_runners_start_again_too(
    monkeypatch: pytest.MonkeyPatch, kind: str, lag: int, fails_at: int
) -> None:
    gpu = FailingGPU(monkeypatch, MODEL, lag=lag)
    bounds = Bounds(8, 64, 1 << 30)
    batches = UpstreamRunner(gpu, vocab_size=VOCAB, bounds=bounds)
    alone = text_runner(gpu, vocab_size=VOCAB, bounds=bounds)
    runners = {"batches": batches, "alone": alone, "split": SplitRunner(batches, alone)}
    scheduler = Scheduler(runners[kind], set())
    gpu.calls.clear()
    gpu.fails_at = {fails_at}
    rows = rows_of(6)
    answer(scheduler, rows)

    assert gpu.raised == 1
    assert_right(rows)
    assert scheduler._runner.bounds.max_num_batched_tokens < 64 or scheduler.max_num_seqs < 8
    assert batches.bounds == scheduler._runner.bounds or kind == "alone"


def test_what_is_kept_of_media_may_be_spoiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, scheduler = failing(monkeypatch)
    forgotten: list[int] = []
    gpu.forget = lambda: forgotten.append(gpu.raised)
    gpu.fails_at = {4}
    rows = rows_of(3)
    answer(scheduler, rows)

    assert forgotten == [1]
    assert_right(rows)


def test_it_halves_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, scheduler = failing(monkeypatch, kv_cache_bytes=1 << 20)
    runner = scheduler._runner
    gpu.too_wide = 3
    rows = rows_of()
    before = runner.refusal(1000, 500), runner.refusal(500, 500)
    answer(scheduler, rows)

    assert_right(rows)
    assert gpu.raised == 2
    assert (scheduler.max_num_seqs, runner.bounds.kv_cache_bytes) == (2, 1 << 18)
    assert runner._budget.total_bytes == 1 << 18
    # A failure that may pass is no reason to refuse what fits by the bounds that were asked for.
    assert (runner.refusal(1000, 500), runner.refusal(500, 500)) == before


@pytest.mark.parametrize("kind", ["slots", "batches"])
def test_after_many_steps_without_a_failure_the_batch_is_as_large_as_it_was(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(scheduling, "QUIET", 12)
    gpu, scheduler = failing(monkeypatch)
    if kind == "batches":
        bounds = scheduler._runner.bounds
        scheduler = Scheduler(UpstreamRunner(gpu, vocab_size=VOCAB, bounds=bounds), set())
        gpu.calls.clear()
    gpu.fails_at = {5}
    bounds = scheduler._runner.bounds
    rows = [*rows_of(), *(sequence(f"more {i}", *each) for i, each in enumerate(ROWS))]
    answer(scheduler, rows)

    assert gpu.raised == 1
    assert_right(rows)
    assert scheduler._runner.bounds == bounds
    assert max(width for width, _ in gpu.calls[20:]) == 8


def test_a_row_that_no_gpu_can_hold_fails_at_last_and_the_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, scheduler = failing(monkeypatch)
    bounds = scheduler._runner.bounds
    rows, bad = rows_of(5), sequence("bad", [7] * 30, 5)
    launch = SlotRunner._launch

    def fail(self: SlotRunner, before: object) -> object:
        if bad in self._slot_of:
            raise RuntimeError("[metal::malloc] Attempting to allocate 99 bytes")
        return launch(self, before)  # type: ignore[arg-type]

    monkeypatch.setattr(SlotRunner, "_launch", fail)
    answer(scheduler, [*rows[:2], bad, *rows[2:]])

    assert_right(rows)
    with pytest.raises(EngineError, match="Attempting to allocate"):
        bad.future.result(0)
    assert scheduler._runner.bounds == bounds


def test_a_stream_that_has_shown_text_can_not_start_over(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, scheduler = failing(monkeypatch)
    shown, rows = sequence("shown", [3, 5, 7], 30), rows_of(3)
    shown.on_chunk = lambda _: None
    scheduler.add(shown)
    while not shown.output_tokens:
        step(scheduler)
    gpu.fails_at = {len(gpu.calls) + 1}
    answer(scheduler, rows)

    assert_right(rows)
    with pytest.raises(EngineError, match="Insufficient Memory"):
        shown.future.result(0)


def test_a_failure_at_load_says_nothing_of_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FailingGPU(monkeypatch, MODEL)
    gpu.too_wide = 1
    with pytest.raises(ModelLoadError, match=r"GPU failed .* Insufficient Memory"):
        make_runner(gpu, vocab_size=VOCAB)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (RuntimeError(OUT_OF_MEMORY), True),
        (RuntimeError(TOO_SLOW), True),
        (RuntimeError("[metal::malloc] Attempting to allocate 9 bytes which is greater"), True),
        (RuntimeError("[malloc] Unable to allocate 9 bytes."), True),
        (RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[matmul] Last dimension of first input must match"), False),
        (ValueError("[METAL] is no place for this"), False),
    ],
)
def test_what_a_failure_of_the_device_is(error: Exception, is_one: bool) -> None:
    assert platform.is_device_failure(error) is is_one


def test_what_failed_is_reported_before_the_rows_start_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several command buffers are on their way, and each that fails is raised at another call."""
    left = ["[METAL] Command buffer execution failed: Ignored"] * 3
    synchronize = mx.synchronize

    def wait(stream: object = None) -> None:
        if left:
            raise RuntimeError(left.pop())
        synchronize(stream)

    monkeypatch.setattr(mx, "synchronize", wait)
    platform.recover()
    assert left == []
