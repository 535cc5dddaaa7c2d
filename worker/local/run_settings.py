"""The settings of a run, taken out of a dictionary of options: a command's, or a function's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.parameters import Parameters
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.structured_outputs import StructuredOutputs
from vllm_mlx.video_params import VideoParams

CONSTRAINTS = ("response_format", "json_schema", "choices", "regex", "grammar")
"""What says, besides `structured_outputs`, what answers must be."""

P = TypeVar("P", bound=Parameters)


def settings_from(parameters: type[P], options: dict[str, Any]) -> P:
    """Take the settings out of a dictionary of options.

    Raises:
        InvalidRequestError: a value is out of range.
    """
    given = {name: options.pop(name, None) for name in parameters.model_fields}
    return parameters.of(**{name: None if value == () else value for name, value in given.items()})


def run_options_from(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `prepare_run` that options make; others stay as they are.

    Raises:
        InvalidRequestError: a setting is out of range.
    """
    options["structured_outputs"] = structured_outputs_from(options)
    sampling = settings_from(SamplingParams, options)
    video_params = settings_from(VideoParams, options)
    path = options.pop("prompts")
    return {"path": path, "sampling": sampling, "video_params": video_params, **options}


def media_policy_from(options: dict[str, Any]) -> MediaPolicy:
    """Take what media may be read out of options; without any, nothing is.

    Raises:
        InvalidRequestError: a folder is not there, or a domain is not spelled as one.
    """
    paths, domains = (options.pop(f"allowed_media_{what}", ()) for what in ("path", "domain"))
    return MediaPolicy.of(_listed(paths), _listed(domains), options.pop("video_reader", "auto"))


def structured_outputs_from(options: dict[str, Any]) -> StructuredOutputs | None:
    """Take the constraint of answers out of options; a schema may be a file, or itself.

    Raises:
        InvalidRequestError: more than one is given, or one can't be held.
    """
    given: dict[str, Any] = {
        flag: value
        for flag in ("structured_outputs", *CONSTRAINTS)
        if (value := options.pop(flag, None)) is not None
    }
    flags = " and ".join(f"--{flag.replace('_', '-')}" for flag in given)
    if len(given) > 1:
        raise InvalidRequestError(f"{flags}: give one of them")
    if not given:
        return None
    ((flag, value),) = given.items()
    kind = {"json_schema": "json", "choices": "choice"}.get(flag, flag)
    try:
        if flag == "structured_outputs":
            return StructuredOutputs.of(value)
        if flag == "response_format":
            return StructuredOutputs.of_response_format(value)
        if flag == "choices" and isinstance(value, str):
            value = [label.strip() for label in value.split(",")]
        elif flag in ("json_schema", "grammar") and isinstance(value, str | Path):
            value = Path(value).read_text(encoding="utf-8")
        return StructuredOutputs.of({kind: value})
    except (ValueError, OSError) as error:  # an UnicodeDecodeError is one
        raise InvalidRequestError(f"{flags}: {error}") from None


def _listed(given: Iterable[Any] | str | Path) -> list[Any]:
    return [given] if isinstance(given, str | Path) else list(given)
