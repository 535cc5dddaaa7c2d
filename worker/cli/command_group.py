"""`CommandGroup`: commands whose errors become one line and an exit code."""

from __future__ import annotations

import sys
from typing import Any

import click
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError

from jobs.connection import redacted
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.foreign import advice_on
from worker.cli.exit_codes import ExitCode
from worker.local.interrupts import RunInterruptedError

STOPPED = "mlx-batch: stopped; what was enqueued stays, `mlx-batch resume DIR` or --resume goes on"
_ENQUEUE = ("resume", "retry", "continue")
_OF_ROWS = ("run", "enqueue", "plan")
"""What takes the settings of rows."""
_BEGUN = "mlx-batch: something is begun"
_FULL = (
    "raise its maxmemory, or let workers finish runs, which frees it; what was enqueued stays, and "
    "`mlx-batch resume RUN` enqueues the rest"
)
_AWAY = (
    "start it, or name another by -u or RQ_REDIS_URL; without these `run` has a server of its own"
)

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


def something_is_begun() -> None:
    """Note that what a command does from here on stays when it is stopped."""
    click.get_current_context().meta[_BEGUN] = True  # of the group's context as well


class CommandGroup(click.Group):
    """A group of commands whose errors become one line and an exit code."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.context_settings.update(HELP)  # click keeps what a command is first called with
        super().add_command(cmd, name)

    def make_context(self, *given: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*given, **extra)
        except KeyboardInterrupt:  # click's own exit code is another
            sys.exit(ExitCode.INTERRUPTED)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.NoSuchOption as error:
            name = error.option_name.removeprefix("--").replace("-", "_")
            if context.invoked_subcommand not in _OF_ROWS or not (advice := advice_on(name)):
                raise
            raise click.NoSuchOption(
                error.option_name, f"{error.message.rstrip('.')}; {advice}", ctx=error.ctx
            ) from None
        except MLXBatchError as error:
            click.echo(f"mlx-batch: {error}", err=True)
            context.exit(ExitCode.of_error(error))
        except KeyboardInterrupt as error:
            if isinstance(error, RunInterruptedError):
                is_told = error.result is not None  # by the summary, which names the folder
            else:
                begins = context.invoked_subcommand in _ENQUEUE or context.meta.get(_BEGUN)
                is_told = not begins  # nothing goes on
            click.echo("mlx-batch: stopped" if is_told else STOPPED, err=True)
            context.exit(ExitCode.INTERRUPTED)
        except RedisError as error:
            is_full = isinstance(error, OutOfMemoryError)
            reason = f" is full: {_FULL}" if is_full else f": {type(error).__name__}: {error}"
            if type(error) is RedisConnectionError:  # a password that is wrong is a kind of it
                reason = f"{reason.rstrip('.')}; {_AWAY}"
            url = redacted(context.meta.get("url") or "Redis")
            click.echo(f"mlx-batch: {url}{reason}", err=True)
            context.exit(ExitCode.SERVER)
