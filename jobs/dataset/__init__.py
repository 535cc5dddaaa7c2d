"""The dataset of a run: a folder of Parquet parts, and the proof that it is whole."""

from __future__ import annotations

from jobs.dataset.columns import ColumnTypes
from jobs.dataset.folder import Dataset
from jobs.dataset.layout import dataset_names, schema
from jobs.dataset.verification import Verification, verify

__all__ = [
    "ColumnTypes",
    "Dataset",
    "Verification",
    "dataset_names",
    "schema",
    "verify",
]
