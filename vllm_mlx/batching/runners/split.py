"""`SplitRunner`: rows of text in a batch, and beside them one row with media at a time."""

from __future__ import annotations

from collections import deque

from vllm_mlx import platform
from vllm_mlx.batching.runners.runner import PrefillError, Produced, Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.budget import KVBudget
from vllm_mlx.batching.slots.prefix import PrefixCache
from vllm_mlx.scheduler_config import Bounds


class SplitRunner(Runner):
    """`Runner` of a model whose media suit no batch, though its text does.

    Args:
        text: steps rows of text.
        seeing: steps one row with media; the others wait for it, and no row of text does.
    """

    def __init__(self, text: Runner, seeing: Runner) -> None:
        super().__init__(text.bounds)
        self.streams = text.streams + seeing.streams
        self.scores_prompts = text.scores_prompts  # those with media are scored nowhere
        self._text = text
        self._seeing = seeing
        self.counters = seeing.counters = text.counters
        self._waiting: deque[Sequence] = deque()
        self._seen: Sequence | None = None
        self._kept: list[Produced] = []  # of a step in which prompts of text failed

    def insert(self, sequences: list[Sequence]) -> None:
        self._waiting += [sequence for sequence in sequences if sequence.media]
        if text := [sequence for sequence in sequences if not sequence.media]:
            self._text.insert(text)

    def remove(self, sequence: Sequence) -> None:
        if sequence is self._seen:
            self._seeing.remove(sequence)
            self._seen, self._kept = None, []
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            self._text.remove(sequence)

    def step(self) -> list[Produced]:
        seen, self._kept = self._kept or self._step_seeing(), []
        try:
            return seen + self._text.step()
        except PrefillError:
            self._kept = seen
            raise

    def _step_seeing(self) -> list[Produced]:
        if self._seen is None and self._waiting:
            self._seen = self._waiting.popleft()
            self._seeing.insert([self._seen])
        if self._seen is None:
            return []
        try:
            return self._seeing.step()
        except Exception as error:  # whatever an image or a video leads a model to
            if platform.is_device_failure(error):  # perhaps of the text's decode
                raise
            failed, self._seen = [self._seen], None
            self._seeing.close()
            raise PrefillError(failed, error) from error

    def close(self) -> None:
        self._waiting.clear()
        self._seen, self._kept = None, []
        self._seeing.close()
        self._text.close()

    def recover(self) -> None:
        self.close()
        self._text.recover()
        self._seeing.recover()

    def rebound(self, bounds: Bounds) -> None:
        super().rebound(bounds)
        self._text.rebound(bounds)
        self._seeing.rebound(bounds)

    @property
    def slots(self) -> int:
        return self._text.slots + self._seeing.slots

    @property
    def kv_cache_bytes(self) -> int:
        return self._text.kv_cache_bytes + self._seeing.kv_cache_bytes

    def refusal(self, prompt_tokens: int, max_tokens: int) -> str | None:
        return self._text.refusal(prompt_tokens, max_tokens)

    @property
    def budget(self) -> KVBudget | None:
        return self._text.budget

    def new_prefixes(self) -> PrefixCache | None:
        return self._text.new_prefixes()

    def announce(self, sequence: Sequence) -> None:
        if not sequence.media:
            self._text.announce(sequence)

    def withdraw(self, sequence: Sequence) -> None:
        if not sequence.media:
            self._text.withdraw(sequence)

    def affinity(self, sequence: Sequence) -> int:
        return 0 if sequence.media else self._text.affinity(sequence)

    def admits(self, sequence: Sequence) -> bool:
        return bool(sequence.media) or self._text.admits(sequence)

    def reserve(self, sequence: Sequence) -> None:
        if not sequence.media:
            self._text.reserve(sequence)
