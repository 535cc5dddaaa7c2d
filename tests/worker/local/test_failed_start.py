"""What a signal leaves of a run: nothing before its workers start, and all of it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.failed_start import no_new_server_left, nothing_left_of_a_failed_start
from worker.local.interrupts import RunInterruptedError


def begin(out: Path, signal: type[BaseException], *, has_workers: bool) -> None:
    """Start the server of a run, and perhaps its workers, before a signal comes."""
    own = own_server(out)
    with (
        nothing_left_of_a_failed_start(out) as keep_folder,
        no_new_server_left(own) as keep_server,
        EmbeddedRedis(own),
    ):
        if has_workers:
            keep_server()
            keep_folder()
        raise signal


def test_a_signal_before_workers_start_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "new" / "out", KeyboardInterrupt, has_workers=False)
    assert not (tmp_path / "new").exists()

    (tmp_path / "out" / "_job").mkdir(parents=True)
    with pytest.raises(SystemExit):
        begin(tmp_path / "out", SystemExit, has_workers=False)
    assert not own_server(tmp_path / "out").exists()
    assert (tmp_path / "out" / "_job").exists(), "that of an earlier run"


@pytest.mark.parametrize("signal", [SystemExit, RunInterruptedError])
def test_a_signal_keeps_what_workers_have_begun(
    tmp_path: Path, signal: type[BaseException]
) -> None:
    """Rows may be recorded in the server, though no shard is done yet."""
    with pytest.raises(signal):
        begin(tmp_path / "out", signal, has_workers=True)
    assert (own_server(tmp_path / "out") / "appendonlydir").is_dir()
