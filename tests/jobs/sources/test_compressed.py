"""Compressed files: read as what they hold, whichever way they were compressed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.errors import InputFileError
from jobs.sources import Format, detect_format, read_requests

PROMPTS = [f"prompt {n}, of Łódź" for n in range(3000)]
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
}
CONTENTS = {
    "a.jsonl": "".join(f'{{"prompt": "{prompt}"}}\n' for prompt in PROMPTS),
    "a.json": json.dumps([{"prompt": prompt} for prompt in PROMPTS], indent=2),
    "a.csv": "prompt\n" + "".join(f'"{prompt}"\n' for prompt in PROMPTS),
    "a.tsv": "at\tprompt\n" + "".join(f"{at}\t{prompt}\n" for at, prompt in enumerate(PROMPTS)),
    "a.txt": "\n".join(PROMPTS),
}
FORMATS = {
    "a.jsonl": Format.JSONL,
    "a.json": Format.JSONL,
    "a.csv": Format.CSV,
    "a.tsv": Format.CSV,
    "a.txt": Format.TEXT,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CONTENTS)
def test_rows_are_those_of_the_file_as_it_was(tmp_path: Path, name: str, way: str) -> None:
    path = tmp_path / f"{name}.{way}"
    path.write_bytes(WAYS[way](CONTENTS[name].encode()))

    rows = list(read_requests(path))

    assert detect_format(path) is FORMATS[name]
    assert [row.request.prompt for row in rows if row.request] == PROMPTS
    assert not any(row.error for row in rows)


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_ends_too_early_is_damaged(tmp_path: Path, way: str) -> None:
    path = tmp_path / f"a.jsonl.{way}"
    whole = WAYS[way](CONTENTS["a.jsonl"].encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputFileError, match="is compressed, and damaged: "):
        list(read_requests(path))
