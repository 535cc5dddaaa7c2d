"""The output of a run: Parquet parts that appear whole or not at all.

A part is written to a temporary file outside `data/`, forced to disk and renamed in, so a reader
or a crash at any moment sees only finished parts, and a shard done twice leaves one file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.column_types import JSON_TEXT
from jobs.dataset.atomic import create_file, explain_write, replace_file
from jobs.dataset.card import dataset_card
from jobs.dataset.layout import DatasetPaths, read_manifest
from jobs.dataset.part import encode_part
from jobs.dataset.verification import Verification, verify
from jobs.errors import DatasetError, OutputTakenError
from jobs.result_row import ResultRow


class Dataset:
    """A folder of Parquet parts with its manifest; see `jobs.dataset.layout` for what lies where.

    Several workers, on one machine or on several that share the folder, may use it at once. Its
    methods raise `DatasetError` where a file can't be read or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = DatasetPaths(root)

    def prepare(self, manifest: Mapping[str, Any]) -> None:
        """Claim the folder for the run that `manifest` describes; again for the same run is fine.

        Raises:
            OutputTakenError: the folder belongs to another run, or holds files that this run
                would replace or mix with.
            DatasetError: it can't be written.
        """
        with explain_write(self.root):
            self.check_foreign()
            if not self.is_claimed:
                create_file(self.layout.manifest, _json(manifest), self.layout.temporary)
                create_file(self.layout.ignored, b"*\n", self.layout.temporary)
            self.check_holder(manifest["run_id"])
            self.layout.data.mkdir(exist_ok=True)

    def check_foreign(self) -> None:
        """Check that the folder holds none of a dataset's files unless a run has claimed it.

        Raises:
            OutputTakenError: with their names.
        """
        # Looked for before the manifest is: other workers' parts only ever follow it.
        own = (self.layout.card, self.layout.success, *self.layout.data.glob("*.parquet"))
        foreign = [str(path.relative_to(self.root)) for path in own if path.exists()]
        if foreign and not self.is_claimed:
            raise OutputTakenError(
                f"{self.root} holds {', '.join(foreign)} but no manifest of a run: "
                "choose another folder, or move these away"
            )

    def check_free(self, run_id: str) -> None:
        """Check that this run may claim the folder, or has.

        Raises:
            OutputTakenError: the folder belongs to another run, or holds files of none.
            DatasetError: it can't be read.
        """
        with explain_write(self.root):
            self.check_foreign()
            if self.is_claimed:
                self.check_holder(run_id)

    def check_holder(self, run_id: str) -> None:
        """Check that the folder belongs to this run.

        Raises:
            OutputTakenError: it belongs to another run.
            DatasetError: it has no manifest.
        """
        holder = self.manifest()["run_id"]
        if holder != run_id:
            raise OutputTakenError(
                f"{self.root} holds run {holder}, so run {run_id} can't use it: "
                f"`mlx-batch forget {run_id}`, and enqueue it with another --out"
            )

    def lost_shards(self, done: Iterable[int], shards: int) -> set[int]:
        """Return those of these shards that have no part here."""
        return {shard for shard in done if not self.layout.part(shard, shards).exists()}

    @property
    def is_claimed(self) -> bool:
        """Whether a run has put its manifest here."""
        return self.layout.manifest.exists()

    @property
    def is_finished(self) -> bool:
        """Whether the run was verified and marked."""
        return self.layout.success.exists()

    def is_whole(self, shards: int) -> bool:
        """Return whether the run is finished, and no part was lost since."""
        return self.is_finished and not self.lost_shards(range(shards), shards)

    def manifest(self) -> dict[str, Any]:
        """Return what the run was asked for and, once finalized, its totals under `result`."""
        return read_manifest(self.layout.manifest)

    def write_part(
        self, shard: int, rows: Sequence[ResultRow], *, check: Callable[[], None] = lambda: None
    ) -> Path:
        """Write the part of one shard, replacing the one that may be there.

        Args:
            check: called right before the part appears; what it raises prevents that.

        Raises:
            ValueError: there are no rows, or no such shard.
            DatasetError: a value does not fit its column, or the part can't be written.
        """
        manifest = self.manifest()
        shards = manifest["shards"]
        if not rows:
            raise ValueError(f"shard {shard} has no rows: readers reject an empty part")
        if not 0 <= shard < shards:
            raise ValueError(f"shard {shard} is not one of this run's {shards}")
        part = self.layout.part(shard, shards)
        parquet = encode_part(rows, manifest["columns"], manifest.get("parsed", JSON_TEXT))
        replace_file(part, parquet, self.layout.temporary, check=check)
        return part

    def write_unfinished(self, shard: int, rows: Sequence[ResultRow]) -> None:
        """Write rows of a shard that is not done, so that they can be read before it is."""
        manifest = self.manifest()
        part = self.layout.unfinished_part(shard, manifest["shards"])
        parquet = encode_part(rows, manifest["columns"], manifest.get("parsed", JSON_TEXT))
        part.parent.mkdir(exist_ok=True)
        replace_file(part, parquet, self.layout.temporary)

    def forget_unfinished(self) -> None:
        """Remove the rows of shards that are not done, and the page with them: the run goes on."""
        shutil.rmtree(self.layout.unfinished, ignore_errors=True)
        self.layout.report.unlink(missing_ok=True)

    @property
    def rows_files(self) -> list[Path]:
        """The files with the rows that are there, by shard; unlike parts they may not be whole.

        The newer one counts: rows of a part may be tried again.

        Raises:
            DatasetError: the manifest can't be read.
        """
        if not self.is_claimed:
            return []
        layout, shards = self.layout, self.manifest()["shards"]
        both = (
            (layout.part(shard, shards), layout.unfinished_part(shard, shards))
            for shard in range(shards)
        )
        there = ([path for path in each if path.exists()] for each in both)
        return [max(each, key=lambda path: path.stat().st_mtime_ns) for each in there if each]

    def finalize(self) -> Verification:
        """Verify the dataset, describe it in its card and mark it finished; twice is fine.

        Raises:
            DatasetError: rows are missing or stand twice, parts are damaged, or the folder can't
                be written. There is no `_SUCCESS` then.
        """
        self.unfinish()
        verification = verify(self.root)
        if not verification.complete:
            raise DatasetError(f"{self.root} is not complete: {_summary(verification.problems)}")
        result = asdict(verification)
        del result["problems"]
        manifest = self.manifest() | {"result": result}
        self._replace(self.layout.card, dataset_card(manifest, verification).encode())
        self._replace(self.layout.manifest, _json(manifest))
        with explain_write(self.layout.temporary):
            # What killed writers left; all parts stand, so a live one only writes a copy.
            for leftover in self.layout.temporary.glob("*.parquet"):
                leftover.unlink(missing_ok=True)
        self.forget_unfinished()
        self._replace(self.layout.success, b"")
        return verification

    def unfinish(self) -> None:
        """Remove the mark of a finished run."""
        with explain_write(self.layout.success):
            self.layout.success.unlink(missing_ok=True)

    def _replace(self, target: Path, data: bytes | pa.Buffer) -> None:
        replace_file(target, data, self.layout.temporary)


def _json(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=2).encode() + b"\n"


def _summary(problems: Sequence[str], shown: int = 5) -> str:
    more = len(problems) - shown
    return "; ".join(problems[:shown]) + (f"; and {more} more problems" if more > 0 else "")
