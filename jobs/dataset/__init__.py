"""The dataset of a run: a folder of Parquet parts, and the proof that it is whole."""

from __future__ import annotations

from jobs.dataset.folder import Dataset, ResultRow
from jobs.dataset.layout import RESULT_COLUMNS, dataset_names, schema
from jobs.dataset.verification import Verification, verify

__all__ = [
    "RESULT_COLUMNS",
    "Dataset",
    "ResultRow",
    "Verification",
    "dataset_names",
    "schema",
    "verify",
]
