"""From an input's rows to their requests."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.requests import GenerationRequest
from jobs.sources.files import FilePath
from jobs.sources.formats import Format
from jobs.sources.ids import RowIds
from jobs.sources.inputs import Input
from jobs.sources.prompt_file import PromptFile
from jobs.sources.rows import SourceRow
from jobs.sources.template import Template
from vllm_mlx.contradictions import check_plain_prompt, check_scores
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.messages import check_final
from vllm_mlx.sampling_params import SamplingParams


def read_requests(
    path: FilePath,
    format: Format | None = None,
    *,
    sampling: SamplingParams | None = None,
    n: int = 1,
    template: Template | None = None,
    chat: bool = False,
) -> Iterator[SourceRow]:
    """Read a file's rows and validate each; a bad row is yielded too, with its error.

    Memory does not grow with the file, but for about 100 bytes for each row's own id. Paths of
    images and videos are relative to the file's folder; in the requests they are absolute.

    Args:
        sampling: what holds for a row that does not say it itself.
        n: the same for the number of its samples.
        template: what makes requests of the file's columns.
        chat: plain prompts go through the chat template.

    Raises:
        InputFileError: at once if the file is missing, empty or unreadable; while iterating if
            it turns out to hold no rows, or not to be the table it should be.
    """
    sampling = sampling or SamplingParams.of()
    source, chat = PromptFile.of(path, format, template), chat or template is not None
    return validated(source, sampling=sampling, n=n, chat=chat)


def validated(
    source: Input, *, sampling: SamplingParams, n: int, chat: bool
) -> Iterator[SourceRow]:
    """Yield what the rows of an input stand for, or what is wrong; see `read_requests`."""
    ids, dialect = RowIds(), source.dialect
    for row, line, data, error in source.rows():
        request, samples = None, 1
        if error is None:
            try:
                request = dialect.request(data).located(source.folder)
                params = request.over(sampling).agreeing()
                samples = _samples(request, params, n)
                _check_prompt(request, params, chat)
            except InvalidRequestError as wrong:
                request, error = None, _bare(wrong)
        try:
            id = ids.claim(row, request.id if request else dialect.own_id(data))
        except InvalidRequestError as taken:
            request, samples = None, 1
            error = InvalidRequestError(f"{error}; {taken}" if error else str(taken))
            id = ids.substitute(row)
        yield SourceRow(row, line, id, data, request, samples, error)


def _check_prompt(request: GenerationRequest, params: SamplingParams, chat: bool) -> None:
    if not (chat or request.messages or request.media):
        check_plain_prompt(params)
    elif params.continue_final_message:
        check_final(request.chat())


def _samples(request: GenerationRequest, params: SamplingParams, n: int) -> int:
    samples = request.samples(n)
    check_scores(params, sees_media=bool(request.media), own=request.model_fields_set)
    if samples > 1 and params.greedy:
        raise InvalidRequestError(
            f"n={samples}: with temperature=0, max_tokens=0 or score_choices every sample is the "
            "same; ask for one, or give a temperature"
        )
    return samples


def _bare(error: InvalidRequestError) -> InvalidRequestError:
    # A caller may keep many of these, and a raised one keeps its frames and its cause alive.
    return InvalidRequestError(str(error))
