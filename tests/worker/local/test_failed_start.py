"""What a signal leaves of a run: nothing before its workers start, and all of it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.failed_start import no_new_server_left, nothing_left_of_a_failed_start
from worker.local.interrupts import RunInterruptedError


def begin(out: Path, stack: ExitStack) -> Callable[[], None]:
    """Start the server of a run, and return what is called when its workers start."""
    keep_folder = stack.enter_context(nothing_left_of_a_failed_start(out))
    keep_server = stack.enter_context(no_new_server_left(own_server(out)))
    stack.enter_context(EmbeddedRedis(own_server(out)))

    def keep() -> None:
        keep_server()
        keep_folder()

    return keep


def test_a_signal_before_workers_start_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ExitStack() as stack:
        begin(tmp_path / "new" / "out", stack)
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()

    with pytest.raises(SystemExit), ExitStack() as stack:
        (tmp_path / "out" / "_job").mkdir(parents=True)
        begin(tmp_path / "out", stack)
        raise SystemExit
    assert not own_server(tmp_path / "out").exists()
    assert (tmp_path / "out" / "_job").exists(), "that of an earlier run"


@pytest.mark.parametrize("signal", [SystemExit, RunInterruptedError])
def test_a_signal_keeps_what_workers_have_begun(
    tmp_path: Path, signal: type[BaseException]
) -> None:
    """Rows may be recorded in the server, though no shard is done yet."""
    with pytest.raises(signal), ExitStack() as stack:
        begin(tmp_path / "out", stack)()
        raise signal
    assert (own_server(tmp_path / "out") / "appendonlydir").is_dir()
