"""`ThoughtBudgets`: thoughts that are long enough end, whatever the model would say next.

Nothing waits for a token to be read: what has to come is known but for the one token that has been
chosen and not read yet, and that one is compared where it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from vllm_mlx.batching.logits import Choose
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.text.thinking import Thinking


class ThoughtBudgets:
    """Watches what is chosen for the rows of a batch.

    A sequence that starts again has another `Thinking`, and so begins anew here.
    """

    def __init__(self) -> None:
        self._chosen: dict[Thinking, int] = {}  # tokens of each row so far
        self._last: dict[Thinking, tuple[mx.array, int]] = {}  # where its last one is

    def bounded(self, choose: Choose, rows: Mapping[int, Sequence]) -> Choose:
        """Return what chooses for these rows, by their places, and keeps to their budgets."""
        bounded = [
            (at, row, row.thinking)
            for at, row in rows.items()
            if row.thinking and row.thinking.budget is not None
        ]
        self._chosen = {thinking: self._chosen.get(thinking, 0) for _, _, thinking in bounded}
        if not bounded:
            self._last = {}
            return choose

        def choose_bounded(logits: mx.array) -> mx.array:
            tokens = choose(logits)
            for at, row, thinking in bounded:
                unread = self._chosen[thinking] - len(row.output_tokens)
                self._chosen[thinking] += 1
                forced = thinking.forced(unread)
                if forced.is_free:
                    continue
                token = _either(forced.token, tokens[at])
                if forced.awaited is not None:
                    before, place = self._last[thinking]
                    other = _either(forced.after_awaited, tokens[at])
                    token = mx.where(before[place] == forced.awaited, other, token)
                tokens[at] = token
            self._last = {thinking: (tokens, at) for at, _, thinking in bounded}
            return tokens

        return choose_bounded


def _either(forced: int | None, chosen: mx.array) -> mx.array:
    return chosen if forced is None else mx.array(forced, dtype=chosen.dtype)
