"""What a request says to its model's chat template: `Thinking`, and `TemplateArguments` besides."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, JsonValue

from vllm_mlx.json_record import half_text

Thinking: TypeAlias = Literal["on", "off"]

_NOT_FOR_A_TEMPLATE = frozenset(
    {
        "messages",
        "conversation",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tokenize",
        "tokenizer_kwargs",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "padding",
        "truncation",
        "max_length",
    }
)
"""What `apply_chat_template` of transformers takes for itself."""


def _as_on_or_off(thinking: Any) -> Any:
    return ("off", "on")[thinking] if isinstance(thinking, bool) else thinking


def _for_a_template(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if taken := sorted(arguments.keys() & _NOT_FOR_A_TEMPLATE):
        raise ValueError(f"{', '.join(taken)}: should be names that a chat template reads")
    if refusal := half_text(arguments, "chat_template_kwargs"):
        raise ValueError(refusal)
    return arguments


ThinkingField = Annotated[Thinking | None, BeforeValidator(_as_on_or_off)]
TemplateKwargsField = Annotated[dict[str, JsonValue], AfterValidator(_for_a_template)] | None
