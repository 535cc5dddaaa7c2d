"""`TemplateArguments`: what a chat template takes beside the messages, and its switch for thinking.

What is not given is left to the template: its own defaults hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from inspect import signature
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers.utils.chat_template_utils import _get_template_variables

from vllm_mlx.errors import ChatTemplateError, InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams

SWITCHES = ("enable_thinking", "thinking")
"""What templates call their switch: Qwen, GLM and SmolLM, or DeepSeek and Granite."""
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token"})

_OPEN = {"add_generation_prompt": False}
_CONTINUED = {**_OPEN, "continue_final_message": True}


class TemplateArguments:
    """The arguments of one model's chat template.

    Args:
        name: the model's, for errors.
    """

    def __init__(self, tokenizer: TokenizerWrapper, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name

    def of(self, params: SamplingParams) -> dict[str, Any]:
        """Return the arguments that a request asks for.

        Raises:
            ChatTemplateError: the template reads no such argument.
            InvalidRequestError: two of them contradict each other.
        """
        given = dict(params.chat_template_kwargs or {})
        ends = self._ends(params)
        if self._read is not None and (unread := given.keys() - self._read):
            raise ChatTemplateError(
                f"chat_template_kwargs: {', '.join(sorted(unread))}: the chat template of "
                f"{self._name} does not read it, so it would be ignored: leave it out; it reads "
                f"{', '.join(sorted(self._read - _GIVEN)) or 'none'}"
            )
        if params.thinking is None:
            return given | ends
        wanted, switch = params.thinking == "on", self._switch
        if switch is None:
            raise ChatTemplateError(
                f"thinking={params.thinking!r}: the chat template of {self._name} has no switch "
                f"for it ({' or '.join(SWITCHES)}): leave it out, or give what the template reads "
                "in chat_template_kwargs"
            )
        if given.get(switch, wanted) != wanted:
            raise InvalidRequestError(
                f"thinking={params.thinking!r} and chat_template_kwargs with {switch}="
                f"{given[switch]!r}: give one of them"
            )
        return {**given, switch: wanted, **ends}

    def write(self, messages: Any, arguments: Mapping[str, Any], **options: Any) -> Any:
        """Call the template, as `TokenizerWrapper.apply_chat_template` does."""
        options = {"add_generation_prompt": True, **options, **arguments}
        if self._read is None:
            return self._tokenizer.apply_chat_template(messages, **options)
        # mlx-lm switches thinking on wherever there are markers for it.
        inner: Any = self._tokenizer._tokenizer
        return inner.apply_chat_template(messages, return_dict=False, **options)

    def _ends(self, params: SamplingParams) -> dict[str, bool]:
        """Return where the prompt ends, if not where an answer begins."""
        goes_on = params.continue_final_message
        if not goes_on and params.add_generation_prompt is not False:
            return {}
        name = "continue_final_message" if goes_on else "add_generation_prompt"
        if (function := self._tokenizer._chat_template) is not None:
            is_read = name in signature(function).parameters
        else:  # transformers cuts what any Jinja template writes, to go on with it
            is_read = goes_on or self._read is None or name in self._read
        if not is_read:
            raise ChatTemplateError(
                f"{name}: the chat template of {self._name} ends its messages whatever is asked: "
                "leave it out"
            )
        return _CONTINUED if goes_on else _OPEN

    @property
    def _switch(self) -> str | None:
        if self._read is None:  # mlx-lm passes it on by the name that the function knows
            return SWITCHES[0]
        return next((name for name in SWITCHES if name in self._read), None)

    @cached_property
    def _read(self) -> frozenset[str] | None:
        """The names that the template reads; None where it is a function of Python."""
        tokenizer: Any = self._tokenizer
        if tokenizer._chat_template is not None:
            return None
        inner = tokenizer._tokenizer
        if inner.chat_template is None:
            return None if tokenizer.has_chat_template else frozenset()
        return frozenset(_get_template_variables(inner.get_chat_template()))
