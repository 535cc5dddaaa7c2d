"""`MediaStore`: prepared pixels, each read once and held while needed; and hashes to name them."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

_new_digest = partial(hashlib.blake2b, digest_size=20)


def file_hash(path: Path) -> str:
    """Return the hexadecimal hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_digest).hexdigest()


def content_hash(pixels: NDArray[Any]) -> str:
    """Return the hexadecimal hash of an array, its shape and its dtype."""
    digest = _new_digest(f"{pixels.shape} {pixels.dtype.str}\n".encode())
    digest.update(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class Sized(Protocol):
    """An object with a size in bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes."""


T = TypeVar("T", bound=Sized)


class MediaStore(Generic[T]):
    """Things by key, made once however many ask at the same time. Every method is thread-safe.

    Args:
        max_bytes: most that is held. What is pinned is held beyond that, so call
            `wait_for_room()` before more is prepared.

    Attributes:
        nbytes, pinned_nbytes: what is held, and what of it is pinned.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._condition = threading.Condition()
        self._held: dict[str, T] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()  # of these, what is not pinned
        self._making: dict[str, Future[T]] = {}
        self._pins: Counter[str] = Counter()
        self.nbytes = self.pinned_nbytes = 0
        self._is_closed = False

    def get(self, key: str, make: Callable[[], T]) -> T:
        """Return the thing of that key; the first call makes it, all others wait for that."""
        with self._condition:
            if key in self._held:
                if key in self._idle:
                    self._idle.move_to_end(key)
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
            if key in self._idle:
                del self._idle[key]
                self.pinned_nbytes += self._held[key].nbytes

    def unpin(self, key: str, *, keep: bool = True) -> None:
        """Undo a `pin()`; without `keep`, it is dropped when it is not pinned any more."""
        with self._condition:
            self._pins[key] -= 1
            if self._pins[key]:
                return
            del self._pins[key]
            if key in self._held:
                self.pinned_nbytes -= self._held[key].nbytes
                self._idle[key] = None
                if not keep:
                    self._drop(key)
                self._evict()
                self._condition.notify_all()

    def wait_for_room(self) -> None:
        """Return when less than `max_bytes` is pinned, or the store is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self.pinned_nbytes < self.max_bytes)

    def close(self) -> None:
        """Let go of everything, and end all waits for room."""
        with self._condition:
            self._is_closed = True
            self._held.clear()
            self._idle.clear()
            self.nbytes = self.pinned_nbytes = 0
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
                self._hold(key, made)
        future.set_result(made)

    def _hold(self, key: str, made: T) -> None:
        self._held[key] = made
        self.nbytes += made.nbytes
        if key in self._pins:
            self.pinned_nbytes += made.nbytes
        else:
            self._idle[key] = None
        self._evict()

    def _evict(self) -> None:
        """Drop what is not pinned, the least recently used first."""
        while self.nbytes > self.max_bytes and self._idle:
            self._drop(next(iter(self._idle)))

    def _drop(self, key: str) -> None:
        del self._idle[key]
        self.nbytes -= self._held.pop(key).nbytes
