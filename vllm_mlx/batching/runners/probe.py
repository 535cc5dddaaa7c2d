"""`disagreement`: why a runner does not suit a model, found by trying it on a few tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx import platform
from vllm_mlx.batching.logits.logprobs import Logprobs
from vllm_mlx.batching.prompts.prompt import Prepared
from vllm_mlx.batching.prompts.prompt_media import PromptMedia
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.runners.reason import reason_of
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.layout import Layout
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.sampling_params import SamplingParams

_PARAMS = SamplingParams.of(temperature=0, logprobs=8)
_WINDOW = 256  # sliding windows up to this size are filled
Alone = Callable[[int], Callable[[list[int]], mx.array]]
"""Makes what computes one row of so many tokens, piece after piece: logits `[1, L, V]`."""
_PIECES = 8  # that a prompt is cut into
_SPECIAL = 8  # the first token ids, which mean something of their own in most vocabularies


def disagreement(
    new_runner: Callable[[], Runner],
    model: Any,
    vocab_size: int,
    alone: Alone | None = None,
) -> str | None:
    """Return why a runner's answers are not those that the model gives to each prompt alone; None
    if they are.

    Args:
        alone: what computes one row; by default the model with caches of its own.

    Two prompts of other lengths, and one of one token, join a shorter one that has begun to decode,
    or follow it if there is no room for four, so that rows are padded, stand at different positions
    and move to a wider batch. The last step is the second one of its size, which is compiled where
    steps are. It takes a dozen calls of the model with few tokens.
    """
    tolerance = platform.trial(_chooses_experts(model))[1]
    alone = alone or partial(_with_own_caches, model)
    try:
        longest = _longest(model)
        runner = new_runner()
        lengths = _lengths(longest, runner.bounds.max_num_batched_tokens)
        first = _row(lengths[0], 3, vocab_size)
        longer, padded, one = (_row(length, 2, vocab_size) for length in (*lengths[1:], 1))
        room = runner.bounds.max_num_seqs
        joining = [[longer, padded, one]] if room > 3 else [[longer, padded], [one]]
        found = _answer(runner, [[first], *(joining if room > 1 else [[one]])])
        told = [row for row in (first, padded, one) if row in found]
        gaps = [gap for row in told for gap in _gaps(alone, row, found[row])]
    except Exception as error:  # whatever an architecture does with a cache
        return _reason(error)
    if all(gap <= tolerance for gap in gaps):
        return None
    return f"log-probabilities differ by {max(gaps):.2g} from those of a row alone"


def only_slots_agree(model: Any, layout: Layout, vocab_size: int) -> bool:
    """Whether a model's answers depend on how a prompt is cut with caches of its own, but not with
    the memories of slots.

    Such a model takes the positions of some layers from caches that others have written. It has
    no answer of its own, and over slots the one that does not depend on cuts.
    """
    tolerance = platform.trial(_chooses_experts(model))[1]
    try:
        tokens = _row(_longest(model), 0, vocab_size).prompt_tokens
        own, slots = (
            _gap_of_cuts(alone, tokens)
            for alone in (partial(_with_own_caches, model), partial(layout.alone, model))
        )
        return slots < tolerance / 2 < own
    except Exception as error:  # whatever an architecture does with a cache
        _reason(error)
        return False


def _gap_of_cuts(alone: Alone, tokens: list[int]) -> float:
    """How far log-probabilities of a prompt in short pieces are from those of it at once."""
    whole = _last_logprobs(alone(len(tokens))(tokens))
    compute, size = alone(len(tokens)), max(1, len(tokens) // _PIECES)
    pieces = [compute(tokens[at : at + size]) for at in range(0, len(tokens), size)]
    cut = _last_logprobs(pieces[-1])
    likely = mx.argsort(-whole)[: _PARAMS.logprobs]
    gap: Any = mx.abs(whole - cut)[likely].max().item()
    return float(gap)


def _longest(model: Any) -> int:
    """Return the tokens of a prompt that fills windows."""
    longest = platform.trial(_chooses_experts(model))[0]
    windows = [getattr(cache, "max_size", 0) for cache in make_prompt_cache(model)]
    return max(longest, *(size + 2 for size in windows if size <= _WINDOW))


def media_disagreement(
    new_runner: Callable[[], Runner],
    new_alone: Callable[[], Runner],
    model: Any,
    prompt: Prepared,
    vocab_size: int,
) -> str | None:
    """Return why a runner's answer to a prompt with media is not the one of another runner, which
    steps it alone; None if it is.

    It joins a row of text that has begun to decode. Its media are seen twice.
    """
    _, tolerance = platform.trial(_chooses_experts(model))
    try:
        rows = [_row(3, 2, vocab_size), _sequence(*prompt, 2)]
        runner = new_runner()
        rows = rows[-runner.bounds.max_num_seqs :]
        found = _answer(runner, [[row] for row in rows])[rows[-1]]
        alone = _sequence(*prompt, 2)
        expected = _answer(new_alone(), [[alone]])[alone]
    except Exception as error:  # whatever an image leads a model to
        return _reason(error)
    gaps = list(_apart(found, expected))
    if all(gap <= tolerance for gap in gaps):
        return None
    return f"log-probabilities differ by {max(gaps):.2g} from those of the row alone"


def _chooses_experts(model: Any) -> bool:
    parts = model.modules() if isinstance(model, nn.Module) else ()
    return any(type(part).__name__.endswith("SwitchLinear") for part in parts)


def _reason(error: Exception) -> str:
    """Say what a runner failed with.

    Raises:
        ModelLoadError: the GPU failed, which says nothing of the runner.
    """
    if platform.is_device_failure(error):
        raise ModelLoadError(f"the GPU failed over a few tokens: {error}") from error
    return reason_of(error)


def _lengths(longest: int, most: int) -> tuple[int, int, int]:
    """Return tokens of the row that comes first, and of two that are padded to one length, for
    which both must be computed at once."""
    if 2 * (longest - 1) <= most:
        return 3, longest, longest - 3
    short = max(2, most // 2 + 1)
    return longest, short, short - 1


def _row(length: int, max_tokens: int, vocab_size: int) -> Sequence:
    ids = max(1, min(vocab_size, 97) - _SPECIAL)
    tokens = [_SPECIAL + (7 * at + length) % ids for at in range(length)]
    return _sequence(tokens, None, max_tokens)


def _sequence(tokens: list[int], media: PromptMedia | None, max_tokens: int) -> Sequence:
    no_text: Any = bool
    return Sequence(
        Request("", _PARAMS),
        tokens,
        max_tokens=max_tokens,
        model="",
        new_detokenizer=no_text,
        media=media,
    )


def _answer(runner: Runner, groups: list[list[Sequence]]) -> dict[Sequence, list[Logprobs]]:
    """Step groups of rows, each of which joins as soon as there is room behind those before it."""
    rows = [row for group in groups for row in group]
    found: dict[Sequence, list[Logprobs]] = {row: [] for row in rows}
    waiting, left = groups[::-1], runner.bounds.max_num_seqs
    while any(len(found[row]) < row.max_tokens for row in rows):
        if waiting and left >= len(waiting[-1]):
            joining = waiting.pop()
            left -= len(joining)
            for row in joining:
                runner.announce(row)
                runner.reserve(row)
            runner.insert(joining)
        for row, token, logprobs in runner.step():
            if token is None or logprobs is None:
                raise ValueError("the logits are not finite")
            row.output_tokens.append(token)
            found[row].append(logprobs)
            if len(found[row]) == row.max_tokens:
                runner.remove(row)
                left += 1
    runner.close()
    return found


def _apart(found: list[Logprobs], expected: list[Logprobs]) -> Iterator[float]:
    """Yield how far apart two answers are, as far as they go on from the same tokens."""
    for one, other in zip(found, expected, strict=True):
        token, value = one.top[0]
        yield abs(value - dict(other.top).get(token, -math.inf))
        if other.top[0][0] != token:
            return


def _gaps(alone: Alone, row: Sequence, found: list[Logprobs]) -> Iterator[float]:
    """Yield how far log-probabilities are from those of the row alone."""
    compute, tokens = alone(len(row.prompt_tokens) + row.max_tokens), row.prompt_tokens
    for token, logprobs in zip(row.output_tokens, found, strict=True):
        expected: Any = _last_logprobs(compute(tokens))
        tokens = [token]
        for each, value in logprobs.top:
            yield abs(value - expected[each].item())


def _last_logprobs(logits: mx.array) -> mx.array:
    last = logits[0, -1].astype(mx.float32)
    return last - mx.logsumexp(last)


def _with_own_caches(model: Any, stop: int) -> Callable[[list[int]], mx.array]:  # noqa: ARG001
    caches = make_prompt_cache(model)

    def compute(tokens: list[int]) -> mx.array:
        logits: mx.array = model(mx.array([tokens]), cache=caches)
        return logits

    return compute
