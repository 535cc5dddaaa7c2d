"""`VisionPair`: one vision model twice, ours and the peer's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn

from vllm_mlx.batching.loaded_model import LoadedModel

TINY = Path(__file__).parent.parent / "examples" / "tiny_vlm" / "model"


@dataclass(frozen=True)
class VisionPair:
    """The same weights twice: as our loader leaves them, and as mlx-vlm has them."""

    ours: LoadedModel
    peers: nn.Module
    processor: Any
    name: str


class NoText:
    """Random weights choose tokens that the tiny tokenizer does not know."""

    text = last_segment = ""

    def reset(self) -> None:
        """No text."""

    def add_token(self, token: int) -> None:
        """No text."""

    def finalize(self) -> None:
        """No text."""
