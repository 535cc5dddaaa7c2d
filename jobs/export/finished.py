"""`Finished`: a dataset that is whole, as its rows are read for an export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.column_types import JSON_TEXT, TypeSpec
from jobs.column_values import json_decoder, json_values
from jobs.dataset import Dataset, dataset_names
from jobs.dataset.layout import schema_of
from jobs.dataset.part import read_part
from jobs.errors import DatasetError
from jobs.requests import GenerationRequest
from jobs.sources import Template
from jobs.sources.dialect import SHORTHANDS, written_out
from jobs.sources.templated import Templated

Row = dict[str, Any]

_SAYING = ("prompt", "messages", *SHORTHANDS, *SHORTHANDS.values())


@dataclass(frozen=True)
class Finished:
    """A dataset whose run has ended.

    Attributes:
        names: the dataset's name of each column of the input.
    """

    root: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, root: Path) -> Finished:
        """Look whether it is whole.

        Raises:
            DatasetError: it is no dataset, or its run has not ended.
        """
        dataset = Dataset(root)
        manifest = dataset.manifest()
        if not dataset.is_whole(manifest["shards"]):
            raise DatasetError(
                f"{root} is not finished: wait for its run (`mlx-batch status`), or see what is "
                "missing by `mlx-batch verify`"
            )
        return cls(root, manifest)

    @cached_property
    def names(self) -> dict[str, str]:
        return dataset_names(self.manifest["columns"])

    @cached_property
    def template(self) -> Template | None:
        """What made the requests of the rows."""
        given = self.manifest.get("template")
        return None if given is None else Template.model_validate(given)

    @cached_property
    def folder(self) -> Path:
        """What the paths of the input's media are relative to."""
        path = Path(self.manifest["input"]["path"])
        return path if path.is_dir() else path.parent

    @property
    def column_names(self) -> list[str]:
        names: list[str] = schema_of(self.manifest).names
        return names

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Yield the rows in their order, as JSON has them; one part is in memory at a time.

        Args:
            columns: only these, in this order.

        Raises:
            DatasetError: a part can't be read.
        """
        wanted, shards = schema_of(self.manifest), self.manifest["shards"]
        layout = Dataset(self.root).layout
        for shard in range(shards):
            part = read_part(layout.part(shard, shards), wanted)
            yield from self.rows_of(part if columns is None else part.select(columns))

    def rows_of(self, part: pa.Table) -> Iterator[Row]:
        """Yield the rows of a part, or of some rows and columns of one, as JSON has them."""
        columns: Mapping[str, TypeSpec] = self.manifest["columns"]
        decoders = {self.names[column]: json_decoder(spec) for column, spec in columns.items()}
        decoders["parsed"] = json_decoder(self.manifest.get("parsed", JSON_TEXT))
        part = part.combine_chunks()
        cells = {name: json_values(part[name].chunk(0)) for name in part.column_names}
        for name in decoders.keys() & cells.keys():
            cells[name] = list(map(decoders[name], cells[name]))
        for values in zip(*cells.values(), strict=True):
            yield dict(zip(cells, values, strict=True))

    def requests(self) -> Iterator[list[Row]]:
        """Yield the rows of each request: its samples, of which there is mostly one."""
        for _, samples in groupby(self.rows(), itemgetter("row")):
            yield list(samples)

    def request(self, row: Row) -> GenerationRequest:
        """Return what a row asked, as far as the dataset holds it: its text and its media.

        Raises:
            InvalidRequestError: it was a bad row.
        """
        template = self.template
        named = (template.image_column, template.video_column) if template else ()
        fields = {name: self.given(row, name) for name in (*_SAYING, *filter(None, named))}
        given = {name: value for name, value in fields.items() if value is not None}
        if template is None:
            return GenerationRequest.parse(written_out(given))
        dialect = Templated(template)
        return dialect.request(dialect.restored(given))

    def given(self, row: Row, column: str) -> Any:
        """Return the value that the input had in a column; None if it had none."""
        name = self.names.get(column)
        return None if name is None else row.get(name)
