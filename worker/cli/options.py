"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from jobs.producer import DEFAULT_SHARD_SIZE
from jobs.requests import MAX_SAMPLES
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.sizes import size_option

F = TypeVar("F", bound=Callable[..., Any])

_BOUNDS = fields(SchedulerConfig)

url_option = click.option(
    "-u",
    "--url",
    envvar="RQ_REDIS_URL",
    required=True,
    help="URL of the Redis server, as for `rq` (environment: RQ_REDIS_URL).",
)

model_option = click.option(
    "--model", required=True, help="Hub id, local folder, .gguf file, or the alias smollm2-135m."
)

output_root_option = click.option(
    "--output-root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Write only datasets below this folder; default: the current one.",
)


def scheduler_options(command: F) -> F:
    """What `run` and `worker` say of an engine; what is not said is the backend's choice."""
    options = [
        click.option("--max-num-seqs", type=click.IntRange(min=1), help="Rows side by side."),
        click.option(
            "--max-num-batched-tokens",
            type=click.IntRange(min=1),
            help="Tokens of prompts that are computed between two steps of the batch.",
        ),
        click.option(
            "--kv-cache-bytes",
            callback=size_option,
            metavar="SIZE",
            help="Memory for key-value caches, such as 8GiB.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def scheduler_config_from(options: dict[str, Any]) -> SchedulerConfig:
    """Take the scheduler's flags out of a command's options."""
    return SchedulerConfig(**{field.name: options.pop(field.name) for field in _BOUNDS})


def scheduler_flags(config: SchedulerConfig) -> list[str]:
    """The command line that `scheduler_config_from` makes this config of."""
    given = {field.name: getattr(config, field.name) for field in _BOUNDS}
    return [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]


def media_options(command: F) -> F:
    """What `run` and `worker` say of the images and videos that a job may have read."""
    options = [
        click.option(
            "--allowed-media-path",
            multiple=True,
            metavar="DIR",
            help="A folder whose files jobs may name as images and videos; repeatable.",
        ),
        click.option(
            "--allowed-media-domain",
            multiple=True,
            metavar="HOST",
            help="A host they may be fetched from: example.org, .example.org for all below it, "
            "* for every public one; repeatable.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def media_policy_from(options: dict[str, Any]) -> MediaPolicy:
    """Take the flags of media out of a command's options; without any, nothing is allowed.

    Raises:
        InvalidRequestError: a folder is not there, or a domain is not spelled as one.
    """
    return MediaPolicy.of(options.pop("allowed_media_path"), options.pop("allowed_media_domain"))


def media_flags(policy: MediaPolicy) -> list[str]:
    """The command line that `media_policy_from` makes this policy of."""
    flags = [("--allowed-media-path", str(path)) for path in policy.allowed_paths or ()]
    flags += [("--allowed-media-domain", host) for host in policy.allowed_domains or ()]
    return [word for flag in flags for word in flag]


def enqueue_options(command: F) -> F:
    """What `run` and `enqueue` say of a run: its input, model, output and settings."""
    defaults, video = SamplingParams.of(), VideoParams.of()
    options = [
        click.argument("prompts", type=click.Path(path_type=Path), required=False),
        click.option(
            "--videos",
            metavar="PATTERN",
            help="In place of PROMPTS: a folder of videos, or a pattern in quotes.",
        ),
        click.option("--images", metavar="PATTERN", help="The same for images."),
        click.option("--prompt", help="What is asked of each of them."),
        model_option,
        click.option(
            "--out",
            required=True,
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder of the dataset, as the workers see it.",
        ),
        click.option("--max-tokens", type=int, help=f"Default {defaults.max_tokens}."),
        click.option("--temperature", type=float, help=f"Default {defaults.temperature}."),
        click.option("--top-p", type=float, help=f"Default {defaults.top_p}."),
        click.option("--top-k", type=int, help="0, the default, is off."),
        click.option("--min-p", type=float, help="0, the default, is off."),
        click.option("--repetition-penalty", type=float, help="1, the default, is off."),
        click.option("--stop", multiple=True, help="A string that ends the text; repeatable."),
        click.option("--logprobs", type=int, metavar="K", help="Report so many tokens a place."),
        click.option(
            "--stop-on-repetition", is_flag=True, help="End a text whose tail repeats itself."
        ),
        click.option(
            "--video-fps",
            type=float,
            help=f"Frames per second to extract of a video. Default {video.video_fps}.",
        ),
        click.option(
            "--video-max-frames",
            type=int,
            help=f"Most frames of a video. Default {video.video_max_frames}.",
        ),
        click.option("--seed", type=int, help="Every row gets a seed of its own made from it."),
        click.option(
            "--n",
            type=click.IntRange(1, MAX_SAMPLES),
            default=1,
            show_default=True,
            help="Samples of each row that does not say it itself.",
        ),
        click.option(
            "--chat",
            is_flag=True,
            help="Send plain prompts through the chat template, as the user's message.",
        ),
        click.option(
            "--shard-size",
            type=click.IntRange(min=1),
            default=DEFAULT_SHARD_SIZE,
            show_default=True,
            help="Rows of the dataset a job, and a Parquet part.",
        ),
        click.option("--skip-bad-rows", is_flag=True, help="Bad rows become error rows."),
        click.option("--resume", is_flag=True, help="Enqueue what is missing of this run."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def sampling_from(options: dict[str, Any]) -> SamplingParams:
    """Take the sampling flags out of a command's options.

    Raises:
        InvalidRequestError: a value is out of range.
    """
    given = {
        name: options.pop(name) for name in list(options) if name in SamplingParams.model_fields
    }
    given["stop"] = given["stop"] or None
    return SamplingParams.of(**{name: value for name, value in given.items() if value is not None})


def video_params_from(options: dict[str, Any]) -> VideoParams:
    """Take the flags of videos' frames out of a command's options.

    Raises:
        InvalidRequestError: a value is out of range.
    """
    given = {name: options.pop(name) for name in VideoParams.model_fields}
    return VideoParams.of(**{name: value for name, value in given.items() if value is not None})
