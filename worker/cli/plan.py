"""`plan`: what a run would take and meet, before it is run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jobs.sight import Sight
from jobs.sources import Selection, input_of, shows_files, validated
from jobs.sources.selection import selection_of
from jobs.sources.template import Template, template_of
from vllm_mlx.hub import require_model_here
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.cli.exit_codes import ExitCode
from worker.cli.grouped_help import GroupedCommand, group
from worker.cli.options import (
    dedupe_option,
    input_options,
    media_options,
    row_options,
    scheduler_options,
    setting_options,
)
from worker.engine.process import require_mlx
from worker.local.run_settings import media_policy_from, settings_from, structured_outputs_from


@click.command(cls=GroupedCommand, short_help="Say what a run of PROMPTS would take and meet.")
@input_options
@row_options
@group("Input", setting_options(Selection))
@scheduler_options
@media_options
@group("Input", dedupe_option)
@click.option(
    "--measure",
    is_flag=True,
    help="Run 20 rows of each class of prompt lengths, or some more, to see how long answers "
    "get: the ranges then are ±30 % or less.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def plan(
    prompts: Path | None,
    model: str,
    adapter: Path | None,
    measure: bool,
    as_json: bool,
    n: int,
    dedupe: bool,
    chat: bool | None,
    videos: str | None,
    images: str | None,
    **options: Any,
) -> None:
    """Read PROMPTS as a run would, time a few steps, and say what the run would take and meet.

    Nothing is generated, but with --measure. Exits with 1 if a row would end in error.
    """
    require_mlx()
    config, allowed = settings_from(SchedulerConfig, options), media_policy_from(options)
    options["structured_outputs"] = structured_outputs_from(options)
    sampling = settings_from(SamplingParams, options)
    video = settings_from(VideoParams, options)
    template = template_of(**{name: options.pop(name) for name in Template.model_fields})
    chosen = {name: options.pop(name) for name in Selection.model_fields}
    selection = selection_of(**chosen, seed=sampling.seed)
    source = input_of(prompts, videos=videos, images=images, template=template, selection=selection)
    chat = template.check_chat(chat, sees=shows_files(source)) if template else bool(chat)
    paths = [source.folder, *(allowed.allowed_paths or ())]
    media = MediaPolicy.of(paths, allowed.allowed_domains or (), allowed.video_reader)

    require_model_here(model, sees=shows_files(source))
    rows = validated(source, sampling=sampling, n=n, chat=chat)
    Sight.of(model).require(source.path, rows)
    from worker.cli.plan_display import print_plan
    from worker.plan.plan import make_plan
    from worker.plan.prompts import Reading

    console = Console(highlight=False)
    reading = Reading(source=source, sampling=sampling, video=video, n=n, chat=chat, dedupe=dedupe)
    with Console(stderr=True).status("starting") as status:
        found = make_plan(
            reading,
            model,
            adapter=adapter,
            config=config,
            media=media,
            measures=measure,
            tell=status.update,
        )
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        print_plan(console, found)
    if found.fails:
        sys.exit(ExitCode.ROWS_IN_ERROR)
