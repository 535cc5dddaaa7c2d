"""`reason_of`: why slots, or another runner, do not suit a model, in plain words."""

from __future__ import annotations

from vllm_mlx.batching.slots.keys_values import PromptKVCache, SlotKVCache
from vllm_mlx.batching.slots.layout import UnsuitableCacheError
from vllm_mlx.batching.slots.states import PromptStates, SlotStates

_FORMS = [f"'{form.__name__}'" for form in (PromptKVCache, SlotKVCache, PromptStates, SlotStates)]


def reason_of(error: Exception) -> str:
    """Say what an error that a model raised over a few tokens tells of it."""
    if isinstance(error, UnsuitableCacheError):
        return str(error)
    is_access = isinstance(error, AttributeError | TypeError)
    if is_access and any(form in str(error) for form in _FORMS):
        asked = getattr(error, "name", None)
        return f"it reads the arrays of its caches itself{f', by {asked}' if asked else ''}"
    return f"{type(error).__name__}: {error}"
