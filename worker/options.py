"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from jobs.producer import DEFAULT_SHARD_SIZE
from jobs.requests import MAX_SAMPLES
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
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


def enqueue_options(command: F) -> F:
    """What `run` and `enqueue` say of a run: its input, model, output and sampling."""
    defaults = SamplingParams.of()
    options = [
        click.argument("prompts", type=click.Path(path_type=Path)),
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
