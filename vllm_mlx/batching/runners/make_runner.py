"""Which runner a model gets: its own if it brings one, or else the fastest that suits it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx import platform
from vllm_mlx.batching.runners.one_by_one import text_runner
from vllm_mlx.batching.runners.probe import disagreement, media_disagreement, only_slots_agree
from vllm_mlx.batching.runners.reason import reason_of
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.runners.split import SplitRunner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.slots.budget import KVBudget
from vllm_mlx.batching.slots.layout import Layout
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.scheduler_config import Bounds, SchedulerConfig

logger = logging.getLogger(__name__)

LONGEST_REASON = 300  # characters; what a library raises may be long


def make_runner(model: Any, *, vocab_size: int, config: SchedulerConfig | None = None) -> Runner:
    """Return the model's own runner if it has a `new_runner`.

    Else a `SlotRunner` if slots have a form for all that it remembers, or an `UpstreamRunner`; a
    `OneByOneRunner` if the answers of these are not those that the model gives to one prompt alone.

    Args:
        model: `model(tokens, cache=caches)` gives logits `[B, L, V]`.
        config: bounds; what is None there is the backend's default.

    Raises:
        ModelLoadError: a model with images in its prompts does not suit slots.
    """
    mx.set_cache_limit(platform.cache_limit())
    bounds = platform.resolve(config or SchedulerConfig(), model)
    kind = getattr(model, "model_type", type(model).__name__)
    new_own: Callable[..., Runner] | None = getattr(model, "new_runner", None)
    if new_own:
        own = new_own(vocab_size=vocab_size, bounds=bounds)
        return _told(kind, own, f"in its own {type(own).__name__}")
    why: list[str] = []
    for way, new_runner, layout in _batches(model, vocab_size, bounds, why):
        reason = disagreement(new_runner, model, vocab_size)
        if reason and layout and only_slots_agree(model, layout, vocab_size):
            reason = disagreement(new_runner, model, vocab_size, partial(layout.alone, model))
            way += "; with caches of its own it answers by how a prompt is cut"
        if reason is None:
            runner = _seeing(model, new_runner, vocab_size, bounds, why)
            return _told(kind, runner, way, why)
        why.append(f"not {way}: {reason}")
    if hasattr(model, "prefill") and not hasattr(model, "new_alone_runner"):
        raise ModelLoadError("slots can't hold the cache of this model, which needs them to see")
    new_alone = getattr(model, "new_alone_runner", partial(text_runner, model))
    return _told(kind, new_alone(vocab_size=vocab_size, bounds=bounds), "one row at a time", why)


def _told(kind: str, runner: Runner, way: str, why: Seq[str] = ()) -> Runner:
    """Log how a model runs, in one line, and let its runner say it, too."""
    reasons = "; ".join(" ".join(each.split())[:LONGEST_REASON] for each in why)
    runner.way = f"{way} ({reasons})" if reasons else way
    logger.log(logging.WARNING if why else logging.INFO, "%s runs %s", kind, runner.way)
    return runner


def _seeing(
    model: Any,
    new_runner: Callable[[], Runner],
    vocab_size: int,
    bounds: Bounds,
    why: list[str],
) -> Runner:
    """Return the runner, for text only if it does not suit a prompt with an image."""
    if not hasattr(model, "media_trial") or (prompt := model.media_trial()) is None:
        return new_runner()
    new_alone = partial(model.new_alone_runner, vocab_size=vocab_size, bounds=bounds)
    reason = media_disagreement(new_runner, new_alone, model, prompt, vocab_size)
    if reason is None:
        return new_runner()
    why.append(f"rows with media beside it, one at a time: {reason}")
    return SplitRunner(new_runner(), new_alone())


def _batches(
    model: Any, vocab_size: int, bounds: Bounds, why: list[str]
) -> Iterator[tuple[str, Callable[[], Runner], Layout | None]]:
    """Yield what may step the model, fastest first, with the layout of its slots if it has any;
    `why` gets to know why something may not."""
    try:
        layout = Layout.of(make_prompt_cache(model))
        footprint = layout.footprint(model)
    except Exception as error:  # whatever an architecture does with a cache
        if platform.is_device_failure(error):
            raise ModelLoadError(f"the GPU failed over one token: {error}") from error
        why.append(f"not in slots: {reason_of(error)}")
    else:
        tile = platform.width_tile()
        budget = KVBudget(bounds.kv_cache_bytes, footprint, bounds.max_num_seqs, tile)
        slots = partial(
            SlotRunner, model, layout=layout, vocab_size=vocab_size, budget=budget, bounds=bounds
        )
        yield f"in slots, {layout}", slots, layout
        if platform.compiles_steps():
            yield f"in slots, steps not compiled, {layout}", partial(slots, compiles=False), layout
        if layout.has_states:  # some read the padding of a prompt as if it were prompt
            yield f"in slots, prompts of one length, {layout}", partial(slots, pads=False), layout
        if hasattr(model, "media_trial"):  # some that see let all of a prompt see all of it
            whole = partial(slots, pads=False, whole=True)
            yield f"in slots, whole prompts of one length, {layout}", whole, layout
    if not hasattr(model, "prefill"):
        upstream = partial(UpstreamRunner, model, vocab_size=vocab_size, bounds=bounds)
        yield "in mlx-lm's batches", upstream, None
