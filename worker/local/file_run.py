"""`run_file`: the whole of `mlx-batch run` as a function."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.preparation import RunOptions, prepare_run
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.foreign import refusal_in_a_call, without_foreign
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.local.local_run import run_locally
from worker.local.new_run import NewRun
from worker.local.on_finish import OnFinish
from worker.local.run_display import RunDisplay
from worker.local.run_result import RunResult
from worker.local.run_settings import (
    CONSTRAINTS,
    media_policy_from,
    run_options_from,
    settings_from,
)
from worker.local.worker_settings import WorkerSettings
from worker.status.progress import RunProgress

_MEDIA = ("allowed_media_path", "allowed_media_domain", "video_reader")
_MADE = ("sampling", "video_params")  # of other settings


def run_file(
    prompts: str | Path | None = None,
    *,
    model: str,
    out: str | Path,
    url: str | None = None,
    workers: int = 1,
    report: bool | None = None,
    on_finish: str | None = None,
    progress: Callable[[RunProgress], None] | bool = False,
    **settings: Any,
) -> RunResult:
    """Answer the rows of a prompt file and write them as a dataset.

    It starts a Redis server of its own and worker processes, and returns when the dataset is
    verified and they have ended. Called again with `resume=True` it goes on after whatever ended
    it early.

    Args:
        prompts: the file; `videos` or `images` among the settings take its place.
        model: a hub id, a folder, a `.gguf` file or an alias.
        out: the folder of the dataset.
        url: of a Redis to use in place of our own.
        workers: how many processes, each with a model of its own.
        report: whether it ends with `_job/report.html`; None is as `MLX_BATCH_REPORT` says, and
            without that yes.
        on_finish: a command for the shell, run at the end however that comes, with the run's state
            as JSON on its stdin: `state` (finished, halted, failed or interrupted), `run_id`,
            `out`, `rows`, `rows_done`, `rows_error`, `error_types`, tokens, seconds and `error`.
        progress: called twice a second with where the run stands; True shows what `mlx-batch run`
            shows, on a terminal or in a notebook.
        settings: all options of `mlx-batch run` by their names, with underscores: `max_tokens`,
            `prompt`, `n`, `shard_size`, `skip_bad_rows`, `resume` and so on. None is the default.

    Raises:
        TypeError: there is no such setting.
        InputFileError: the file can't be read, or holds bad rows.
        InvalidRequestError: a setting is out of range.
        RunExistsError, OutputTakenError: the folder holds another run, or this one finished.
        RunHaltedError: it has reached a bound; it can be resumed. After a `preview` it is a
            `RunPreviewedError`, whose `rows` are these.
        RunFailedError: it can't be completed now; it can be resumed.
        RunInterruptedError: Ctrl-C, so it is a `KeyboardInterrupt`; rows under way had ten seconds
            to end, and it can be resumed. As `result` all three have what there is of the run.
    """
    settings = without_foreign(settings)
    _check_names(settings)
    if not isinstance(prompts, str | Path | None):
        raise InvalidRequestError(
            f"prompts is a {type(prompts).__name__}: should be the path of a file; "
            "MLXLanguageModel.generate takes a list of prompts"
        )
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InvalidRequestError(f"workers={workers!r}: should be 1 or more")
    options = {name: value for name, value in settings.items() if value is not None}
    scheduler, media = settings_from(SchedulerConfig, options), media_policy_from(options)
    options |= {"prompts": prompts, "model": model, "out": out}
    run = run_options_from(options)
    told = WorkerSettings(
        model=str(model),
        adapter=None if run.get("adapter") is None else Path(run["adapter"]),
        workers=workers,
        scheduler=scheduler,
        media=media,
        report=report,
    )

    def prepare(read: Callable[[int], None]) -> NewRun:
        return NewRun(prepare_run(**run, read=read), has_server=url is not None)

    finish = OnFinish(on_finish, Path(out))

    def act(show: Callable[[RunProgress], None]) -> RunResult:
        with finish.at_the_end():
            return run_locally(url, prepare, told, finish.see_and(show))

    if progress is True:
        with RunDisplay(Console()) as display:
            return act(display.update)
    return act(progress or (lambda _: None))


def setting_names() -> set[str]:
    """Return the names of all settings that `run_file` takes besides its own arguments."""
    of_run = RunOptions.__annotations__.keys() - {"model", "out", *_MADE}
    fields = (
        parameters.model_fields for parameters in (SamplingParams, VideoParams, SchedulerConfig)
    )
    return of_run.union(_MEDIA, CONSTRAINTS, *fields)


def _check_names(settings: dict[str, Any]) -> None:
    names = setting_names()
    for name in settings.keys() - names:
        if refusal := refusal_in_a_call(name, settings[name]):
            raise InvalidRequestError(f"{name}: {refusal}")
        close = difflib.get_close_matches(name, names, 1)
        raise TypeError(
            f"run_file() has no setting {name!r}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
