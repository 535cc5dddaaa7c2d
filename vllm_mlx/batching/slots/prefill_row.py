"""`PrefillRow`: a sequence in prefill, or a prefix that several will share."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_mlx.batching.prompts.prompt_media import PromptMedia
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.prefix import Prefix
from vllm_mlx.batching.slots.scoring import Scoring


@dataclass(eq=False, slots=True)
class PrefillRow:
    """One row of a prefill: a sequence, or a prefix that several sequences will share.

    Attributes:
        tokens: those to compute, after `base`.
        base: the prefix they go on from.
        target: the sequence or the prefix that gets the result.
        media: the images and videos of the prompt that they are from.
        whole: all its tokens are computed at once.
        scoring: what is asked of its tokens; None if they are only computed.
        opens: its one token is the whole prompt, and its answer begins with what prefill finds to
            follow it.
    """

    tokens: list[int]
    base: Prefix | None
    target: Sequence | Prefix
    media: PromptMedia | None = None
    whole: bool = False
    scoring: Scoring | None = None
    opens: bool = False

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """Rows of one kind may be computed together: none of them computes logits for nothing."""
        is_first = bool(self.scoring and self.scoring.behind_prefix is None)
        return bool(self.scoring), is_first, self.opens

    @property
    def start(self) -> int:
        return self.base.end if self.base else 0

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def is_alone(self) -> bool:
        """Whether no other row can be computed beside it."""
        return self.media is not None and self.media.alone

    @property
    def is_whole(self) -> bool:
        """Whether all its tokens are computed at once."""
        return self.whole or (self.media is not None and self.media.whole)
