"""Shared prefixes: found among all waiting prompts, computed once, kept while they may be of use.

A prompt is cut into blocks; each block has a hash of itself and all before it. How many waiting
prompts carry a hash says how many begin with those tokens (the idea of vLLM's automatic prefix
caching). A prefix ends where that number drops: there the prompts part.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

import mlx.core as mx

from vllm_mlx.batching.logits.logprobs import Logprobs
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.layout import Footprint
from vllm_mlx.batching.slots.memory import Saved

BLOCK = 16
MIN_SAVED = 32
"""A prefix is kept apart if that spares at least so many tokens' computation."""


@dataclass(eq=False, slots=True)
class Prefix:
    """Tokens that several prompts begin with.

    Attributes:
        key: the chained hash of its last block.
        tokens: see `Sequence.identities`.
        start: where it goes on from its parent; `tokens[start:]` is its own part.
        saved: what each memory of the model keeps of its own part, once that is computed.
        scores: of its own part, from the prompt's second token on, where these are asked for.
        logits: of the token that follows it, `[V]`, likewise.
        users: rows in prefill that need it, and prefixes that go on from it.
    """

    key: int
    tokens: list[int]
    parent: Prefix | None
    saved: list[Saved] = field(default_factory=list)
    users: int = 0
    scores: list[Logprobs] = field(default_factory=list)
    logits: mx.array | None = None

    @property
    def start(self) -> int:
        return self.parent.end if self.parent else 0

    @property
    def end(self) -> int:
        return len(self.tokens)

    @property
    def chain(self) -> list[Prefix]:
        """The prefixes from the root to this one."""
        return [*(self.parent.chain if self.parent else []), self]


class PrefixCache:
    """Counts what waiting prompts share, and keeps the prefixes that were computed.

    Args:
        max_bytes: most bytes held; the least recently used prefixes go first.
        footprint: what they take.

    Attributes:
        reserved_bytes: what those held take once they are computed.
    """

    def __init__(self, max_bytes: int, footprint: Footprint) -> None:
        self.max_bytes = max_bytes
        self._footprint = footprint
        self.reserved_bytes = 0
        self._waiting: Counter[int] = Counter()
        self._blocks: dict[str, list[tuple[int, int]]] = {}
        self._prefixes: OrderedDict[int, Prefix] = OrderedDict()

    def announce(self, sequence: Sequence) -> None:
        """Count a sequence that waits, once."""
        self.withdraw(sequence)
        # What is embedded by its model must come before it with a token at least.
        own = 2 if sequence.media and sequence.media.alone else 1
        last, kind = len(sequence.prompt_tokens) - own, 0
        if scores := sequence.scores:
            if scores.of_all:  # prefixes that tell of their tokens are of a kind of their own
                kind = 1 + scores.top
            else:
                last = min(last, scores.first - 1)
        blocks = _hash_blocks(sequence.identities, last, kind)
        self._blocks[sequence.request_id] = blocks
        self._waiting.update(key for key, _ in blocks)
        self._waiting.update(self._expected(sequence, blocks))

    def withdraw(self, sequence: Sequence) -> None:
        """Forget a sequence that waits no more."""
        blocks = self._blocks.pop(sequence.request_id, [])
        for key in [*(key for key, _ in blocks), *self._expected(sequence, blocks)]:
            if self._waiting[key] > 1:
                self._waiting[key] -= 1
            else:
                del self._waiting[key]

    def longest(self, sequence: Sequence) -> tuple[Prefix | None, list[Prefix]]:
        """Return the longest prefix that is worth sharing, and those of its chain that are new.

        The new ones have no `saved` yet; the caller computes them, parents first. What there is
        no room for is not shared.
        """
        blocks = self._blocks[sequence.request_id]
        prompt = sequence.identities
        prefix = self._deepest_known(blocks, prompt)
        new: list[Prefix] = []
        for (key, end), following in zip(blocks, [*blocks[1:], None], strict=False):
            start = prefix.end if prefix else 0
            sharing = self._waiting[key]
            parting = following is None or self._waiting[following[0]] < sharing
            if end > start and parting and (end - start) * (sharing - 1) >= MIN_SAVED:
                if prefix:
                    prefix.users += 1  # it stays while the new one lives, or is made room for
                if not self._make_room(self._footprint.prefix(start, end)):
                    if prefix:
                        prefix.users -= 1
                    break
                prefix = Prefix(key, prompt[:end], prefix)
                new.append(prefix)
                self._add(prefix)
        return prefix, new

    def shared_with(self, sequence: Sequence) -> int:
        """Return a number equal for sequences whose longest shared beginning is the same."""
        shared = [key for key, _ in self._blocks[sequence.request_id] if self._waiting[key] > 1]
        return shared[-1] if shared else 0

    def discard(self, prefix: Prefix) -> None:
        """Forget a prefix that is not computed after all."""
        prefix.users -= 1
        self._drop(prefix)

    def clear(self) -> None:
        """Forget what is computed; what waits stays counted."""
        self._prefixes.clear()
        self.reserved_bytes = 0

    @property
    def nbytes(self) -> int:
        saved = [each for prefix in list(self._prefixes.values()) for each in prefix.saved]
        return sum(array.nbytes for arrays in saved for array in arrays if array is not None)

    @staticmethod
    def _expected(sequence: Sequence, blocks: list[tuple[int, int]]) -> list[int]:
        """Return blocks up to the end of the media, if prompts sharing these are still prepared."""
        media = sequence.media
        if media is None or not media.sharers:
            return []
        return [key for key, end in blocks if end <= media.end]

    def _deepest_known(self, blocks: list[tuple[int, int]], prompt: list[int]) -> Prefix | None:
        for key, end in reversed(blocks):
            prefix = self._prefixes.get(key)
            if prefix and prefix.tokens == prompt[:end]:  # a hash is no proof
                for each in reversed(prefix.chain):  # children go before their parents
                    self._prefixes.move_to_end(each.key)
                return prefix
        return None

    def _size(self, prefix: Prefix) -> int:
        return self._footprint.prefix(prefix.start, prefix.end)

    def _make_room(self, nbytes: int) -> bool:
        """Drop the least recently used until so many bytes more are within the bound."""
        held = list(self._prefixes.values())
        children = Counter(id(prefix.parent) for prefix in held if prefix.parent)
        in_use = [prefix for prefix in held if prefix.users > children[id(prefix)]]
        pinned = {id(each): self._size(each) for prefix in in_use for each in prefix.chain}
        if sum(pinned.values()) + nbytes > self.max_bytes:
            return False
        while self.reserved_bytes + nbytes > self.max_bytes:
            self._drop(next(prefix for prefix in self._prefixes.values() if not prefix.users))
        return True

    def _add(self, prefix: Prefix) -> None:
        if replaced := self._prefixes.get(prefix.key):  # another one of the same hash
            self._drop(replaced)
        self._prefixes[prefix.key] = prefix
        self.reserved_bytes += self._size(prefix)

    def _drop(self, prefix: Prefix) -> None:
        if self._prefixes.get(prefix.key) is not prefix:
            return  # another one of the same hash took its place
        del self._prefixes[prefix.key]
        self.reserved_bytes -= self._size(prefix)
        if prefix.parent:
            prefix.parent.users -= 1


def _hash_blocks(prompt: list[int], last: int, kind: int = 0) -> list[tuple[int, int]]:
    """Return `(chained hash, end)` of each block of the first `last` tokens of a prompt.

    The last block may be short, so that equal prompts share all they can.
    """
    blocks: list[tuple[int, int]] = []
    key = kind
    for start in range(0, last, BLOCK):
        end = min(start + BLOCK, last)
        key = hash((key, *prompt[start:end]))
        blocks.append((key, end))
    return blocks
