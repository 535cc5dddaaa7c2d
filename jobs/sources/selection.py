"""`Selection`: which rows of an input a run takes, and `Selected`, the input with these only."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from pydantic import Field

from jobs.column_types import TypeSpec
from jobs.sources.dialect import Dialect
from jobs.sources.formats import Format
from jobs.sources.media_files import MediaFiles
from jobs.sources.prompt_file import PromptFile
from jobs.sources.rows import RawRow
from jobs.sources.template import Template
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.parameters import Parameters


class Selection(Parameters):
    """Rows of an input; they keep their order, their positions and so their ids and seeds."""

    limit: int | None = Field(None, ge=1)
    """Take the first rows only, as many as this; those behind are not looked at."""
    sample: int | None = Field(None, ge=1)
    """Take as many rows as this, chosen at random (of the first `limit`)."""
    sample_seed: int | None = Field(None, ge=0, lt=2**63)
    """Choose the same `sample` again; without it the run's seed decides, or else 0."""

    def drawn(self, rows: int) -> list[int]:
        """Return the positions of a sample of so many rows, ascending."""
        assert self.sample is not None
        chance = random.Random(self.sample_seed)
        return sorted(chance.sample(range(rows), min(self.sample, rows)))


def selection_of(
    limit: int | None, sample: int | None, sample_seed: int | None, seed: int | None
) -> Selection | None:
    """Return the selection that is asked for, if any.

    Args:
        seed: of the run.

    Raises:
        InvalidRequestError: one is out of range, or a seed is given and no sample.
    """
    if sample is None and sample_seed is not None:
        raise InvalidRequestError("sample_seed: there is no sample to choose")
    if sample is not None and sample_seed is None:
        sample_seed = seed or 0
    chosen = Selection.of(limit=limit, sample=sample, sample_seed=sample_seed)
    return None if chosen == Selection.of() else chosen


@dataclass(frozen=True)
class Selected:
    """An input as it is, of which only the selected rows are read."""

    whole: PromptFile | MediaFiles
    selection: Selection

    @property
    def path(self) -> Path:
        return self.whole.path

    @property
    def format(self) -> Format:
        return self.whole.format

    @property
    def template(self) -> Template | None:
        return self.whole.template

    @property
    def folder(self) -> Path:
        return self.whole.folder

    @property
    def dialect(self) -> Dialect:
        return self.whole.dialect

    def fingerprint(self) -> str:
        return self.whole.fingerprint()

    def version(self) -> Hashable:
        return self.whole.version()

    def column_types(self) -> dict[str, TypeSpec]:
        return self.whole.column_types()

    def rows(self) -> Iterator[RawRow]:
        first = islice(self.whole.rows(), self.selection.limit)
        if self.drawn_from is None:
            return first
        drawn = set(self.selection.drawn(self.drawn_from))
        return (row for row in first if row.row in drawn)

    @cached_property
    def drawn_from(self) -> int | None:
        """Of how many rows the sample is; None where there is none. Reads them once."""
        if self.selection.sample is None:
            return None
        return sum(1 for _ in islice(self.whole.rows(), self.selection.limit))
