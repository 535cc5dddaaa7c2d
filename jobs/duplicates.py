"""Rows that ask the same as an earlier row of their run, and so get the same answer."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from jobs.requests import GenerationRequest
from jobs.sources import Input
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams

Duplicates = Mapping[int, int]
"""The position of a row → that of the first one that asks the same."""


def has_one_answer(request: GenerationRequest, params: SamplingParams) -> bool:
    """Whether a row's answer is the same whenever it is asked for; params are its settings.

    One that is drawn without a seed of the row's own is like no other.
    """
    return request.seed is not None or params.greedy


class Suspects:
    """Rows that may have duplicates, told by a hash of the prompt: 16 bytes a row."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._rows = array("q")

    def observe(self, row: int, request: GenerationRequest) -> None:
        """Add a good row."""
        said = request.prompt or str(request.messages)
        asked = (said, request.images, request.videos) if request.media else said
        self._hashes.append(hash(asked))
        self._rows.append(row)

    def rows(self) -> frozenset[int]:
        """Return the rows of which at least two have one hash."""
        if len(self._rows) < 2:
            return frozenset()
        hashes, rows = (
            pa.Array.from_buffers(pa.int64(), len(each), [None, pa.py_buffer(each)])
            for each in (self._hashes, self._rows)
        )
        ordered = pc.array_sort_indices(hashes)
        hashes, rows = hashes.take(ordered), rows.take(ordered)
        again = pc.equal(hashes.slice(1), hashes.slice(0, len(hashes) - 1))
        if not again.true_count:
            return frozenset()
        found = {*rows.slice(1).filter(again).to_pylist()}
        return frozenset(found.union(rows.slice(0, len(rows) - 1).filter(again).to_pylist()))


def find_duplicates(
    source: Input,
    suspects: frozenset[int],
    *,
    sampling: SamplingParams,
    video_params: VideoParams,
    n: int,
) -> dict[int, int]:
    """Compare suspects in all that decides an answer.

    Args:
        sampling, video_params, n: what holds for a row that does not say it itself.
    """
    first: dict[bytes, int] = {}
    found: dict[int, int] = {}
    if not suspects:
        return found
    for row in source.rows():
        if row.row in suspects:
            request = source.dialect.request(row.data).located(source.folder)
            at = first.setdefault(_key(request, sampling, video_params, n), row.row)
            if at != row.row:
                found[row.row] = at
    return found


def _key(
    request: GenerationRequest, sampling: SamplingParams, video_params: VideoParams, n: int
) -> bytes:
    params = request.over(sampling)
    asked = {
        "n": request.samples(n),
        "params": params.model_dump(mode="json", exclude={"seed"} if params.greedy else None),
        "prompt": request.prompt,
        "messages": request.messages,
        "media": request.media,
        "video": request.over(video_params).model_dump(mode="json") if request.media else None,
    }
    return blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).digest()
