"""`ChoiceScoring`: labels ranked by how likely they follow a prompt, instead of an answer.

Each label is a sequence of its own behind the same prompt, which is computed once for all.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace

from vllm_mlx.batching.request import Request, fail, new_request_id
from vllm_mlx.errors import InvalidRequestError, shown
from vllm_mlx.outputs import ChoiceScore, GenerationOutput, TokenLogprob
from vllm_mlx.sampling_params import SamplingParams


class ChoiceScoring:
    """The labels of one request on their way.

    Args:
        encode: makes tokens of a label.
        prompt_tokens: those of the prompt.
        future: resolves to the output once all labels are scored.

    Attributes:
        requests: one a label; each reads the prompt and its label, and generates nothing.
        labels: their tokens.

    Raises:
        InvalidRequestError: a label has no tokens, or more than `max_tokens`.
    """

    def __init__(
        self,
        request: Request,
        encode: Callable[[str], list[int]],
        prompt_tokens: int,
        future: Future[GenerationOutput],
    ) -> None:
        self._params = params = request.params
        self._choices = params.choices
        self._prompt_tokens = prompt_tokens
        self._future = future
        self._on_chunk = request.on_chunk
        self._on_begin = request.on_begin
        self.labels = [encode(choice) for choice in self._choices]
        for choice, tokens in zip(self._choices, self.labels, strict=True):
            if not 0 < len(tokens) <= params.max_tokens:
                raise InvalidRequestError(
                    f"score_choices: the choice {shown(choice)} has {len(tokens)} tokens; allowed "
                    f"are 1 to max_tokens={params.max_tokens}"
                )
        asked = SamplingParams.of(max_tokens=0, prompt_logprobs=params.logprobs or 0)
        self.requests = [
            Request(request.prompt, asked, new_request_id(), on_begin=self._begin)
            for _ in self._choices
        ]

    def follow(self, futures: list[Future[GenerationOutput]]) -> None:
        """Answer when all labels are scored; one that fails ends the others, as an abort does."""
        self._futures = futures
        self._left = len(futures)
        self._future.add_done_callback(self._drop)
        for each in futures:
            each.add_done_callback(self._take)

    def _begin(self) -> None:
        begin, self._on_begin = self._on_begin, None
        if begin:
            begin()

    def _drop(self, _: Future[GenerationOutput]) -> None:
        for each in self._futures:
            each.cancel()

    def _take(self, future: Future[GenerationOutput]) -> None:
        """Take the score of a label; called on the engine's thread, or where it is cancelled."""
        if self._future.done() or future.cancelled():
            return
        if error := future.exception():
            with suppress(InvalidStateError):
                self._future.set_exception(error)
            return
        self._left -= 1
        if self._left:
            return
        output = self._ranked()
        try:
            if self._on_chunk:
                self._on_chunk(output)
        except Exception as error:  # the caller's; only its own request ends
            fail(self._future, error)
        with suppress(InvalidStateError):  # cancelled a moment ago
            self._future.set_result(output)

    def _ranked(self) -> GenerationOutput:
        outputs = [each.result() for each in self._futures]
        places = [_scored(each) for each in outputs]
        scores = [
            ChoiceScore(choice, sum(place.logprob for place in found), len(found))
            for choice, found in zip(self._choices, places, strict=True)
        ]
        order = sorted(range(len(scores)), key=lambda at: -self._value(scores[at]))
        best = order[0]
        return replace(
            outputs[best],
            text=self._choices[best],
            prompt_tokens=self._prompt_tokens,
            completion_tokens=len(self.labels[best]),
            finish_reason="stop",
            complete=True,
            cached_tokens=min(each.cached_tokens for each in outputs),
            logprobs=None if self._params.logprobs is None else places[best],
            prompt_logprobs=None,
            scores=tuple(scores[at] for at in order),
            latency_s=max(each.latency_s for each in outputs),
        )

    def _value(self, score: ChoiceScore) -> float:
        return score.logprob / score.tokens if self._params.normalize_scores else score.logprob


def _scored(output: GenerationOutput) -> tuple[TokenLogprob, ...]:
    return tuple(each for each in output.prompt_logprobs or () if each)
