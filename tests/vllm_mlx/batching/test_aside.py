"""`Aside` works beside the engine's thread, and never longer than the body that it works beside."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from vllm_mlx.batching.aside import Aside

SECONDS = 20  # until a test that hangs fails


def test_work_and_body_run_side_by_side() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(SECONDS)

    with Aside("test").run(work):
        assert begun.wait(SECONDS)
        go_on.set()


def test_a_failure_of_the_work_is_raised_behind_the_body() -> None:
    steps = []

    def work() -> None:
        raise ValueError("the work")

    with pytest.raises(ValueError, match="the work"), Aside("test").run(work):
        steps.append("body")
    assert steps == ["body"]


def test_the_work_is_over_where_the_body_fails() -> None:
    failed, ended = threading.Event(), threading.Event()

    def work() -> None:
        assert failed.wait(SECONDS)
        ended.set()

    def body() -> None:
        with Aside("test").run(work):
            failed.set()
            raise RuntimeError("the body")

    with pytest.raises(RuntimeError, match="the body"):
        body()
    assert ended.is_set()


def test_it_works_while_other_threads_outlive_the_main_one() -> None:
    program = """
import threading, time
from vllm_mlx.batching.aside import Aside

def late():
    threading.main_thread().join()
    with Aside("late").run(lambda: print("worked")):
        pass

threading.Thread(target=late).start()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert (ended.stdout, ended.stderr) == ("worked\n", "")


def test_its_thread_ends_with_its_owner() -> None:
    aside = Aside("test-that-ends")
    threads: list[threading.Thread] = []
    with aside.run(lambda: threads.append(threading.current_thread())):
        pass
    del aside
    threads[0].join(SECONDS)
    assert not threads[0].is_alive()
