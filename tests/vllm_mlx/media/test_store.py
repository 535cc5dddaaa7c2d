"""The store of prepared media: each made once, bounded, held while it is pinned."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

import pytest

from vllm_mlx.media.store import MediaStore


@dataclass(frozen=True)
class Thing:
    nbytes: int = 10


@pytest.fixture
def store() -> MediaStore[Thing]:
    return MediaStore(30)


def names(store: MediaStore[Thing]) -> list[str]:
    return list(store._held)


def test_it_is_made_once(store):
    first = store.get("a", Thing)
    assert store.get("a", lambda: pytest.fail("made again")) is first
    assert store.nbytes == 10


def test_many_who_ask_at_once_wait_for_one(store):
    made, begin = [], threading.Event()

    def make() -> Thing:
        begin.wait()
        made.append(1)
        return Thing()

    found: list[Thing] = []
    threads = [
        threading.Thread(target=lambda: found.append(store.get("a", make))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    begin.set()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert len(set(map(id, found))) == 1


def test_an_error_is_everybodys_and_is_not_kept(store):
    def fail() -> Thing:
        raise OSError("broken")

    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            store.get("a", fail)
    assert store.get("a", Thing).nbytes == 10


def test_the_least_recently_used_goes_first(store):
    for key in "abc":
        store.get(key, Thing)
    store.get("a", Thing)
    store.get("d", Thing)
    assert names(store) == ["a", "c", "d"]


def test_what_is_pinned_stays_and_what_is_not_goes(store):
    for key in "abcde":
        store.pin(key)
        store.get(key, Thing)
    assert (store.nbytes, store.pinned_nbytes) == (50, 50)
    store.get("f", Thing)  # too much by itself
    assert names(store) == list("abcde")
    store.unpin("c")
    store.unpin("a")
    assert (store.nbytes, store.pinned_nbytes) == (30, 30)
    assert names(store) == list("bde")
    store.unpin("b")
    assert (store.nbytes, store.pinned_nbytes) == (30, 20)


def test_a_thing_is_pinned_as_often_as_it_must_be_unpinned(store):
    store.pin("a")
    store.get("a", Thing)
    store.pin("a")
    store.unpin("a", keep=False)
    assert store.pinned_nbytes == 10
    store.unpin("a", keep=False)
    assert (store.nbytes, store.pinned_nbytes) == (0, 0)


def test_who_prepares_more_waits_for_room(store):
    for key in "abc":
        store.pin(key)
        store.get(key, Thing)
    waiter = threading.Thread(target=store.wait_for_room)
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    store.unpin("b")
    waiter.join(5)
    assert not waiter.is_alive()


def test_closing_lets_go_of_all(store):
    for key in "abc":
        store.pin(key)
        store.get(key, Thing)
    waiter = threading.Thread(target=store.wait_for_room)
    waiter.start()
    store.close()
    waiter.join(5)
    assert not waiter.is_alive()
    assert (store.nbytes, store.pinned_nbytes) == (0, 0)
    store.unpin("a")
    assert store.get("late", Thing).nbytes == 10  # whoever has it, has it, but nothing is held
    assert (store.nbytes, store.pinned_nbytes) == (0, 0)


def test_counts_hold_whatever_threads_do(store):
    def use(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(300):
            key = chosen.choice("abcdefgh")
            store.pin(key)
            store.get(key, lambda: Thing(chosen.randint(1, 15)))
            store.unpin(key, keep=chosen.random() < 0.7)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.pinned_nbytes == 0
    assert store.nbytes == sum(each.nbytes for each in store._held.values()) <= 30
    assert set(store._idle) == set(store._held)


def test_a_hundred_thousand_small_things_take_no_time():
    store: MediaStore[Thing] = MediaStore(500_000)
    start = time.process_time()
    for at in range(100_000):
        store.pin(str(at))
        store.get(str(at), Thing)
        store.unpin(str(at))
    assert time.process_time() - start < 5  # it was minutes when each one counted all
    assert store.nbytes == 500_000
