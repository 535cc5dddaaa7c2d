"""`ShardRows`: what is asked for the rows of a shard, and what the dataset gets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from jobs.column_values import Convert, cell_encoder
from jobs.dataset.part import log_misfit
from jobs.errors import JobPayloadError
from jobs.parsed import parser
from jobs.queue.tasks import GenerateShard, ShardRow
from jobs.requests import GenerationRequest
from jobs.result_row import ResultRow
from jobs.run_spec import RunSpec
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.seeds import row_seed, sample_seed
from worker.flights.row_prompt import prompt_of


class ShardRows:
    """The rows of one shard by place, in its run's dialect and with its run's settings."""

    def __init__(self, spec: RunSpec, task: GenerateShard) -> None:
        self._spec = spec
        self._task = task
        self._dialect = spec.dialect

    def id_of(self, row: ShardRow) -> str:
        """Return the row's id: the one it brings, or else its number."""
        return row.id or self._dialect.own_id(row.data) or str(row.row)

    def requests(self, places: list[int], longer: Mapping[int, int]) -> list[Request]:
        """Return the samples of one row for the engine.

        Args:
            places: of the samples.
            longer: how often the answer of a place was tried again because `max_tokens` had cut
                it; each time it gets twice as many.

        Raises:
            InvalidRequestError: the row is known to be bad.
        """
        row, _ = self._task.samples[places[0]]
        request = self._request(row)
        prompt = prompt_of(request, self._spec.video_params, chat=self._spec.chat)
        return [
            Request(prompt, self._params(request, place, longer.get(place, 0))) for place in places
        ]

    def those_of_it(self, recorded: Mapping[int, ResultRow]) -> dict[int, ResultRow]:
        """Return those recorded rows that are the shard's: another one would spoil the dataset."""
        samples = self._task.samples
        return {
            place: row
            for place, row in recorded.items()
            if place < len(samples)
            and (row.row, row.sample_index) == (samples[place][0].row, samples[place][1])
        }

    def for_dataset(self, results: Mapping[int, ResultRow]) -> list[ResultRow]:
        """Return the results, of all places or of some, with the input's columns.

        Raises:
            JobPayloadError: a row has a column that its run has not.
        """
        parse = parser(self._spec.parsed)
        encoders = {name: cell_encoder(spec) for name, spec in self._spec.columns.items()}
        return [
            replace(
                results[place],
                columns=self._columns(row, encoders),
                parsed=self._parsed(row, results[place].output, parse),
            )
            for place, (row, _) in enumerate(self._task.samples)
            if place in results
        ]

    def _request(self, row: ShardRow) -> GenerationRequest:
        if row.error:
            raise InvalidRequestError(row.error)
        return self._dialect.request(row.data).located(self._task.folder)

    def _params(self, request: GenerationRequest, place: int, times_longer: int) -> SamplingParams:
        row, sample = self._task.samples[place]
        params = request.over(self._spec.sampling)
        if times_longer:  # the same text, as far as it went
            most = min(params.max_tokens << times_longer, 2**31 - 1)
            params = params.model_copy(update={"max_tokens": most})
        if params.greedy:
            return params
        seed = request.seed
        if seed is None:
            run_seed = self._spec.sampling.seed
            seed = row_seed(self._spec.run_id if run_seed is None else str(run_seed), row.row)
        return params.model_copy(update={"seed": sample_seed(seed, sample)})

    def _parsed(self, row: ShardRow, output: GenerationOutput, parse: Callable[[str], Any]) -> Any:
        """Return an answer in JSON as a value; None of one that is none, or was cut."""
        if output.complete is not True:
            return None
        outputs = self._request(row).over(self._spec.sampling).structured_outputs
        is_json = outputs is not None and outputs.kind in ("json", "json_object")
        return parse(output.text) if is_json else None

    def _columns(self, row: ShardRow, encoders: dict[str, Convert]) -> dict[str, Any]:
        columns = self._dialect.columns(row.data)
        if unknown := columns.keys() - encoders.keys():
            names = ", ".join(sorted(unknown))
            raise JobPayloadError(f"row {row.row} has a column that its run has not: {names}")
        return {name: self._cell(row, name, value, encoders) for name, value in columns.items()}

    def _cell(self, row: ShardRow, name: str, value: Any, encoders: dict[str, Convert]) -> Any:
        """Return an encoded value; null for one that another version let pass: it costs no part."""
        try:
            return encoders[name](value)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            log_misfit(self.id_of(row), name, self._spec.columns[name], error)
            return None
