"""`Survey`: one pass over a prompt file before anything of it is enqueued."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.bad_rows import BadRows
from jobs.dataset import ColumnTypes
from jobs.errors import InputFileError
from jobs.parsed import ParsedType
from jobs.sources import Input, validated
from vllm_mlx.sampling_params import SamplingParams


@dataclass(slots=True)
class Survey:
    """One pass over the input: how many rows, which are bad, what columns they have.

    Attributes:
        rows: rows of the input.
        samples: rows of the dataset that they make.
        most_samples: of one row of the input.
    """

    rows: int = 0
    samples: int = 0
    most_samples: int = 1
    bad_rows: BadRows = field(default_factory=BadRows)
    columns: ColumnTypes = field(default_factory=ColumnTypes)
    parsed: ParsedType = field(default_factory=ParsedType)

    def refuse(self, path: Path) -> InputFileError:
        """Return the error that tells what is wrong with the bad rows."""
        bad = self.bad_rows
        lines = [f"{path}: {len(bad)} of {self.rows} rows are bad; nothing was enqueued."]
        lines += [f"  {each}" for each in bad.described()]
        lines.append("Mend them, or pass --skip-bad-rows to make them error rows of the dataset.")
        return InputFileError("\n".join(lines))


def survey_input(source: Input, sampling: SamplingParams, n: int, *, chat: bool) -> Survey:
    """Read and count every row.

    Raises:
        InputFileError: the file is missing, empty or unreadable.
    """
    survey = Survey(columns=ColumnTypes(source.column_types()))
    dialect = source.dialect
    for row in validated(source, sampling=sampling, n=n, chat=chat):
        survey.rows += 1
        survey.samples += row.samples
        survey.most_samples = max(survey.most_samples, row.samples)
        survey.columns.observe(dialect.columns(row.data))
        if row.request:
            survey.parsed.observe(row.request.over(sampling).structured_outputs)
        if row.error:
            survey.bad_rows.add(row)
    return survey
