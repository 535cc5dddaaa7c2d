"""`LocalPath`: the type of a path on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs.output_folder import refuse_address


class LocalPath(click.Path):
    """A path on this machine, and no URL."""

    def __init__(self, **options: bool) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        refuse_address(value, (param and param.name) or "path")
        return super().convert(value, param, ctx)
