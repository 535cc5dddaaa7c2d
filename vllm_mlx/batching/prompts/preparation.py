"""`Preparation`: from requests to the `Sequence`s that a runner steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeAlias

from vllm_mlx.batching.engine_thread import EngineThread
from vllm_mlx.batching.logits.choice_scores import ChoiceScoring
from vllm_mlx.batching.prompts.media_pool import MediaPool
from vllm_mlx.batching.prompts.prompt import MediaPrompt, Prepared, require_text
from vllm_mlx.batching.prompts.prompt_media import PromptMedia
from vllm_mlx.batching.request import Request, fail
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.contradictions import check_scores
from vllm_mlx.errors import InvalidRequestError, KVCacheBudgetError, MediaError
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams

Futures: TypeAlias = list[Future[GenerationOutput]]
Add: TypeAlias = Callable[..., None]
"""Takes sequences."""
Read: TypeAlias = Callable[[Add], None]
"""Begins to read media, and hands over the sequences when they are read."""


class Submitted(NamedTuple):
    """A request that waits for its answer."""

    request: Request
    future: Future[GenerationOutput]
    at: float  # by `time.perf_counter()`
    turn: int | None


class Preparation:
    """Prepares the requests of one call, on the thread of its caller.

    Args:
        thread: where the model is.
        name: the model's.
    """

    def __init__(self, thread: EngineThread, name: str) -> None:
        self._thread = thread
        self._name = name

    def __call__(
        self,
        samples: list[Submitted],
        add: Add,
        later: Callable[[Futures, Read], None] | None = None,
    ) -> list[Sequence]:
        """Return the sequences of a prompt's samples; none yet if its media are to be read.

        Args:
            add: takes them when the media are read.
            later: takes the futures and what begins to read their media, in place of reading them
                at once.
        """
        prompt = samples[0].request.prompt
        allowed = samples[0].request.params.allow_special_tokens
        try:
            loaded, *_, media = self._thread.parts
            require_text(prompt)
            prompt, arguments = loaded.fitted(prompt, samples[0].request.params)
            if not isinstance(prompt, MediaPrompt):
                tokens = loaded.encode(prompt, arguments, allow_special_tokens=allowed)
                return self._sequences(samples, Prepared(tokens))
            if media is None:
                raise MediaError(f"{self._name} sees no images and videos: use a vision model")
            if not allowed:
                loaded.refuse_control(prompt)
            futures = [future for _, future, *_ in samples]
            read = partial(self._read, media, prompt, samples, futures)
            if later:
                later(futures, read)
            else:
                read(add)
        except Exception as error:  # one prompt must never cost its neighbours
            for _, future, *_ in samples:
                fail(future, error)
        return []

    def _read(
        self,
        media: MediaPool,
        prompt: MediaPrompt,
        samples: list[Submitted],
        futures: Futures,
        add: Add,
    ) -> None:
        for request, *_ in samples:
            if request.on_begin:
                request.on_begin()
        media.submit(prompt, futures, lambda prepared: add(*self._sequences(samples, prepared)))

    def _sequences(self, samples: list[Submitted], prepared: Prepared) -> list[Sequence]:
        """Return the sequences of a prepared prompt's samples.

        Raises:
            ContextLengthError, KVCacheBudgetError: it is too long.
            InvalidRequestError: it asks for a constraint that the model's tokens do not suit, or
                for a budget of thoughts that it has not.
        """
        sequences = []
        loaded, runner, *_ = self._thread.parts
        media = prepared.media_of_samples(len(samples))
        for (_, future, *_), each in zip(samples, media, strict=True):
            if each:
                future.add_done_callback(partial(_release, each))
        for (asked, future, at, turn), each in zip(samples, media, strict=True):
            params = asked.params.within(loaded.vocab_size).held()
            request = asked if params is asked.params else replace(asked, params=params)
            _require_scores(runner, params, each)
            if params.score_choices:
                scored = Submitted(request, future, at, turn)
                sequences += self._labels(scored, prepared.tokens)
                continue
            max_tokens = loaded.room(len(prepared.tokens), params.max_tokens)
            if refusal := runner.refusal(len(prepared.tokens), max_tokens):
                raise KVCacheBudgetError(refusal)
            new_thinking = loaded.new_thinking(prepared.tokens, params.thinking_budget)
            new_constraint = loaded.new_constraint(params, new_thinking)
            sequences.append(
                Sequence(
                    request,
                    prepared.tokens,
                    max_tokens=max_tokens,
                    model=self._name,
                    new_detokenizer=loaded.new_detokenizer,
                    token_text=loaded.token_text,
                    new_thinking=new_thinking,
                    media=each,
                    future=future,
                    submitted=at,
                    turn=turn,
                    new_constraint=new_constraint,
                    calls=loaded.calls(params),
                )
            )
        return sequences

    def _labels(self, submitted: Submitted, prompt: list[int]) -> list[Sequence]:
        """Return a sequence for each label that is to be ranked behind a prompt.

        Raises:
            InvalidRequestError, ContextLengthError, KVCacheBudgetError: a label is too long.
        """
        loaded, runner, *_ = self._thread.parts
        request, future, at, turn = submitted
        allowed = request.params.allow_special_tokens
        encode = partial(loaded.encode_label, allow_special_tokens=allowed)
        scoring = ChoiceScoring(request, encode, len(prompt), future)
        for label in scoring.labels:
            size = len(prompt) + len(label)
            loaded.room(size, 0)
            if refusal := runner.refusal(size, 0):
                raise KVCacheBudgetError(refusal)
        futures = [self._thread.expect(each.request_id) for each in scoring.requests]
        scoring.follow(futures)
        return [
            Sequence(
                each,
                prompt + label,
                max_tokens=0,
                model=self._name,
                new_detokenizer=loaded.new_detokenizer,
                token_text=loaded.token_text,
                future=own,
                submitted=at,
                turn=turn,
                scored_from=len(prompt),
            )
            for each, label, own in zip(scoring.requests, scoring.labels, futures, strict=True)
        ]


def _release(media: PromptMedia, _: Future[GenerationOutput]) -> None:
    media.release()


def _require_scores(runner: Runner, params: SamplingParams, media: PromptMedia | None) -> None:
    check_scores(params, sees_media=media is not None)
    if (params.score_choices or params.prompt_logprobs is not None) and not runner.scores_prompts:
        name = "score_choices" if params.score_choices else "prompt_logprobs"
        raise InvalidRequestError(
            f"{name}: a model that runs {runner.way} tells nothing of its prompts; leave it out"
        )
