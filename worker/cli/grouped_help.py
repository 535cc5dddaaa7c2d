"""`GroupedCommand`: a command whose `--help` lists its options in named groups, with examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

WORDS = "mlx-batch.words"
"""Where a context's `meta` has the words of its command, as they were given."""

_OTHER = "Other"
_PATTERN = ". A pattern of files stands in quotes, or the shell puts the files in its place."
_ONE_FILE = ". One prompt file at a time; `cat` makes one of several with a row a line."
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def all_of(*options: Decorator) -> Decorator:
    """Return the options as one decorator; `--help` lists them in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def group(name: str, *options: Decorator) -> Decorator:
    """Return the options as one decorator, which `--help` lists under this name."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        before = len(getattr(command, "__click_params__", ()))
        command = all_of(*options)(command)
        for option in command.__click_params__[before:]:  # type: ignore[attr-defined]
            option.help_group = name
        return command

    return decorate


class GroupedCommand(click.Command):
    """Lists options by their `group`, in the order in which the groups begin; others at the end."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; say of files that are too many where they mostly come from."""
        ctx.meta[WORDS] = list(args)
        given = {word.partition("=")[0] for word in args}
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "extra argument" not in error.message:
                raise
            hint = _PATTERN if given & {"--videos", "--images"} else _ONE_FILE
            raise click.UsageError(error.message + hint, ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                groups.setdefault(getattr(option, "help_group", _OTHER), []).append(record)
        for name, records in sorted(groups.items(), key=lambda each: each[0] == _OTHER):
            with formatter.section(name):
                formatter.write_dl(records)


def examples(*lines: str) -> str:
    """Return example commands for the end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
