"""`MediaStore`: prepared pixels, each read once and held while somebody may need them."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes."""


T = TypeVar("T", bound=Sized)


class MediaStore(Generic[T]):
    """Things by key, made once however many ask at the same time. Every method is thread-safe.

    Args:
        max_bytes: most that is held. What is pinned is held beyond that, so whoever prepares more
            calls `wait_for_room()` before.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._condition = threading.Condition()
        self._held: OrderedDict[str, T] = OrderedDict()
        self._making: dict[str, Future[T]] = {}
        self._pins: Counter[str] = Counter()
        self._is_closed = False

    @property
    def nbytes(self) -> int:
        with self._condition:
            return self._size()

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The thing of that key; who asks first makes it, all others wait for that."""
        with self._condition:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            future = self._making.get(key)
            is_mine = future is None
            if future is None:
                future = self._making[key] = Future()
        if is_mine:
            self._make(key, make, future)
        return future.result()

    def pin(self, key: str) -> None:
        """Hold it from now on; as often as it is pinned, it must be unpinned."""
        with self._condition:
            self._pins[key] += 1

    def unpin(self, key: str, *, keep: bool = True) -> None:
        """Undo a `pin()`; without `keep`, it is dropped when nobody has it pinned."""
        with self._condition:
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]
                if not keep:
                    self._held.pop(key, None)
            self._evict()
            self._condition.notify_all()

    def wait_for_room(self) -> None:
        """Return when less than `max_bytes` is pinned, or the store is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._pinned() < self.max_bytes)

    def close(self) -> None:
        """Let go of everything, and of whoever waits for room."""
        with self._condition:
            self._is_closed = True
            self._held.clear()
            self._condition.notify_all()

    def _make(self, key: str, make: Callable[[], T], future: Future[T]) -> None:
        try:
            made = make()
        except BaseException as error:
            with self._condition:
                del self._making[key]
            future.set_exception(error)
            return
        with self._condition:
            del self._making[key]
            if not self._is_closed:
                self._held[key] = made
                self._evict()
        future.set_result(made)

    def _evict(self) -> None:
        """Drop what nobody has pinned, the least recently used first."""
        for key in [key for key in self._held if key not in self._pins]:
            if self._size() <= self.max_bytes:
                return
            del self._held[key]

    def _size(self) -> int:
        return sum(each.nbytes for each in self._held.values())

    def _pinned(self) -> int:
        return sum(each.nbytes for key, each in self._held.items() if key in self._pins)
