"""Every way a dataset can be wrong, each found and put into words."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import Verification, schema, verify
from jobs.errors import DatasetError
from tests.helpers.sizes import sizes

COLUMNS = {"prompt": "string", "id.local": "string"}
SHARDS, SIZE = 3, 4
ROWS = SHARDS * SIZE


def part(root: Path, shard: int, shards: int = SHARDS) -> Path:
    return root / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"


def table(first: int, size: int = SIZE, **changes: list[Any]) -> pa.Table:
    values: dict[str, list[Any]] = {
        "id": [f"row-{position}" for position in range(first, first + size)],
        "row": list(range(first, first + size)),
        "sample_index": [0] * size,
        "text": ["hello"] * size,
        "model": ["some-model"] * size,
        "prompt_tokens": [2] * size,
        "completion_tokens": [3] * size,
        "finish_reason": (["stop", "length", "error"] * size)[:size],
    }
    values |= changes
    wanted = schema(COLUMNS)
    nulls = [None] * len(values["id"])
    arrays = [pa.array(values.get(field.name, nulls), field.type) for field in wanted]
    return pa.Table.from_arrays(arrays, schema=wanted)


def put(root: Path, shard: int, rows: pa.Table) -> None:
    pq.write_table(rows, part(root, shard))


def write_manifest(root: Path, **changes: Any) -> None:
    manifest: Mapping[str, Any] = {
        "run_id": "run-1",
        "model": "some-model",
        "revision": None,
        "rows": ROWS,
        "shards": SHARDS,
        "columns": COLUMNS,
    }
    (root / "_job" / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A complete dataset of three parts with four rows each."""
    for folder in ("data", "_job"):
        (tmp_path / folder).mkdir()
    write_manifest(tmp_path)
    for shard in range(SHARDS):
        put(tmp_path, shard, table(shard * SIZE))
    return tmp_path


def only_problem(found: Verification) -> str:
    assert not found.complete
    assert len(found.problems) == 1, found.problems
    return found.problems[0]


def test_a_complete_dataset(root: Path) -> None:
    found = verify(root)

    assert found.complete
    assert found == Verification(rows_in=12, ok=9, error=3, prompt_tokens=24, completion_tokens=36)


def test_several_samples_of_each_row(root: Path) -> None:
    write_manifest(root, samples=2, rows=ROWS, input_rows=ROWS // 2)
    for shard in range(SHARDS):
        positions = [shard * 2, shard * 2, shard * 2 + 1, shard * 2 + 1]
        ids = [f"row-{position}" for position in positions]
        put(root, shard, table(0, id=ids, row=positions, sample_index=[0, 1, 0, 1]))
    assert verify(root).complete

    put(root, 2, table(0, 3, id=["row-4", "row-4", "row-5"], row=[4, 4, 5], sample_index=[0, 1, 1]))
    assert only_problem(verify(root)) == "rows missing: 1 (5)"

    ids = ["row-4", "row-5", "row-5", "row-4"]
    put(root, 2, table(0, id=ids, row=[4, 4, 5, 5], sample_index=[0, 1, 0, 1]))
    assert only_problem(verify(root)) == "ids more than once: 2 (row-4, row-5)"

    ids = ["row-4", "row-4b", "row-5", "row-5"]
    put(root, 2, table(0, id=ids, row=[4, 4, 5, 5], sample_index=[0, 1, 0, 1]))
    assert only_problem(verify(root)) == "7 ids for 6 rows"


@pytest.fixture
def mixed(root: Path) -> Path:
    """Six rows with 1, 4, 3, 1, 1 and 2 samples; a part ends between those of row 1."""
    write_manifest(root, samples=4, input_rows=6)
    put_samples(root, 0, [(0, 0), (1, 0), (1, 1), (1, 2)])
    put_samples(root, 1, [(1, 3), (2, 0), (2, 1), (2, 2)])
    put_samples(root, 2, [(3, 0), (4, 0), (5, 0), (5, 1)])
    return root


def put_samples(root: Path, shard: int, samples: list[tuple[int, int]]) -> None:
    rows, indices = [row for row, _ in samples], [sample for _, sample in samples]
    ids = [f"row-{row}" for row in rows]
    put(root, shard, table(0, len(samples), id=ids, row=rows, sample_index=indices))


def test_rows_with_different_numbers_of_samples(mixed: Path) -> None:
    found = verify(mixed)

    assert found.complete, found.problems
    assert found.rows_in == 12


@pytest.mark.parametrize(
    ("shard", "samples", "problem"),
    [
        (0, [(1, 0), (1, 1), (1, 2)], "rows missing: 1 (0)"),
        (0, [(0, 0), (1, 1), (1, 2)], "rows missing: 1 (1)"),
        (0, [(0, 0), (1, 0), (1, 2)], "rows missing: 1 (1)"),
        (0, [(0, 0), (1, 0), (1, 1)], "rows missing: 1 (1)"),
        (1, [(2, 0), (2, 1), (2, 2)], "rows missing: 1, the last samples of some rows"),
        (1, [(1, 3)], "rows missing: 3 (2, …)"),
        (2, [(4, 0), (5, 0), (5, 1)], "rows missing: 1 (3)"),
        (2, [(3, 0), (4, 0), (5, 0)], "rows missing: 1, the last samples of some rows"),
        (2, [(3, 0), (4, 0)], "rows missing: 2 (5, …)"),
        (2, [(4, 0)], "rows missing: 3 (3, 5, …)"),
        (2, [(3, 0), (4, 0), (5, 0), (5, 1), (5, 2)], "rows too many: 1"),
        (2, [(3, 0), (4, 0), (5, 0), (5, 2)], "rows missing: 1 (5)"),
    ],
)
def test_samples_missing_of_a_row_among_unequal_ones(
    mixed: Path, shard: int, samples: list[tuple[int, int]], problem: str
) -> None:
    put_samples(mixed, shard, samples)

    assert only_problem(verify(mixed)) == problem


def test_a_sample_that_stands_twice(mixed: Path) -> None:
    put_samples(mixed, 2, [(3, 0), (4, 0), (5, 0), (5, 1), (2, 2)])

    found = verify(mixed)

    assert only_problem(found) == "rows more than once: 1 (2)"


def test_a_text_that_repeats_itself_is_an_answer(root: Path) -> None:
    put(root, 0, table(0, finish_reason=["repetition"] * SIZE))

    found = verify(root)

    assert found.complete
    assert (found.ok, found.error) == (10, 2)


def test_a_missing_part(root: Path) -> None:
    part(root, 1).unlink()

    found = verify(root)

    assert found.problems == [
        "parts missing: 1 (train-00001-of-00003.parquet) of 3",
        "rows missing: 4 (4, 5, 6, 7)",
    ]


@pytest.mark.parametrize("gap", [0, 5, 11])
def test_a_missing_row(root: Path, gap: int) -> None:
    shard, place = divmod(gap, SIZE)
    whole = table(shard * SIZE)
    put(root, shard, pa.concat_tables([whole.slice(0, place), whole.slice(place + 1)]))

    found = verify(root)

    assert only_problem(found) == f"rows missing: 1 ({gap})"
    assert found.ok + found.error == found.rows_in - 1


def test_a_row_that_stands_twice(root: Path) -> None:
    put(
        root,
        2,
        table(8, 5, row=[8, 9, 10, 11, 3], id=["row-8", "row-9", "row-10", "row-11", "new"]),
    )

    found = verify(root)

    assert only_problem(found) == "rows more than once: 1 (3)"


def test_an_id_that_stands_in_two_parts(root: Path) -> None:
    put(root, 2, table(8, id=["row-8", "row-9", "row-1", "row-11"]))

    found = verify(root)

    assert only_problem(found) == "ids more than once: 1 (row-1)"


def test_a_part_copied_over_another(root: Path) -> None:
    part(root, 2).write_bytes(part(root, 0).read_bytes())

    found = verify(root)

    assert found.problems == [
        "rows missing: 4 (8, 9, 10, 11)",
        "rows more than once: 4 (0, 1, 2, 3)",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "train-00001-of-00004.parquet",
        "other.parquet",
        "notes.json",
        "._train-00000-of-00003.parquet",
    ],
)
def test_a_foreign_file_among_the_parts(root: Path, name: str) -> None:
    (root / "data" / name).write_bytes(part(root, 1).read_bytes())

    found = verify(root)

    assert only_problem(found).endswith(f"no parts of this run: 1 ({name})")


def test_what_a_file_manager_leaves_is_no_part(root: Path) -> None:
    (root / "data" / ".DS_Store").touch()

    assert verify(root).complete


@pytest.mark.parametrize("position", [-1, 12, None])
def test_a_row_out_of_range(root: Path, position: int | None) -> None:
    put(root, 2, table(8, 5, row=[8, 9, 10, 11, position]))

    found = verify(root)

    assert only_problem(found) == f"rows out of range: 1 ({position})"


def test_a_sample_out_of_range(root: Path) -> None:
    put(root, 2, table(8, sample_index=[0, 0, 0, 1]))

    assert verify(root).problems[0] == "rows out of range: 1 (11)"


def test_a_part_cut_short_anywhere(root: Path) -> None:
    whole = part(root, 1).read_bytes()
    for size in range(0, len(whole), 53):
        part(root, 1).write_bytes(whole[:size])

        found = verify(root)

        assert f"{part(root, 1)} can't be read" in found.problems[0]
        assert found.problems[1:] == ["rows missing: 4 (4, 5, 6, 7)"]


@pytest.mark.parametrize("apart", sizes(41, 17))
def test_damaged_bytes_never_raise(root: Path, apart: int) -> None:
    whole = part(root, 1).read_bytes()
    for place in range(0, len(whole), apart):
        part(root, 1).write_bytes(whole[:place] + b"\x9d\xff" + whole[place + 2 :])

        found = verify(root)

        assert found.complete or found.problems


def test_a_part_with_another_schema(root: Path) -> None:
    whole = table(4)
    null = whole.set_column(whole.column_names.index("error"), "error", pa.nulls(SIZE))
    variants = {
        "column 'error' is null, not string": null,
        "no column 'prompt'": whole.drop_columns("prompt"),
        "column 'extra' is new": whole.append_column("extra", pa.nulls(SIZE, pa.string())),
        "its columns stand in another order": whole.select(whole.column_names[::-1]),
    }
    for message, rows in variants.items():
        put(root, 1, rows)
        found = verify(root)
        assert found.problems[0] == f"{part(root, 1)} has another schema: {message}"
        assert found.problems[1:] == ["rows missing: 4 (4, 5, 6, 7)"]


def test_a_part_without_rows(root: Path) -> None:
    put(root, 1, table(4).slice(0, 0))

    found = verify(root)

    assert f"{part(root, 1)} holds no rows" in found.problems


def test_rows_without_an_outcome(root: Path) -> None:
    put(root, 1, table(4, finish_reason=["stop", None, None, "abort"]))

    assert sorted(verify(root).problems) == [
        "1 row with the finish_reason 'abort'",
        "2 rows with the finish_reason None",
    ]


def test_rows_by_another_model(root: Path) -> None:
    put(root, 1, table(SIZE, model=["some-model", "another", "another", None]))

    assert verify(root).problems == [
        "2 rows by another, not by some-model",
        "1 row by None, not by some-model",
    ]


def test_datasets_from_before_models_had_identities(root: Path) -> None:
    manifest = json.loads((root / "_job" / "manifest.json").read_text())
    del manifest["revision"]
    manifest["model"] = "/here/some-model"
    (root / "_job" / "manifest.json").write_text(json.dumps(manifest))

    assert verify(root).complete


def test_rows_without_an_id(root: Path) -> None:
    put(root, 1, table(4, id=[None, None, "row-6", "row-7"]))

    assert only_problem(verify(root)) == "2 rows without an id"


def test_only_the_first_findings_are_listed(root: Path) -> None:
    write_manifest(root, rows=1000)

    found = verify(root)

    assert only_problem(found).startswith("rows missing: 988 (12, 13, ")
    assert only_problem(found).endswith(", 31, …)")


def test_a_dataset_without_parts(root: Path) -> None:
    for shard in range(SHARDS):
        part(root, shard).unlink()
    (root / "data").rmdir()

    found = verify(root)

    assert "can't be read" in found.problems[0]
    assert found.problems[-1].startswith("rows missing: 12 (0, 1, ")


def test_without_a_manifest_there_is_nothing_to_verify(root: Path) -> None:
    (root / "_job" / "manifest.json").unlink()

    with pytest.raises(DatasetError, match=r"manifest\.json is missing"):
        verify(root)


def test_the_cost_of_many_rows(root: Path) -> None:
    size, shards = 20_000, 10
    write_manifest(root, rows=size * shards, shards=shards)
    for shard in range(SHARDS):
        part(root, shard).unlink()
    for shard in range(shards):
        pq.write_table(table(shard * size, size), part(root, shard, shards))

    started = time.perf_counter()
    found = verify(root)

    assert found.complete
    print(f"\n{size * shards} rows verified in {time.perf_counter() - started:.2f} s")
