"""Options that several commands share; those of settings are made from the settings' fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from jobs.connection import connect
from jobs.preparation import DEFAULT_SHARD_SIZE
from jobs.requests import GenerationRequest
from jobs.run_bounds import RunBounds
from jobs.sources import Selection, Template
from vllm_mlx.media.policy import VIDEO_READERS
from vllm_mlx.parameters import Parameters, Setting, settings_of, whole
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.cli.grouped_help import Decorator, all_of, group
from worker.cli.local_path import LocalPath


def integer(text: str) -> int:
    """Return an integer, which may be written as a float: 8 or 8.0."""
    try:
        return int(text)
    except ValueError:
        number = whole(_float(text))
    if not isinstance(number, int):
        raise click.BadParameter(f"{text!r} is not a valid integer.")
    return number


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


class Count(click.IntRange):
    """An integer from 1 on, which may be written as a float, too."""

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, *where: Any) -> Any:
        return super().convert(integer(value) if isinstance(value, str) else value, *where)


def object_of(text: str) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object.")
    return value


_TYPES = {"integer": integer, "number": float, "object": object_of}
_SHORTER = {"score-choices": ("--score",)}
_METAVARS = {"size": "SIZE", "object": "JSON"}


def seconds_option(name: str, default: float, text: str) -> Decorator:
    """Return an option for a time that no clock overflows at."""

    def check(_: click.Context, __: click.Parameter, seconds: float) -> float:
        if not 0 <= seconds <= 1e9:  # nor NaN
            raise click.BadParameter(f"{seconds:g} should be 0 to 1,000,000,000 seconds")
        return seconds

    return click.option(
        name,
        type=float,
        metavar="SECONDS",
        default=default,
        show_default=True,
        callback=check,
        help=text,
    )


def setting_option(setting: Setting, **attributes: Any) -> Decorator:
    """Return the option of one setting; its range is checked by the setting's own class."""
    facts = [setting.range, "repeatable" if setting.type == "array" else ""]
    flag = setting.name.replace("_", "-")
    if setting.type == "boolean":
        attributes["is_flag"] = True
        if setting.default == "true":
            flag = f"no-{flag}"
            attributes |= {"flag_value": False, "default": True}
        elif not setting.default:  # either way, and a third where it is not given
            flag = f"{flag}/--no-{flag}"
            attributes["default"] = None
    elif setting.default:
        facts.append(f"default {setting.default}")
    description = "; ".join(filter(None, facts))
    return click.option(
        f"--{flag}",
        *_SHORTER.get(flag, ()),
        setting.name,
        type=_TYPES.get(setting.items or setting.type),
        multiple=setting.type == "array",
        help=setting.help + (f" [{description}]" if description else ""),
        **{"metavar": _METAVARS.get(setting.type)} | attributes,
    )


def setting_options(parameters: type[Parameters]) -> Decorator:
    """Return an option for each setting; `settings_from` reads them."""
    return all_of(*map(setting_option, settings_of(parameters).values()))


def url_option(text: str, *, required: bool = False) -> Decorator:
    """Return the option of the server's URL, which the message about a Redis that fails shows."""

    def remember(context: click.Context, _: click.Parameter, url: str | None) -> str | None:
        context.find_root().meta["url"] = url
        return url

    return group(
        "Redis",
        click.option(
            *("-u", "--url"),
            envvar="RQ_REDIS_URL",
            show_envvar=True,
            required=required,
            callback=remember,
            help=text,
        ),
    )


server_option = url_option("URL of the Redis server, as for `rq`.", required=True)


def with_redis(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--url`, and a connection to that server as its first argument."""

    @server_option
    @wraps(command)
    def connected(url: str, **options: Any) -> Any:
        with connect(url) as connection:
            return command(connection, **options)

    return connected


model_option = click.option(
    "--model", required=True, help="Hub id, local folder, .gguf file, or the alias smollm2-135m."
)

adapter_option = click.option(
    "--adapter",
    type=LocalPath(),
    metavar="DIR",
    help="A folder that mlx_lm.lora has written, LoRA or DoRA: part of the model.",
)

output_root_option = click.option(
    "--output-root",
    type=LocalPath(file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Write only datasets below this folder; default: the current one.",
)


scheduler_options = group("Batch", setting_options(SchedulerConfig))

media_options = group(
    "Images and videos that may be read",
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
    click.option(
        "--video-reader",
        type=click.Choice(VIDEO_READERS),
        default="auto",
        show_default=True,
        help="What decodes videos: PyAV, which auto is, or decord where it reads a file rightly.",
    ),
)


report_option = click.option(
    "--report/--no-report",
    default=True,
    show_default=True,
    envvar="MLX_BATCH_REPORT",
    show_envvar=True,
    help="Write _job/report.html at the end of a run.",
)


on_finish_option = click.option(
    "--on-finish",
    metavar="COMMAND",
    help="Run this in a shell at the end, also of a run that was halted or has failed, with "
    "its state as JSON on stdin.",
)


structured_options = all_of(
    click.option(
        "--json-schema",
        type=LocalPath(dir_okay=False, exists=True),
        metavar="FILE",
        help="Each answer is JSON that this schema holds for.",
    ),
    click.option("--choices", metavar="A,B,C", help="Each answer is one of these labels."),
    click.option("--regex", help="Each answer is matched whole by this regular expression."),
    click.option(
        "--grammar",
        type=LocalPath(dir_okay=False, exists=True),
        metavar="FILE",
        help="Each answer is one of this grammar (Lark, or llama.cpp's GBNF).",
    ),
    click.option(
        "--response-format",
        type=object_of,
        metavar="JSON",
        help="OpenAI's way to say the same as --structured-outputs.",
    ),
)


_BOUNDS = {"max_errors": "N|P%", "max_time": "TIME", "until": "HH:MM"}
bounds_options = group(
    "What ends it early",
    *(
        setting_option(setting, **({"metavar": _BOUNDS[name]} if name in _BOUNDS else {}))
        for name, setting in settings_of(RunBounds).items()
    ),
)

dedupe_option = click.option(
    "--dedupe/--no-dedupe",
    default=True,
    help="Answer rows that ask the same, greedily or with one seed, once; the default.",
)

input_options = all_of(
    click.argument("prompts", type=LocalPath(), required=False),
    group(
        "Input",
        *(
            click.option(
                f"--{media}",
                metavar="PATTERN",
                help=f"In place of PROMPTS: a folder of {media}, or a pattern in quotes.",
            )
            for media in ("videos", "images")
        ),
        setting_options(Template),
    ),
    group("Model", model_option, adapter_option),
)

row_options = all_of(
    group(
        "Model",
        click.option(
            "--chat/--no-chat",
            default=None,
            help="Send plain prompts through the chat template, as the user's message; so is what "
            "--prompt makes, unless --no-chat is given.",
        ),
    ),
    group(
        "Answers",
        setting_options(SamplingParams),
        setting_option(settings_of(GenerationRequest)["n"], default=1),
    ),
    group("Form of the answers", structured_options),
    group("Videos", setting_options(VideoParams)),
)

enqueue_options = all_of(
    input_options,
    group(
        "Input",
        setting_options(Selection),
        click.option("--skip-bad-rows", is_flag=True, help="Bad rows become error rows."),
        dedupe_option,
    ),
    group(
        "Output",
        click.option(
            "--out",
            required=True,
            type=LocalPath(file_okay=False),
            help="Folder of the dataset, as the workers see it.",
        ),
        click.option(
            "--shard-size",
            type=Count(),
            default=DEFAULT_SHARD_SIZE,
            show_default=True,
            help="Rows of the dataset a job, and a Parquet part.",
        ),
        click.option("--resume", is_flag=True, help="Enqueue what is missing of this run."),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Move what --out holds to NAME.old-TIME beside it, and begin anew.",
        ),
    ),
    row_options,
    group(
        "Form of the answers",
        click.option(
            "--retry-incomplete",
            is_flag=True,
            help="Try a constrained answer that --max-tokens cut again with twice as many tokens, "
            "and once more with four times as many.",
        ),
    ),
    bounds_options,
)
