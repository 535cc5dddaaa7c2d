"""`disagreement`: why a runner does not suit a model, found by trying it on a few tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx import platform
from vllm_mlx.batching.logprobs import Logprobs
from vllm_mlx.batching.prompt_media import PromptMedia
from vllm_mlx.batching.prompts import Prepared
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.runner import Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.sampling_params import SamplingParams

_PARAMS = SamplingParams.of(temperature=0, logprobs=8)
_WINDOW = 256  # sliding windows up to this size are filled
_MOST_NOISE = 3.0  # a position wrong by 20 changes log-probabilities by 4.8
_SPECIAL = 8  # the first token ids, which mean something of their own in most vocabularies


def disagreement(new_runner: Callable[[], Runner], model: Any, vocab_size: int) -> str | None:
    """Return why a runner's answers are not those that the model gives to each prompt alone; None
    if they are.

    Two prompts of other lengths join a shorter one that has begun to decode, or follow it if there
    is no room for three, so that rows are padded, stand at different positions and move to a wider
    batch. The last step is the second one of its size, which is compiled where steps are. It takes
    ten calls of the model with few tokens, and a few more for one whose rounding decides.
    """
    longest, tolerance = platform.trial()
    try:
        windows = [getattr(cache, "max_size", 0) for cache in make_prompt_cache(model)]
        longest = max(longest, *(size + 2 for size in windows if size <= _WINDOW))
        runner = new_runner()
        first, *pair = _lengths(longest, runner.bounds.max_num_batched_tokens)
        rows = [_row(first, 3, vocab_size)]
        if runner.bounds.max_num_seqs > 1:
            rows += [_row(length, 2, vocab_size) for length in pair]
        found = _answer(runner, rows)
        gap = max(_gap(model, row, found[row]) for row in (rows[0], rows[-1]))
        if tolerance < gap <= _MOST_NOISE:
            noise = max(_noise(model, row, found[row]) for row in (rows[0], rows[-1]))
            tolerance = max(tolerance, 2 * noise)
    except Exception as error:  # whatever an architecture does with a cache
        return _reason(error)
    if gap <= tolerance:
        return None
    return f"log-probabilities differ by {gap:.2g} from those of a row alone"


def media_disagreement(
    new_runner: Callable[[], Runner],
    new_alone: Callable[[], Runner],
    prompt: Prepared,
    vocab_size: int,
) -> str | None:
    """Return why a runner's answer to a prompt with media is not the one of another runner, which
    steps it alone; None if it is.

    It joins a row of text that has begun to decode. Its media are seen twice.
    """
    _, tolerance = platform.trial()
    try:
        rows = [_row(3, 2, vocab_size), _sequence(*prompt, 2)]
        runner = new_runner()
        rows = rows[-runner.bounds.max_num_seqs :]
        found = _answer(runner, rows)[rows[-1]]
        alone = _sequence(*prompt, 2)
        expected = _answer(new_alone(), [alone])[alone]
    except Exception as error:  # whatever an image leads a model to
        return _reason(error)
    gaps = list(_apart(found, expected))
    if all(gap <= tolerance for gap in gaps):
        return None
    return f"log-probabilities differ by {max(gaps):.2g} from those of the row alone"


def _reason(error: Exception) -> str:
    """Say what a runner failed with.

    Raises:
        ModelLoadError: the GPU failed, which says nothing of the runner.
    """
    if platform.is_device_failure(error):
        raise ModelLoadError(f"the GPU failed over a few tokens: {error}") from error
    return f"{type(error).__name__}: {error}"


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


def _answer(runner: Runner, rows: list[Sequence]) -> dict[Sequence, list[Logprobs]]:
    found: dict[Sequence, list[Logprobs]] = {row: [] for row in rows}
    waiting, left = [rows[1:], rows[:1]], runner.bounds.max_num_seqs
    while any(len(found[row]) < row.max_tokens for row in rows):
        if waiting and left >= len(waiting[-1]) and (joining := waiting.pop()):
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


def _gap(model: Any, row: Sequence, found: list[Logprobs]) -> float:
    """Return how far log-probabilities are from those of the row alone."""
    return max(
        abs(value - alone[token].item())
        for logprobs, alone in zip(found, _alone(model, row), strict=True)
        for token, value in logprobs.top
    )


def _noise(model: Any, row: Sequence, found: list[Logprobs]) -> float:
    """Return how far the row alone is from itself where it is computed at once, its answer with
    its prompt; 0 in float32.

    Rounded to 16 bits, experts whose scores are nearly equal are chosen otherwise wherever a
    product has another shape.
    """
    tokens = [*row.prompt_tokens, *row.output_tokens[:-1]]
    logits = model(mx.array([tokens]), cache=make_prompt_cache(model))[0, -len(found) :]
    if logits.dtype == mx.float32:
        return 0.0
    at_once = _logprobs(logits)
    return max(
        abs((one[token] - other[token]).item())
        for logprobs, one, other in zip(found, _alone(model, row), at_once, strict=True)
        for token, _ in logprobs.top
    )


def _alone(model: Any, row: Sequence) -> Iterator[mx.array]:
    """Yield log-probabilities `[V]` behind a row's prompt, and all tokens of its answer but the
    last."""
    cache, tokens = make_prompt_cache(model), row.prompt_tokens
    for token in row.output_tokens:
        yield _logprobs(model(mx.array([tokens]), cache=cache)[0, -1])
        tokens = [token]


def _logprobs(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
