"""`LoadedModel`: a model in memory with its tokenizer, as the engine uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import mlx.nn as nn
from jinja2 import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from vllm_mlx.batching.logits.constraint import Constraint, Grammars, new_grammars
from vllm_mlx.batching.prompts.chat_form import ChatForm
from vllm_mlx.batching.prompts.control_tokens import NO_ARGUMENTS, ControlTokens
from vllm_mlx.batching.prompts.media_pool import Preparer
from vllm_mlx.batching.prompts.prompt import MediaPrompt, Messages, Prompt
from vllm_mlx.batching.prompts.template_arguments import TemplateArguments
from vllm_mlx.batching.text.text_stream import Detokenizer
from vllm_mlx.batching.text.thinking import Thinking, ThinkingMarkers
from vllm_mlx.batching.text.tool_calls import Calls, calls_of
from vllm_mlx.contradictions import check_plain_prompt
from vllm_mlx.errors import ChatTemplateError, ContextLengthError, InvalidRequestError, MediaError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.messages import check_final
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.tools import as_shown


@dataclass
class LoadedModel:
    """A model, its tokenizer, and what they accept.

    Attributes:
        new_detokenizer: makes what turns the tokens of one sequence into text.
        context_length: tokens of prompt and answer together; None if the model sets no bound.
        new_preparer: what reads images and videos for it; None if it sees none.
        encode_chat: token ids of messages, where the tokenizer's template does not write them.
        write_chat: the text of messages, likewise.
        media_tokens: those that stand for images and videos, so that no text may hold them.
        lock: held while the tokenizer is used.
    """

    name: str
    model: nn.Module
    tokenizer: TokenizerWrapper
    vocab_size: int
    context_length: int | None
    new_detokenizer: Callable[[], Detokenizer]
    new_preparer: Callable[[MediaPolicy], Preparer] | None = None
    encode_chat: Callable[[Messages, Mapping[str, Any]], list[int]] | None = None
    write_chat: Callable[[Messages, Mapping[str, Any]], str] | None = None
    media_tokens: frozenset[int] = frozenset()
    # transformers' fast tokenizers may not be used from two threads at once.
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def _template(self) -> TemplateArguments:
        return TemplateArguments(self.tokenizer, self.name)

    def encode(
        self,
        prompt: str | Messages,
        arguments: Mapping[str, Any] = NO_ARGUMENTS,
        *,
        allow_special_tokens: bool = False,
    ) -> list[int]:
        """Return token ids of a plain prompt, or of messages through the model's chat template.

        Args:
            arguments: what the template takes beside messages.
            allow_special_tokens: control tokens in the text of messages act, as in a prompt.

        Raises:
            InvalidRequestError: there is nothing to encode.
            ChatTemplateError: the model has no template, or it rejects the messages.
            MediaError: the text holds a placeholder of an image or a video.
        """
        if not prompt:
            raise InvalidRequestError("the prompt is empty: give at least one character or message")
        with self.lock:
            if isinstance(prompt, str):
                tokens = self._encode(prompt)
            elif allow_special_tokens or not self._control.found(prompt, arguments):
                tokens = self._encode_chat(prompt, arguments)
            else:
                tokens = self._control.encode(prompt, arguments)
        if not tokens:
            raise InvalidRequestError(f"the prompt {prompt!r} has no tokens")
        if found := self.media_tokens.intersection(tokens):
            names = ", ".join(map(self.token_text, sorted(found)))
            raise MediaError(f"the prompt has placeholders {names} and no media: leave them out")
        return tokens

    def refuse_control(self, prompt: MediaPrompt) -> None:
        """Refuse control tokens in text beside images and videos.

        Raises:
            ChatTemplateError: there are some.
        """
        self._control.refuse_beside_media(prompt, self.media_tokens)

    @cached_property
    def _control(self) -> ControlTokens:
        write = self.write_chat or self._write_chat
        return ControlTokens(self.name, self.tokenizer, write, self._encode_chat)

    def encode_label(self, label: str, *, allow_special_tokens: bool = False) -> list[int]:
        """Return the tokens of a text that follows another one, without what may begin a text.

        Args:
            allow_special_tokens: control tokens in it act.

        Raises:
            InvalidRequestError: it has control tokens, and the tokenizer can't read them as text.
        """
        encode: Callable[[str], list[int]]
        encode = partial(self.tokenizer.encode, add_special_tokens=False, verbose=False)
        with self.lock:
            if not allow_special_tokens and self._control.found_in(label):
                encode = self._control.encode_text
            before, whole = list(encode("\n")), list(encode(f"\n{label}"))
            if whole[: len(before)] == before:
                return whole[len(before) :]
            return list(encode(label))  # it begins with whitespace, which joined the other

    def new_thinking(self, prompt: list[int], budget: int | None) -> Callable[[], Thinking | None]:
        """Return what makes what follows the thoughts of a sequence; it makes none without any.

        Raises:
            InvalidRequestError: there is a budget, and no thought that it could be for.
        """
        markers, ends = self._markers, self.tokenizer.eos_token_ids
        if markers is None:
            if budget is not None:
                raise InvalidRequestError(
                    f"thinking_budget={budget}: the tokenizer of {self.name} has no markers of "
                    "thoughts (<think>, </think>): leave it out, or use a model that thinks"
                )
            return lambda: None
        return lambda: Thinking(markers, budget, prompt, ends)

    @cached_property
    def _markers(self) -> ThinkingMarkers | None:
        with self.lock:
            return ThinkingMarkers.of(self.tokenizer)

    def fitted(self, prompt: Prompt, params: SamplingParams) -> tuple[Prompt, dict[str, Any]]:
        """Return the prompt with its messages as the model's chat template takes them, and what
        else it takes.

        Raises:
            ChatTemplateError: it reads no argument of this name.
            InvalidRequestError: a plain prompt has no template.
        """
        if isinstance(prompt, str):
            check_plain_prompt(params)
            return prompt, {}
        if params.continue_final_message:
            check_final(prompt.messages if isinstance(prompt, MediaPrompt) else prompt)
        arguments, tools = self._template.of(params), as_shown(params.tools, params.tool_choice)
        with self.lock:
            if tools and self._chat_form.takes_tools:
                arguments["tools"] = tools
            if isinstance(prompt, MediaPrompt):
                messages = self._chat_form.fit(prompt.messages, tools)
                return replace(prompt, messages=messages, arguments=arguments), arguments
            return self._chat_form.fit(prompt, tools), arguments

    def calls(self, params: SamplingParams) -> Calls | None:
        """Return how calls of tools stand in an answer; None where it calls none.

        Raises:
            InvalidRequestError: no parser knows the model's own form.
        """
        if not params.tools:
            return None
        with self.lock:
            return calls_of(params, self._chat_form, self.tokenizer, self.name)

    def room(self, prompt_tokens: int, max_tokens: int) -> int:
        """Return how many tokens an answer may have.

        Raises:
            ContextLengthError: none.
        """
        if self.context_length is None:
            return max_tokens
        room = self.context_length - prompt_tokens
        if room < min(1, max_tokens):
            raise ContextLengthError(
                f"the prompt has {prompt_tokens} tokens; the context of {self.name} holds "
                f"{self.context_length}, one of them for the answer"
            )
        return min(max_tokens, room)

    def token_text(self, token: int) -> str:
        """Return the text of one token by itself."""
        detokenizer = self.new_detokenizer()
        return detokenizer.add(token) + detokenizer.finish()

    def new_constraint(
        self, params: SamplingParams, new_thinking: Callable[[], Thinking | None]
    ) -> Callable[[], Constraint] | None:
        """Return what makes the constraint of an answer; None if it is free.

        Args:
            new_thinking: as `new_thinking` returns it for the prompt.

        Raises:
            InvalidRequestError: there is no such constraint for this model's tokens.
        """
        if not (outputs := params.structured_outputs):
            return None
        with self.lock:
            grammars = self._grammars
        grammars.matcher(outputs)  # compiled once, and here, where the engine need not wait
        return lambda: Constraint(grammars, outputs, new_thinking())

    @cached_property
    def _grammars(self) -> Grammars:
        return new_grammars(self.tokenizer, self.vocab_size, self.name)

    def _encode(self, prompt: str) -> list[int]:
        bos = self.tokenizer.bos_token
        add_special_tokens = bos is None or not prompt.startswith(bos)  # as mlx_lm.generate does
        tokens = list(
            self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens, verbose=False)
        )
        # An end behind the prompt would have the model begin something else.
        return tokens[: len(tokens) - self._appended] if add_special_tokens else tokens

    @cached_property
    def _appended(self) -> int:
        """How many tokens the tokenizer puts behind a text by itself."""
        encode = self.tokenizer.encode
        plain, whole = (list(encode("a", add_special_tokens=each)) for each in (False, True))
        ends = range(len(plain), len(whole) + 1)
        return next((len(whole) - end for end in ends if whole[end - len(plain) : end] == plain), 0)

    @cached_property
    def _chat_form(self) -> ChatForm:
        return ChatForm(self.write_chat or self._write_chat)

    def _write_chat(self, messages: Messages, arguments: Mapping[str, Any]) -> str:
        write = self._template.write
        with template_errors(f"the chat template of {self.name}"):
            return str(write(messages, arguments, tokenize=False))

    def _encode_chat(
        self, messages: Messages, arguments: Mapping[str, Any] = NO_ARGUMENTS
    ) -> list[int]:
        if self.encode_chat:
            return self.encode_chat(messages, arguments)
        if not self.tokenizer.has_chat_template:
            raise ChatTemplateError(
                f"{self.name} has no chat template (it is a base model): use generate() with a "
                "plain prompt, or an instruction-tuned model"
            )
        with template_errors(f"the chat template of {self.name}"):
            return list(self._template.write(messages, arguments))


@contextmanager
def template_errors(template: str = "the chat template") -> Iterator[None]:
    """Turn what a chat template raises about messages into `ChatTemplateError`."""
    try:
        yield
    except (TemplateError, AttributeError, TypeError, LookupError, ValueError) as error:
        raise ChatTemplateError(f"{template} rejects these messages: {error}") from error
