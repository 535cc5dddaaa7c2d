"""`Sequence`: one prompt on its way through the engine."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from vllm_mlx.batching.logits.constraint import Constraint
from vllm_mlx.batching.logits.logprobs import Logprobs
from vllm_mlx.batching.logits.prompt_scores import PromptScores
from vllm_mlx.batching.prompts.prompt_media import PromptMedia
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.text.repetition import repeats
from vllm_mlx.batching.text.text_stream import Detokenizer, TextStream
from vllm_mlx.batching.text.thinking import Thinking
from vllm_mlx.batching.text.thought_text import ThoughtText
from vllm_mlx.batching.text.tool_calls import Calls, with_ids
from vllm_mlx.outputs import FinishReason, GenerationOutput, TokenLogprob, ToolCall


class Sequence:
    """A prompt, how to sample from it, and what came out so far.

    Attributes:
        request_id: the caller's name for it, unique among the unfinished ones.
        prompt_tokens: token ids of the prompt (at least one).
        max_tokens: most tokens to generate: the request's limit, cut to the model's context.
        seed: the seed it is sampled with; None when greedy.
        media: the images and videos among the prompt's tokens.
        identities: what other prompts must begin with to share this one's beginning: the tokens,
            and for media their content.
        future: resolves to the whole `GenerationOutput`, or to the error that ended it.
        scores: what is asked of the prompt's own tokens.
        cached_tokens: prompt tokens that were taken from another prompt's prefill.
        end_token_ids: tokens that end it.
        alone: the batch it ran in failed, so it is tried again with nothing beside it.
        turn: the call it is of; only what has the same turn may start before it, if added later.
        thinking: follows its thoughts; None where the model has none.
        constraint: what it may say; None: anything.

    Args:
        new_detokenizer: makes what turns its tokens into text.
        new_thinking: makes what follows its thoughts, if the model has any.
        token_text: what one token stands for by itself.
        scored_from: the place of the first token of the prompt whose log-probability is asked for.
        submitted: when it was asked for, by `time.perf_counter()`; now without.
        new_constraint: makes the constraint of its answer, at the start.
        calls: how calls of tools stand in its answer; None where it makes none.
    """

    def __init__(
        self,
        request: Request,
        prompt_tokens: list[int],
        *,
        max_tokens: int,
        model: str,
        new_detokenizer: Callable[[], Detokenizer],
        token_text: Callable[[int], str] = str,
        new_thinking: Callable[[], Thinking | None] = lambda: None,
        media: PromptMedia | None = None,
        future: Future[GenerationOutput] | None = None,
        submitted: float | None = None,
        turn: int | None = None,
        scored_from: int = 1,
        new_constraint: Callable[[], Constraint] | None = None,
        calls: Calls | None = None,
    ) -> None:
        self.request_id = request.request_id
        self.params = params = request.params
        self.on_chunk = request.on_chunk
        self.on_begin = request.on_begin
        self.turn = turn
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.model = model
        drawn = secrets.randbits(63) if params.seed is None else params.seed
        self.seed = None if params.greedy else drawn
        self.media = media
        self.identities = media.identities(prompt_tokens) if media else prompt_tokens
        self.future: Future[GenerationOutput] = future or Future()
        self.alone = False
        self.finish_reason: FinishReason | None = None
        self._new_detokenizer = new_detokenizer
        self._token_text = token_text
        self._new_thinking = new_thinking
        self._scored_from = scored_from
        self._new_constraint = new_constraint
        self._calls = calls
        self._submitted = time.perf_counter() if submitted is None else submitted
        self.end_at(())
        self.restart()

    def end_at(self, eos_token_ids: Collection[int]) -> None:
        """Take note of the model's end tokens, before the first step."""
        own = frozenset(self.params.stop_token_ids or ())
        self._unsaid = own.union(eos_token_ids)
        self.end_token_ids = own if self.params.ignore_eos else self._unsaid

    def restart(self) -> None:
        """Forget what was generated: the sequence will run again from its prompt."""
        stop = None if self.params.min_tokens else self.params.stop
        self.text = TextStream(self._new_detokenizer(), stop)
        self.thinking = self._new_thinking()
        self._thoughts = (
            ThoughtText(self.thinking, self.text, self._new_detokenizer) if self.thinking else None
        )
        self._push = (self._thoughts or self.text).push
        self.constraint = self._new_constraint() if self._new_constraint else None
        labels = self.constraint if self.constraint and self.constraint.has_labels else None
        self._rest = labels.rest if labels and self.params.logprobs is None else None
        self.output_tokens: list[int] = []
        self.cached_tokens = 0
        asked = self.params.prompt_logprobs
        self.scores = None if asked is None else PromptScores(self._scored_from, asked)
        self._logprobs: list[tuple[int, Logprobs]] = []
        self._reported = 0
        self._said = ""  # of a stream, calls among it
        self._shown = 0

    @property
    def started_streaming(self) -> bool:
        """Whether a caller may have seen text already, so that it can't be started over."""
        return self.on_chunk is not None and bool(self.output_tokens)

    def append(self, token: int, logprobs: Logprobs | None = None) -> None:
        """Take the next token, and what can only follow it; sets `finish_reason` when it is the
        last.

        Raises:
            ConstraintError: the answer may not go on so.
        """
        self._append(token, logprobs)
        if self._rest and not self.finish_reason:
            for forced in self._rest():
                if not self.finish_reason:
                    self._append(forced)

    def _append(self, token: int, logprobs: Logprobs | None = None) -> None:
        params = self.params
        may_stop = len(self.output_tokens) >= params.min_tokens
        if len(self.output_tokens) == params.min_tokens:
            self.text.stop_at(params.stop)
        self.output_tokens.append(token)
        if logprobs:
            self._logprobs.append((token, logprobs))
        is_whole = self.constraint is not None and self._constrained(self.constraint, token)
        is_cut = token not in self._unsaid and self._push(token)
        if is_cut or is_whole or token in self.end_token_ids:
            self.finish_reason = "stop"
        elif len(self.output_tokens) >= self.max_tokens:
            self.finish_reason = "length"
        elif params.stop_on_repetition and may_stop and repeats(self.output_tokens):
            self.finish_reason = "repetition"

    def _constrained(self, constraint: Constraint, token: int) -> bool:
        """Whether this token makes the answer whole, so that no end token need follow."""
        constraint.take(len(self.output_tokens) - 1, token)
        constraint.require()
        return constraint.is_whole

    def _is_complete(self) -> bool | None:
        if self.constraint is None or self.finish_reason is None:
            return None
        return self.finish_reason == "stop" and self.constraint.has_begun

    def end(self) -> None:
        """Take note that the prompt is read, which is all that was asked for."""
        self.finish_reason = "length"

    def deliver(self) -> None:
        """Hand the caller what is new: a chunk if it streams, the whole output at the end."""
        if self.finish_reason and self._finish():
            self.finish_reason = "stop"
        text, calls = self._split() if self.finish_reason else ("", None)
        if self.on_chunk:
            piece = self._piece(text) if self._calls else self.text.take()
            thought = self._thoughts.take_reasoning() if self._thoughts else None
            if piece or thought or self.finish_reason:
                self.on_chunk(self.output(piece, thought or None, calls, self._reported))
                self._reported = len(self._logprobs)
        if self.finish_reason:
            thought = self._thoughts.reasoning if self._thoughts else None
            with suppress(InvalidStateError):  # cancelled a moment ago
                self.future.set_result(self.output(text, thought, calls))

    def _finish(self) -> bool:
        is_cut = self.finish_reason == "length"
        return self._thoughts.finish(is_cut=is_cut) if self._thoughts else self.text.finish()

    def _split(self) -> tuple[str, tuple[ToolCall, ...] | None]:
        """Return the whole answer without its calls of tools, and these."""
        if self._calls is None:
            return self.text.text, None
        text, calls = self._calls.split(self.text.text)
        if not self.params.parallel_tool_calls:
            del calls[1:]
        return text, with_ids(calls, self.prompt_tokens) or None

    def _piece(self, text: str) -> str:
        """Return what a stream may show now, calls left out; `text` is all that it will at the
        end."""
        assert self._calls
        self._said += self.text.take()
        if not self.finish_reason:
            text = self._said[: self._calls.certain(self._said)]
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece

    def fail(self, error: Exception) -> None:
        """End with an error instead of an output."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def output(
        self,
        text: str,
        reasoning: str | None,
        tool_calls: tuple[ToolCall, ...] | None,
        since: int = 0,
    ) -> GenerationOutput:
        """Return texts with the present counts, and the log-probabilities `since` a token."""
        return GenerationOutput(
            text=text,
            reasoning=reasoning,
            tool_calls=tool_calls,
            reasoning_tokens=self.thinking.state.spent if self.thinking else 0,
            prompt_tokens=len(self.prompt_tokens),
            completion_tokens=len(self.output_tokens),
            finish_reason=self.finish_reason,
            complete=self._is_complete(),
            model=self.model,
            seed=self.seed,
            cached_tokens=self.cached_tokens,
            logprobs=self._token_logprobs(since),
            prompt_logprobs=self._prompt_logprobs() if self.finish_reason else None,
            media=self.media.infos if self.media else None,
            latency_s=time.perf_counter() - self._submitted,
        )

    def _token_logprobs(self, since: int) -> tuple[TokenLogprob, ...] | None:
        if self.params.logprobs is None:
            return None
        return tuple(self._named(token, each) for token, each in self._logprobs[since:])

    def _prompt_logprobs(self) -> tuple[TokenLogprob | None, ...] | None:
        if self.scores is None:
            return None
        tokens = self.prompt_tokens[self.scores.first :]
        named = map(self._named, tokens, self.scores.found)
        return (None, *named) if self.scores.of_all else tuple(named)

    def _named(self, token: int, logprobs: Logprobs) -> TokenLogprob:
        name = self._token_text
        top = tuple(TokenLogprob(other, name(other), value) for other, value in logprobs.top)
        return TokenLogprob(token, name(token), logprobs.chosen, top)
