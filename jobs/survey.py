"""`Survey`: one pass over a prompt file before anything of it is enqueued."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.bad_rows import BadRows
from jobs.dataset import ColumnTypes
from jobs.duplicates import Suspects, has_one_answer
from jobs.errors import InputFileError
from jobs.parsed import ParsedType
from jobs.sight import ANY_SIGHT, Sight, shows_media
from jobs.sources import Input, SourceRow, validated
from jobs.wording import counted
from vllm_mlx.sampling_params import SamplingParams

READ_EVERY = 200  # rows, of which the reader of an input is told


@dataclass(slots=True)
class Survey:
    """One pass over the input: how many rows, which are bad, what columns they have.

    Attributes:
        rows: rows of the input.
        showing: those of them that show images or videos.
        unseen: those of the bad ones that are bad only to a model that does not see.
        constrained: those of them whose answers are held to a form.
        samples: rows of the dataset that they make.
        most_samples: of one row of the input.
        largest_job: characters of the rows of one job.
        suspects: rows that may ask the same.
    """

    rows: int = 0
    showing: int = 0
    unseen: int = 0
    constrained: int = 0
    samples: int = 0
    most_samples: int = 1
    bad_rows: BadRows = field(default_factory=BadRows)
    columns: ColumnTypes = field(default_factory=ColumnTypes)
    parsed: ParsedType = field(default_factory=ParsedType)
    suspects: Suspects = field(default_factory=Suspects)
    largest_job: int = 0
    _job: tuple[int, int] = (0, 0)

    @property
    def invalid(self) -> int:
        """Rows that are no requests, whatever the model."""
        return len(self.bad_rows) - self.unseen

    @property
    def is_media(self) -> bool:
        """Whether all that it asks is of images and videos."""
        return 0 < self.showing == self.rows - self.invalid

    def weigh(self, row: SourceRow, shard_size: int) -> None:
        """Add a row to the job that it falls into, and its text to that job's."""
        samples, size = self._job
        samples, size = samples + row.samples, size + len(json.dumps(row.data))
        self.largest_job = max(self.largest_job, size)
        if samples >= shard_size:
            samples %= shard_size
            size = len(json.dumps(row.data)) if samples else 0
        self._job = samples, size

    def refuse(self, path: Path) -> InputFileError:
        """Return the error that tells what is wrong with the bad rows."""
        bad = self.bad_rows
        lines = [f"{path}: {counted(len(bad), 'bad row')} of {self.rows:,}; nothing was enqueued."]
        lines += [f"  {each}" for each in bad.described()]
        lines.append("Mend them, or pass --skip-bad-rows to make them error rows of the dataset.")
        return InputFileError("\n".join(lines))


def survey_input(
    source: Input,
    sampling: SamplingParams,
    n: int,
    *,
    chat: bool,
    shard_size: int,
    sight: Sight = ANY_SIGHT,
    read: Callable[[int], None] = lambda _: None,
) -> Survey:
    """Read and count every row.

    Args:
        shard_size: samples a job.
        sight: the model's; rows that show what it does not see are bad ones.
        read: told every `READ_EVERY` rows how many are read.

    Raises:
        InputFileError: the file is missing, empty or unreadable.
    """
    survey = Survey(columns=ColumnTypes(source.column_types()))
    dialect = source.dialect
    for row in validated(source, sampling=sampling, n=n, chat=chat):
        survey.rows += 1
        survey.samples += row.samples
        survey.most_samples = max(survey.most_samples, row.samples)
        survey.weigh(row, shard_size)
        survey.columns.observe(dialect.columns(row.data))
        if row.request:
            params = row.request.over(sampling)
            survey.parsed.observe(params.structured_outputs)
            survey.constrained += bool(params.held().structured_outputs)
            if has_one_answer(row.request, params):
                survey.suspects.observe(row.row, row.request)
        if shows_media(row):
            survey.showing += 1
            survey.unseen += sight.blind is not None
            row = sight.tried(row)
        if row.error:
            survey.bad_rows.add(row)
        if survey.rows % READ_EVERY == 0:
            read(survey.rows)
    return survey
