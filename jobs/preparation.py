"""`prepare_run`: all that can be wrong with a run, found before a server knows of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

from jobs.bad_rows import BadRows
from jobs.dataset import Dataset
from jobs.duplicates import Duplicates, find_duplicates
from jobs.errors import RunExistsError
from jobs.model_identity import identify_asked
from jobs.occupied_folder import aside, check_folder, move_aside
from jobs.output_folder import output_folder
from jobs.requests import MAX_SAMPLES
from jobs.run_bounds import RunBounds
from jobs.run_spec import InputSpec, RunSpec
from jobs.sight import ANY_SIGHT, Sight
from jobs.sources import Input, Selected, Selection, input_of, shows_files, validated
from jobs.sources.selection import selection_of
from jobs.sources.template import template_of
from jobs.survey import survey_input
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.model_files import require_model
from vllm_mlx.parameters import whole
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams

DEFAULT_SHARD_SIZE = 128


class RequiredOptions(TypedDict):
    """What each run is told."""

    model: str
    """Whose workers answer, as they name it; where only they have its folder, the name that they
    log when they start."""
    out: str | Path
    """The dataset's folder, as the workers see it."""


class RunOptions(RequiredOptions, total=False):
    """What a run is made of beside its prompt file."""

    adapter: str | Path | None
    """A folder that mlx_lm.lora has written; its workers have it, too."""
    videos: str | Path | None
    """In place of a prompt file, a folder of such files or a pattern (`clips/**/*.mp4`); each
    file makes a row, in which `prompt` or `messages` ask of it."""
    images: str | Path | None
    """The same of images."""
    prompt: str | None
    """This and the next five make requests of the input's columns, see `Template`."""
    system: str | None
    messages: str | list[dict[str, Any]] | None
    id_column: str | None
    image_column: str | None
    video_column: str | None
    sampling: SamplingParams | None
    """Defaults for what a row does not say itself."""
    video_params: VideoParams | None
    """The same of videos."""
    n: int
    """Samples of a row that does not say itself how many; each is a row of the dataset."""
    chat: bool | None
    """Send each plain prompt as the user's message through the chat template; so a `prompt` from
    here is sent unless this is False."""
    shard_size: int
    """Samples a job."""
    skip_bad_rows: bool
    """Bad rows become error rows of the dataset instead of refusing the file."""
    retry_incomplete: bool
    """Try a constrained answer that `max_tokens` cut again with twice as many, and once more with
    four times as many."""
    limit: int | None
    """This and the next two choose rows of the input, see `Selection`."""
    sample: int | None
    sample_seed: int | None
    dedupe: bool
    """Answer rows that ask the same, greedily or with one seed, only once."""
    max_errors: str | int | None
    """This and the next four halt the run early, see `RunBounds`."""
    max_time: str | float | None
    until: str | None
    preview: int | None
    max_output_tokens: int | None
    resume: bool
    """The run exists; enqueue what is neither done nor on its way."""
    overwrite: bool
    """Move what the folder holds to NAME.old-TIME beside it, and have a server forget its run."""


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run that nothing is wrong with as far as its model, folder and input tell.

    Attributes:
        version: of the input when it was surveyed.
        largest_job: characters of the rows of one job.
        duplicates: rows that ask the same as an earlier one.
        sees: its model has to see: the input is images and videos, or has a column of them, or all
            its rows show some.
        resume, overwrite: as in `RunOptions`.
    """

    spec: RunSpec
    source: Input
    version: Hashable
    bad_rows: BadRows
    largest_job: int
    duplicates: Duplicates
    sees: bool
    resume: bool
    overwrite: bool

    @property
    def folder(self) -> Path:
        """Of the dataset."""
        return Path(self.spec.out)

    @property
    def is_done(self) -> bool:
        """Whether this machine sees the run's dataset, whole."""
        dataset = Dataset(self.folder)
        return not self.overwrite and dataset.is_claimed and dataset.is_whole(self.spec.shards)

    def make_room(self) -> Path | None:
        """Move what the folder holds aside, if it is to be overwritten; returns to where."""
        return move_aside(self.folder) if self.overwrite else None


def prepare_run(
    path: str | Path | None = None,
    *,
    read: Callable[[int], None] = lambda _: None,
    **options: Unpack[RunOptions],
) -> PreparedRun:
    """Look at a run's model, folder and whole input; writes nothing.

    Args:
        path: JSONL, OpenAI-batch JSONL, CSV, Parquet or text, recognised by `detect_format`.
        read: told now and then how many rows are read.
        **options: see `RunOptions`.

    Raises:
        InputFileError: the file can't be read, or holds bad rows.
        InvalidRequestError: an option is out of range or unknown, not exactly one input is given,
            the model is not there or can't be shown what the input holds.
        RunExistsError: the folder holds this very run, finished, and neither `resume` nor
            `overwrite` is set.
        OutputTakenError: the folder holds another run, or files that this one would mix with.
    """
    given: dict[str, Any] = dict(options)
    if unknown := given.keys() - RunOptions.__annotations__.keys():
        raise InvalidRequestError(f"{', '.join(sorted(unknown))}: no such options of a run")
    resume, overwrite = given.get("resume", False), given.get("overwrite", False)
    if resume and overwrite:
        raise InvalidRequestError("give one of resume, which goes on, and overwrite, which begins")
    source, version, asked = _asked(path, given)
    folder, identity = Path(asked["out"]), identify_asked(given["model"], given.get("adapter"))
    asked["model"] = identity.name
    require_model(given["model"], sees=_shows(source))
    bounds = RunBounds.of(**{name: given.get(name) for name in RunBounds.model_fields})
    if not overwrite:
        check_folder(folder, asked)
    rows = {name: asked[name] for name in ("sampling", "n")}
    # Of a run that has begun, the model's files may be here only since then.
    is_begun = resume and Dataset(folder).is_claimed
    sight = ANY_SIGHT if is_begun else Sight.of(given["model"])
    sight.require(source.path, validated(source, **rows, chat=asked["chat"]))
    sizes = {"shard_size": asked["shard_size"], "sight": sight}
    survey = survey_input(source, **rows, chat=asked["chat"], **sizes, read=read)
    if survey.bad_rows and not given.get("skip_bad_rows"):
        raise survey.refuse(source.path)
    if asked["retry_incomplete"] and survey.rows > survey.invalid and not survey.constrained:
        raise InvalidRequestError(
            "retry_incomplete: is for constrained answers, and no row's is: leave it out, or say "
            "what answers must be (structured_outputs)"
        )
    first = islice(validated(source, **rows, chat=asked["chat"]), bounds.preview or 0)
    duplicates: Duplicates = {}
    if given.get("dedupe", True):
        suspects = survey.suspects.rows()
        duplicates = find_duplicates(source, suspects, **rows, video_params=asked["video_params"])
    spec = RunSpec.create(
        **asked,
        revision=identity.revision,
        rows=survey.samples,
        input_rows=survey.rows,
        samples=survey.most_samples,
        bad_rows=survey.invalid,
        columns=survey.columns.types,
        parsed=survey.parsed.type,
        bounds=bounds,
        preview_rows=sum(row.samples for row in first),
        duplicates=len(duplicates),
        drawn_from=source.drawn_from if isinstance(source, Selected) else None,
    )
    if not overwrite:
        _check_holder(Dataset(folder), spec, resume=resume)
    return PreparedRun(
        spec,
        source,
        version,
        survey.bad_rows,
        survey.largest_job,
        duplicates,
        _shows(source) or survey.is_media,
        resume,
        overwrite,
    )


def _asked(
    path: str | Path | None, given: Mapping[str, Any]
) -> tuple[Input, Hashable, dict[str, Any]]:
    """Return a run's input, its version before it is read, and what its spec is asked to hold."""
    template = template_of(**{name: given.get(name) for name in _OF_TEMPLATE})
    sampling = given.get("sampling") or SamplingParams.of()
    chosen = {name: given.get(name) for name in Selection.model_fields}
    selection = selection_of(**chosen, seed=sampling.seed)
    source = input_of(
        path,
        videos=given.get("videos"),
        images=given.get("images"),
        template=template,
        selection=selection,
    )
    version, chat = source.version(), given.get("chat")
    return (
        source,
        version,
        {
            "out": str(output_folder(given["out"])),
            "input": InputSpec.of(source),
            "shard_size": _count("shard_size", given.get("shard_size", DEFAULT_SHARD_SIZE)),
            "sampling": sampling,
            "video_params": given.get("video_params") or VideoParams.of(),
            "n": _count("n", given.get("n", 1), MAX_SAMPLES),
            "chat": template.check_chat(chat, sees=shows_files(source)) if template else bool(chat),
            "template": template,
            "retry_incomplete": given.get("retry_incomplete", False),
            "selection": selection,
        },
    )


_OF_TEMPLATE = ("prompt", "system", "messages", "id_column", "image_column", "video_column")


def _shows(source: Input) -> bool:
    template = source.template
    has_column = template and (template.image_column or template.video_column)
    return shows_files(source) or bool(has_column)


def _count(name: str, given: Any, most: int | None = None) -> int:
    count = whole(given)
    if type(count) is not int or count < 1 or (most is not None and count > most):
        allowed = "at least 1" if most is None else f"1 to {most}"
        raise InvalidRequestError(f"{name}={given!r}: should be {allowed}")
    return count


def _check_holder(dataset: Dataset, spec: RunSpec, *, resume: bool) -> None:
    if not dataset.is_claimed:
        return
    dataset.check_holder(spec.run_id)
    if dataset.is_finished and not resume:
        raise RunExistsError(
            f"{spec.out} holds this very run, {spec.run_id}, finished: --overwrite moves it to "
            f"{aside(dataset.root).name} and runs again, another --out keeps both"
        )
