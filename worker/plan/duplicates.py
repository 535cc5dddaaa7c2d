"""`Duplicates`: rows that ask the same as an earlier one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from jobs.requests import GenerationRequest
from vllm_mlx.batching.request import Request


@dataclass(slots=True)
class Duplicates:
    """Counts rows of which prompt and settings stood in a row before.

    Attributes:
        rows: how many.
        alike: those of them whose answer is the earlier one's, since nothing is drawn or a seed
            says how.
    """

    rows: int = 0
    alike: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def add(self, request: Request, row: GenerationRequest) -> None:
        said = row.model_dump_json(include={"prompt", "messages", "images", "videos"})
        settings = request.params.model_dump_json()
        key = hashlib.blake2b(f"{said}{settings}".encode(), digest_size=16).digest()
        if key in self._seen:
            self.rows += 1
            self.alike += request.params.greedy or request.params.seed is not None
        self._seen.add(key)
