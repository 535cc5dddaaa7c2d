"""`Scheduler`: which sequences run. `schedule → run → postprocess`, state in two places."""

from __future__ import annotations

import logging
from collections import deque

from vllm_mlx import platform
from vllm_mlx.batching.runners.runner import PrefillError, Produced, Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import EngineError, NonFiniteLogitsError
from vllm_mlx.outputs import EngineStats
from vllm_mlx.scheduler_config import WINDOW

logger = logging.getLogger(__name__)

QUIET = 4096
"""Steps without a failure of the GPU after which a batch may be as large again as it was."""


class Scheduler:
    """Keeps the runner's batch full.

    Sequences start in the order in which they were added. Of those of one `turn` (rows of jobs have
    none) the longest answers within a window start first, so that the batch stays full to the end
    of a job, and those that begin alike stay together.
    """

    def __init__(self, runner: Runner, eos_token_ids: set[int]) -> None:
        self._runner = runner
        self._eos_token_ids = eos_token_ids
        self._bounds = runner.bounds
        self._refill_share = platform.refill_share()
        self._quiet = 0  # steps since the GPU failed
        self._waiting: deque[Sequence] = deque()
        self._window: deque[Sequence] = deque()
        self.running: dict[str, Sequence] = {}

    @property
    def max_num_seqs(self) -> int:
        """Most sequences side by side; fewer than once where the GPU has failed."""
        return self._runner.bounds.max_num_seqs

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._window)

    @property
    def has_unfinished(self) -> bool:
        return bool(self._waiting or self._window or self.running)

    @property
    def stats(self) -> EngineStats:
        """Counts so far, and what is held now."""
        return self._runner.counters.stats(
            running=len(self.running),
            waiting=self.waiting,
            max_num_seqs=self.max_num_seqs,
            slots=self._runner.slots,
            kv_cache_bytes=self._runner.kv_cache_bytes,
            way=self._runner.way,
        )

    def add(self, sequence: Sequence) -> None:
        sequence.end_at(self._eos_token_ids)
        self._runner.announce(sequence)
        self._waiting.append(sequence)

    def remove(self, request_id: str) -> Sequence | None:
        """Take a sequence out, wherever it is; its place is free at once."""
        if sequence := self.running.pop(request_id, None):
            self._runner.remove(sequence)
            return sequence
        for queue in (self._window, self._waiting):
            for sequence in queue:
                if sequence.request_id == request_id:
                    queue.remove(sequence)
                    self._runner.withdraw(sequence)
                    return sequence
        return None

    def step(self) -> list[Sequence]:
        """Run one round; return the sequences that got a token.

        If the model raises, the sequences that ran are tried again one at a time, so that only
        the one that breaks it fails; if it raised over prompts, only those whose they are. If the
        GPU fails, they are tried again together in a smaller batch.
        """
        counters = self._runner.counters
        try:
            with counters.timed("schedule"):
                self._schedule()
            produced = self._runner.step()
        except PrefillError as error:
            self._isolate(error.sequences, error.reason)
            return []
        except Exception as error:
            rows = list(self.running.values())
            failed = platform.is_device_failure(error)
            if failed:
                self._runner.recover()
            else:
                self._runner.close()
            if failed and not (self._runner.bounds.is_least and all(row.alone for row in rows)):
                self._start_smaller(rows, error)
            else:
                self._isolate(rows, error)
            return []
        self._grow_back()
        with counters.timed("deliver"):
            return [self._postprocess(each) for each in produced]

    def _schedule(self) -> None:
        """Admit what fits, several at once: prefill of a few costs a GPU as much as of one."""
        free = self.max_num_seqs - len(self.running)
        refill = max(1, int(self.max_num_seqs * self._refill_share))
        if self.running and free < min(refill, self.waiting):
            return
        admitted: list[Sequence] = []
        while (sequence := self._next()) and self._may_join(sequence):
            self._window.popleft()
            self.running[sequence.request_id] = sequence
            admitted.append(sequence)
            if sequence.on_begin:
                sequence.on_begin()
            self._runner.reserve(sequence)
        if admitted:
            self._runner.insert(admitted)

    def _next(self) -> Sequence | None:
        if not self._window and self._waiting:
            window = [self._waiting.popleft()]
            while self._may_reorder(window):
                window.append(self._waiting.popleft())
            self._window.extend(self._ordered(window))
        return self._window[0] if self._window else None

    def _may_reorder(self, window: list[Sequence]) -> bool:
        """Whether the next one that waits may start before those of the window."""
        if not self._waiting or len(window) == WINDOW * self.max_num_seqs:
            return False
        return window[0].turn == self._waiting[0].turn

    def _ordered(self, window: list[Sequence]) -> list[Sequence]:
        first: dict[int, int] = {}
        kin = [self._runner.affinity(sequence) for sequence in window]
        place = [first.setdefault(k, i) if k else i for i, k in enumerate(kin)]
        order = sorted(range(len(window)), key=lambda i: (-window[i].max_tokens, place[i]))
        return [window[i] for i in order]

    def _may_join(self, sequence: Sequence) -> bool:
        if not self.running:
            return True
        if sequence.alone or any(running.alone for running in self.running.values()):
            return False
        return len(self.running) < self.max_num_seqs and self._runner.admits(sequence)

    def _postprocess(self, produced: Produced) -> Sequence:
        sequence, token, logprobs = produced
        held = len(sequence.output_tokens)
        try:
            if token is None:
                sequence.end()
            elif token < 0:
                raise NonFiniteLogitsError("the model's logits are not finite (NaN or infinity)")
            else:
                sequence.append(token, logprobs)
        except Exception as error:
            self._fail(sequence, error)
        self._runner.counters.completion_tokens += len(sequence.output_tokens) - held
        if sequence.finish_reason or sequence.future.done():
            self.remove(sequence.request_id)
        return sequence

    def _start_smaller(self, rows: list[Sequence], error: Exception) -> None:
        """Run all again together: the GPU failed over all of them, and no row is to blame."""
        bounds = self._runner.bounds.halved(len(rows))
        logger.warning(
            "the GPU failed over %d sequences; they start again, %d at a time and %d bytes: %s",
            len(rows),
            bounds.max_num_seqs,
            bounds.kv_cache_bytes,
            error,
        )
        last_chance = self._runner.bounds.is_least
        self._runner.rebound(bounds)
        self._quiet = 0
        self._start_over(rows, error, alone=last_chance)

    def _grow_back(self) -> None:
        self._quiet += 1
        if self._quiet == QUIET and self._runner.bounds != self._bounds:
            self._runner.rebound(self._bounds)

    def _isolate(self, rows: list[Sequence], error: Exception) -> None:
        """Run each again alone; one that ran alone fails."""
        logger.warning("a step of %d sequences failed", len(rows), exc_info=error)
        if len(self.running) > 1:
            self._start_over(rows, error, alone=True)
            return
        if self._runner.bounds.is_least:  # it was this row that the GPU failed over
            self._runner.rebound(self._bounds)
        for sequence in rows:
            self._take_out(sequence)
            self._fail(sequence, error)

    def _start_over(self, rows: list[Sequence], error: Exception, *, alone: bool = False) -> None:
        for sequence in reversed(rows):
            self._take_out(sequence)
            if sequence.started_streaming:
                self._fail(sequence, error)
                continue
            sequence.restart()
            sequence.alone |= alone
            self._runner.announce(sequence)
            self._window.appendleft(sequence)

    def _take_out(self, sequence: Sequence) -> None:
        self.running.pop(sequence.request_id, None)
        self._runner.withdraw(sequence)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        if not isinstance(error, EngineError):
            failure = EngineError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            error = failure
        sequence.fail(error)
