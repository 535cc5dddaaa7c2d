"""Proof that a dataset holds every row of its input exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from jobs.dataset.layout import DatasetPaths, read_manifest, schema_of
from jobs.dataset.part import read_part
from jobs.errors import DatasetError
from jobs.sources import Selection
from jobs.wording import counted
from vllm_mlx.outputs import FinishReason

_TOKENS = ("prompt_tokens", "completion_tokens")
_OUTCOME = ("finish_reason", "complete", "duplicate_of")
_READ = ("id", "row", "sample_index", "model", *_TOKENS, *_OUTCOME)
_SHOWN = 20


@dataclass(slots=True)
class Verification:
    """What `verify` found; every finding is a sentence in `problems`.

    Attributes:
        rows_in: rows the dataset owes: the samples of all rows of the input.
        ok: rows with generated text.
        error: rows whose request failed.
        incomplete: those of the rows that are ok whose constrained answer is not whole.
        duplicates: rows that were given the answer of another.
        prompt_tokens: tokens of all prompts but theirs.
        completion_tokens: tokens of all answers but theirs.
        problems: what is wrong, in words, with the first 20 positions, ids or files; empty when the
            dataset is complete. Where rows have different numbers of samples, the position of one
            whose last are missing is not known.
    """

    rows_in: int
    ok: int = 0
    error: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    incomplete: int = 0
    duplicates: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Rows in = ok + error, each exactly once, in whole parts of one schema."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Owed:
    """What a dataset should hold: `rows` in all, of each input row `samples` at most.

    Attributes:
        drawn: the positions of the rows in the input; None where they are the first.
    """

    rows: int
    input_rows: int
    samples: int
    drawn: Sequence[int] | None = None

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> _Owed:
        rows = manifest["rows"]
        input_rows = manifest.get("input_rows", rows)
        samples = manifest.get("samples", 1)
        drawn = None
        if (of := manifest.get("drawn_from")) is not None:
            drawn = Selection.of(**manifest["selection"]).drawn(of)
        return cls(rows, input_rows, samples, drawn)

    def ranked(self, rows: pa.Table) -> pa.Table:
        """Return rows with their place among those that the run took, -1 of any other."""
        if self.drawn is None:
            return rows
        ranks = pc.index_in(rows["row"], value_set=pa.array(self.drawn, pa.int64()))
        at = rows.schema.get_field_index("row")
        return rows.set_column(at, "row", ranks.cast(pa.int64()).fill_null(-1))

    def position(self, rank: int) -> int:
        """Return the position in the input of the row of this place."""
        return rank if self.drawn is None else self.drawn[rank]

    @property
    def is_uniform(self) -> bool:
        return self.rows == self.input_rows * self.samples


def verify(root: Path) -> Verification:
    """Read the whole dataset and check it against the manifest.

    A damaged part is a problem in the answer, not an exception. Memory grows with the ids.

    Raises:
        DatasetError: the manifest is missing or corrupt, so there is nothing to check against.
    """
    layout = DatasetPaths(root)
    manifest = read_manifest(layout.manifest)
    owed = _Owed.of(manifest)
    found = Verification(rows_in=owed.rows)
    parts = _check_folder(layout, manifest["shards"], found)
    rows = _read_parts(parts, schema_of(manifest), found)
    _check_outcomes(rows, found)
    _check_models(rows, manifest, found)
    _check_positions(rows, owed, found)
    _check_ids(rows, owed.input_rows, found)
    return found


def _check_folder(layout: DatasetPaths, shards: int, found: Verification) -> list[Path]:
    expected = [layout.part(shard, shards) for shard in range(shards)]
    try:
        present = {path for path in layout.data.iterdir() if not _is_invisible(path)}
    except OSError as error:
        found.problems.append(f"{layout.data} can't be read: {error}")
        return []
    absent = [path.name for path in expected if path not in present]
    if absent:
        found.problems.append(f"parts missing: {_list(absent, len(absent))} of {shards}")
    foreign = sorted(path.name for path in present.difference(expected))
    if foreign:
        found.problems.append(
            f"files in {layout.data} that are no parts of this run: {_list(foreign)}"
        )
    return [path for path in expected if path in present]


def _is_invisible(path: Path) -> bool:
    """Return whether the glob `*.parquet` passes this file by (duckdb's and polars' match dots)."""
    return path.name.startswith(".") and path.suffix != ".parquet"


def _read_parts(parts: Iterable[Path], expected: pa.Schema, found: Verification) -> pa.Table:
    tables = [expected.empty_table().select(_READ)]
    for part in parts:
        try:
            # Selected when read: an input column named "id.x" is to Arrow a child of "id".
            tables.append(read_part(part, expected).select(_READ))
        except DatasetError as error:
            found.problems.append(str(error))
    return pa.concat_tables(tables).combine_chunks()


def _check_outcomes(rows: pa.Table, found: Verification) -> None:
    reasons = _counts(rows["finish_reason"])
    found.error = reasons.pop("error", 0)
    found.ok = sum(reasons.pop(reason, 0) for reason in get_args(FinishReason))
    found.problems += [
        f"{counted(count, 'row')} with the finish_reason {reason!r}"
        for reason, count in reasons.items()
    ]
    found.incomplete = pc.sum(pc.invert(rows["complete"])).as_py() or 0
    found.duplicates = len(rows) - rows["duplicate_of"].null_count
    rows = rows.filter(pc.is_null(rows["duplicate_of"]))
    found.prompt_tokens = pc.sum(rows["prompt_tokens"]).as_py() or 0
    found.completion_tokens = pc.sum(rows["completion_tokens"]).as_py() or 0


def _check_models(rows: pa.Table, manifest: Mapping[str, Any], found: Verification) -> None:
    if "revision" not in manifest:  # of a version in which names of models were paths
        return
    for model, count in _counts(rows["model"]).items():
        if model != manifest["model"]:
            found.problems.append(f"{counted(count, 'row')} by {model}, not by {manifest['model']}")


def _counts(values: pa.ChunkedArray) -> dict[Any, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()}


def _check_positions(rows: pa.Table, owed: _Owed, found: Verification) -> None:
    samples = owed.samples
    found_at, rows = rows["row"], owed.ranked(rows)
    inside = pc.and_(_below(rows["row"], owed.input_rows), _below(rows["sample_index"], samples))
    outside = rows.filter(pc.invert(inside))
    if outside.num_rows:
        positions = found_at.filter(pc.invert(inside)).slice(0, _SHOWN).to_pylist()
        found.problems.append(f"rows out of range: {_list(positions, outside.num_rows)}")

    rows = rows.filter(inside)
    # One number a sample, counted from a row before the first: all stay positive.
    keys = pc.add(pc.multiply(pc.add(rows["row"], 1), samples), rows["sample_index"])
    ends = pa.array([samples - 1, (owed.input_rows + 1) * samples], pa.int64())
    edges = pa.chunked_array([*keys.chunks, ends]).sort().combine_chunks()
    steps = pc.pairwise_diff(edges).fill_null(1)
    repeats = edges.filter(pc.equal(steps, 0))
    absent = owed.rows - (len(keys) - len(repeats))
    missing = [owed.position(at) for at in islice(_places_missing(edges, steps, owed), _SHOWN)]
    if missing:
        found.problems.append(f"rows missing: {_list(missing, max(absent, len(missing)))}")
    elif absent > 0:
        found.problems.append(f"rows missing: {absent}, the last samples of some rows")
    if absent < 0:
        found.problems.append(f"rows too many: {-absent}")
    if len(repeats):
        keys = repeats.unique().slice(0, _SHOWN).to_pylist()
        positions = [owed.position(key // samples - 1) for key in keys]
        found.problems.append(f"rows more than once: {_list(positions, len(repeats))}")


def _below(values: pa.ChunkedArray, limit: int) -> pa.ChunkedArray:
    inside = pc.and_(pc.greater_equal(values, 0), pc.less(values, limit))
    return inside.fill_null(False)


def _places_missing(edges: pa.Array, steps: pa.Array, owed: _Owed) -> Iterator[int]:
    """Yield the places of the rows of the keys that `edges` leaves out, ascending, each once."""
    ends = pc.indices_nonzero(_is_gap(edges, steps, owed)).slice(0, _SHOWN).to_pylist()
    gaps = (_gap(edges[end - 1].as_py(), edges[end].as_py(), owed) for end in ends)
    positions = (key // owed.samples - 1 for key in chain.from_iterable(gaps))
    return (position for position, _ in groupby(positions))


def _is_gap(edges: pa.Array, steps: pa.Array, owed: _Owed) -> pa.Array:
    """Return where keys are missing before an edge."""
    leaps = pc.greater(steps, 1)
    if owed.is_uniform:
        return leaps
    rows = pc.divide(edges, owed.samples)
    is_first = pc.equal(pc.multiply(rows, owed.samples), edges)
    follows = pc.equal(pc.pairwise_diff(rows).fill_null(0), 1)
    return pc.and_not(leaps, pc.and_(is_first, follows))  # the row before has fewer samples


def _gap(before: int, after: int, owed: _Owed) -> range:
    first = before + 1
    next_row = (before // owed.samples + 1) * owed.samples
    return range(first if owed.is_uniform or after < next_row else next_row, after)


def _check_ids(rows: pa.Table, total: int, found: Verification) -> None:
    if nameless := rows["id"].null_count:
        found.problems.append(f"{counted(nameless, 'row')} without an id")
    rows = rows.filter(pc.is_valid(rows["id"]))
    # Sorted, since hashing takes four times the memory; large, since plain strings end at 2 GB.
    order = pc.sort_indices(rows["id"])
    ids = rows["id"].cast(pa.large_string()).take(order).combine_chunks()
    same_id = _equals_previous(ids)
    same_row = _equals_previous(rows["row"].take(order).combine_chunks())
    repeats = ids.slice(1).filter(pc.and_not(same_id, same_row)).unique()
    if len(repeats):
        names = repeats.slice(0, _SHOWN).to_pylist()
        found.problems.append(f"ids more than once: {_list(names, len(repeats))}")
    elif not found.problems and len(ids) - same_id.true_count != total:
        found.problems.append(
            f"{counted(len(ids) - same_id.true_count, 'id')} for {counted(total, 'row')}"
        )


def _equals_previous(values: pa.Array) -> pa.Array:
    return pc.equal(values.slice(1), values.slice(0, max(len(values) - 1, 0)))


def _list(values: list[Any], total: int | None = None) -> str:
    """Return the first of `values` as text, and how many there are in all."""
    total = len(values) if total is None else total
    shown = ", ".join(str(value) for value in values[:_SHOWN])
    return f"{total} ({shown}{', …' if total > len(values[:_SHOWN]) else ''})"
