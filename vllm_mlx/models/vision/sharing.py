"""What prompts with media may share of each other, where mlx-vlm's processors write the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from mlx_vlm.generate.common import _chunked_prefill_enabled

from vllm_mlx.outputs import MediaInfo

_PLACEHOLDERS = tuple(
    f"{kind}_token_{end}" for kind in ("image", "video") for end in ("id", "index")
)

Places = tuple[npt.NDArray[np.intp], ...]


def is_whole(model: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether tokens of a prompt see later ones, so that it may not be computed in pieces."""
    given: Any = dict(inputs)
    return not _chunked_prefill_enabled(
        model, input_ids=given.pop("input_ids"), prefill_kwargs=given
    )


def content_places(
    config: Any, tokens: Sequence[int], infos: Sequence[MediaInfo]
) -> tuple[Places, tuple[str, ...]]:
    """Return the tokens that stand for the media of a prompt, and what stands for their content.

    Which of them stand for which medium is the processor's secret: two prompts share a beginning
    with media in it if all their media are the same.
    """
    marks = [getattr(config, name, None) for name in _PLACEHOLDERS]
    places = np.flatnonzero(np.isin(tokens, [mark for mark in marks if isinstance(mark, int)]))
    if not places.size:
        places = np.arange(len(tokens))
    return (places,), (" ".join(f"{info.kind} {info.hash}" for info in infos),)
