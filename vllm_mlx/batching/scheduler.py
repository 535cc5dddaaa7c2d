"""`Scheduler`: which sequences run. `schedule → run → postprocess`, state in two places."""

from __future__ import annotations

import logging
from collections import deque

from vllm_mlx.batching.runner import Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import EngineError

logger = logging.getLogger(__name__)


class Scheduler:
    """First come, first served, up to `max_num_seqs` sequences side by side."""

    def __init__(self, runner: Runner, eos_token_ids: set[int], max_num_seqs: int) -> None:
        self._runner = runner
        self._eos_token_ids = eos_token_ids
        self.max_num_seqs = max_num_seqs
        self.waiting: deque[Sequence] = deque()
        self.running: dict[str, Sequence] = {}

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    def unfinished(self) -> list[Sequence]:
        return [*self.running.values(), *self.waiting]

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, request_id: str) -> Sequence | None:
        """Take a sequence out, wherever it is; its place is free at once."""
        if sequence := self.running.pop(request_id, None):
            self._runner.remove(sequence)
            return sequence
        for sequence in self.waiting:
            if sequence.request_id == request_id:
                self.waiting.remove(sequence)
                return sequence
        return None

    def step(self) -> list[Sequence]:
        """One round; returns the sequences that got a token.

        If the model raises, the sequences that ran are tried again one at a time, so that only
        the one that breaks it fails.
        """
        try:
            self._schedule()
            produced = self._runner.step()
        except Exception as error:
            self._isolate(error)
            return []
        return [self._postprocess(sequence, token) for sequence, token in produced]

    def _schedule(self) -> None:
        while self.waiting and self._may_join(self.waiting[0]):
            sequence = self.waiting.popleft()
            self.running[sequence.request_id] = sequence
            self._runner.insert(sequence)

    def _may_join(self, sequence: Sequence) -> bool:
        if not self.running:
            return True
        if sequence.alone or any(running.alone for running in self.running.values()):
            return False
        return len(self.running) < self.max_num_seqs

    def _postprocess(self, sequence: Sequence, token: int) -> Sequence:
        try:
            sequence.append(token, self._eos_token_ids)
        except Exception as error:
            self._fail(sequence, error)
        if sequence.finish_reason or sequence.future.done():
            self.remove(sequence.request_id)
        return sequence

    def _isolate(self, error: Exception) -> None:
        victims = list(self.running.values())
        self.running.clear()
        self._runner.close()
        logger.warning("a step of %d sequences failed", len(victims), exc_info=error)
        for sequence in reversed(victims):
            if len(victims) == 1 or sequence.started_streaming:
                self._fail(sequence, error)
            else:
                sequence.restart()
                sequence.alone = True
                self.waiting.appendleft(sequence)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        failure = EngineError(f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        sequence.fail(failure)
