"""`mlx-batch`, in this process."""

from __future__ import annotations

from typing import Any

from click.testing import CliRunner, Result

from worker.cli.app import main


def cli(*words: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], **options)
