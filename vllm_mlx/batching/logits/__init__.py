"""What reads and changes logits: constraints, penalties, scores, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

Choose = Callable[[mx.array], mx.array]
"""From logits or log-probabilities `[S, V]` to token ids, int32 `[S]`."""
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]
"""From the tokens before and logits `[1, V]` to other logits; mlx-lm's `generate_step` takes it."""
