"""How a command that works on this machine ends by a signal: in order, with an exit code."""

from __future__ import annotations

import os
import signal
import stat
import sys
from typing import Any

import click

from worker.cli.command_group import STOPPED
from worker.cli.exit_codes import ExitCode

_SIGNALS = {signal.SIGTERM: ExitCode.TERMINATED, signal.SIGHUP: ExitCode.HANGUP}


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, with its workers and its server."""
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # by nohup
            signal.signal(signum, _terminate)


def _terminate(signum: int, _: Any) -> None:
    """Exit as after Ctrl-C: the workers and the server of `run` end, too."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # kernel and shell both send one
    if signum == signal.SIGHUP:  # a write to the terminal that is gone would fail
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    click.echo(STOPPED, err=True)
    sys.exit(_SIGNALS[signal.Signals(signum)])
