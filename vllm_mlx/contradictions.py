"""What of a request's settings contradicts the prompt, or what is asked of given text."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams

_UNSCORED = (
    *("prompt_logprobs", "logit_bias", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "stop_on_repetition"),
)
"""What would not act on labels that are given."""

_OF_CHATS: dict[str, tuple[Any, Any]] = {
    name: (SamplingParams.model_fields[name].default, {})
    for name in (
        *("thinking", "chat_template_kwargs", "tools", "add_generation_prompt"),
        "continue_final_message",
    )
}
"""What only a chat template reads, with the values that ask for nothing."""


def check_scores(
    params: SamplingParams, *, sees_media: bool, own: Collection[str] | None = None
) -> None:
    """Make sure that nothing contradicts what is asked of given text.

    Args:
        sees_media: images or videos are in the prompt.
        own: settings that a row has itself; others are its run's. None if all are one call's.

    Raises:
        InvalidRequestError: naming what does.
    """
    if sees_media and (params.score_choices or params.prompt_logprobs is not None):
        name = "score_choices" if params.score_choices else "prompt_logprobs"
        raise InvalidRequestError(f"{name}: a prompt with images or videos has none; leave it out")
    if params.normalize_scores and not params.score_choices:
        raise InvalidRequestError(
            "normalize_scores: goes with score_choices; give both, or neither"
        )
    if not params.score_choices:
        return
    if not params.choices:
        raise InvalidRequestError(
            "score_choices: ranks the labels of a choice; give structured_outputs "
            '{"choice": [labels]} (--choices)'
        )
    if params.thinking == "on":
        raise InvalidRequestError(
            "thinking='on': labels follow the prompt at once; leave one of the two out"
        )
    for name in _UNSCORED:
        if (value := getattr(params, name)) != type(params).model_fields[name].default:
            if own is None or name in own:
                whose, cure = "", "leave it out"
            else:
                whose, cure = " of the run", "leave it out there, or rank labels in another run"
            raise InvalidRequestError(
                f"{name}={value!r}{whose}: changes no score of a given label; {cure}"
            )


def check_plain_prompt(params: SamplingParams) -> None:
    """Refuse what only a chat template reads.

    Raises:
        InvalidRequestError: it is given.
    """
    for name, nothing in _OF_CHATS.items():
        if getattr(params, name) not in nothing:
            raise InvalidRequestError(
                f"{name}: no chat template reads it, since the prompt is continued as it "
                "stands: give messages (chat() in Python), or have a run send prompts as chats "
                "(--chat)"
            )
