"""How large and how long batches are, by what a backend computes in the same time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from vllm_mlx.platform.device import backend

LEAST_PIECE = 128
"""Tokens of a row that are computed at once however much it holds."""

ROWS_AN_EXPERT = 4
MOST_ROWS = 256
_CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_top_k", "top_k_experts", "moe_k")
"""What configs call the number of experts that a token takes."""


class PrefillShapes(NamedTuple):
    """How prompts are batched.

    Attributes:
        overhead: prompt tokens that take as long as starting one more batch does.
        multiple: lengths are padded to multiples of this.
        scores: pairs of a query and a key that a layer's attention computes at once at most.
    """

    overhead: int
    multiple: int
    scores: int | None = None

    def padded(self, length: int) -> int:
        """`length`, up to the next multiple."""
        return -(-length // self.multiple) * self.multiple

    def most_tokens(self, tokens: int, rows: int, held: int) -> int:
        """Of so many tokens, how many to compute at once of rows that hold `held` each."""
        if self.scores is None:
            return tokens
        # A row's own part n of a piece has n * (held + n) pairs.
        own = (math.isqrt(held**2 + 4 * self.scores // rows) - held) // 2
        return min(tokens, rows * max(LEAST_PIECE, own))


def prefill_shapes() -> PrefillShapes:
    """How prompts are padded and batched; see `PrefillShapes`.

    On a GPU a small prefill reads all weights for few tokens and costs as much as some hundred
    do. On CUDA a batch takes some 25 ms to launch, and 11 us a token. An Apple GPU
    computes so much slower than it reads that padding soon costs more than another batch: 15 % of
    what `uneven` computes with an overhead of 128, 6 % with 24. macOS ends what keeps its GPU from
    drawing for seconds, as 2,048 tokens after 120,000 do, so pieces become shorter from 16,000 on.
    """
    shapes = {
        "cpu": PrefillShapes(overhead=8, multiple=1),
        "metal": PrefillShapes(overhead=24, multiple=16, scores=2048 * 16384),
        "cuda": PrefillShapes(overhead=2048, multiple=32),
    }
    return shapes[backend()]


def rows_for_experts(model: Any) -> int:
    """Rows side by side that a model with experts should have; 0 where it needs no more.

    With four rows an expert, Metal reads the weights of each once for all of its rows, with fewer
    once a row: 256 experts of which a token takes 8 need 128 rows.
    """
    if backend() != "metal" or not hasattr(model, "modules"):
        return 0
    kinds = [each for each in model.modules() if type(each).__name__.endswith("SwitchLinear")]
    experts = max((each.weight.shape[0] for each in kinds), default=0)
    settings = [getattr(model, "args", None), getattr(model, "config", None)]
    chosen = [getattr(each, name, None) for each in settings for name in _CHOSEN]
    taken = next((each for each in chosen if each), 0)
    return min(MOST_ROWS, -(-ROWS_AN_EXPERT * experts // taken)) if taken else 0


def refill_share() -> float:
    """The share of a full batch that must be free before more is admitted.

    A GPU takes about as long for the prompt of one as for those of a few, and for a step of 256
    rows not much longer than for one of 128, so slots that wait for company cost it little.
    """
    return {"cpu": 0.0, "metal": 1 / 32, "cuda": 1 / 8}[backend()]


def width_tile() -> int | None:
    """Rows that a step computes in the time of one; None if each takes time of its own.

    On an Apple GPU a quantized product takes as long for 10 rows as for 32, and twice that for 33.
    """
    return 32 if backend() == "metal" else None


def shrink_below() -> float:
    """A batch is made narrower when its rows need less than this share of its width.

    Each row less saves time on a CPU; on a GPU a step of 32 takes as long as one of 8.
    """
    return {"cpu": 0.75, "metal": 0.5, "cuda": 0.25}[backend()]
