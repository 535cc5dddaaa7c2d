"""Constrained answers that `max_tokens` cuts: said of each, counted, and tried again if asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from jobs.dataset import verify
from jobs.ledger.counts import Counts
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import Asked, DoubleEngine, echo
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from worker.status.status import run_status

OUTPUTS = {"regex": "[a-z]{40}"}


def test_an_answer_says_whether_it_is_whole(language_model: MLXLanguageModel) -> None:
    def complete(**options: Any) -> list[bool | None]:
        given: Any = {"temperature": 0, "max_tokens": 4, **options}
        return [
            chunk.complete for chunk in language_model.stream_generate("Yes or no?", **given)
        ] + [language_model.generate("Yes or no?", **given).complete]

    assert complete(structured_outputs={"choice": ["yes", "no"]})[-2:] == [True, True]
    assert complete(structured_outputs=OUTPUTS)[-2:] == [False, False]
    assert set(complete()) == {None}
    assert complete(structured_outputs=OUTPUTS)[0] is None, "of a stream only the end knows"


class Cutting(DoubleEngine):
    """Rows are cut unless they may have 16 tokens; with 5 they end within their thought."""

    def _answer(self, row: Asked) -> None:
        is_whole = row.params.max_tokens >= 16
        reason: Any = "stop" if is_whole or row.params.max_tokens == 5 else "length"
        said: GenerationOutput = replace(echo(row.prompt), complete=is_whole, finish_reason=reason)
        row.future.set_result(said)


def test_what_is_cut_is_not_tried_again_while_its_run_is_paused(bench: Bench) -> None:
    sampling = SamplingParams.of(max_tokens=4, structured_outputs=OUTPUTS, temperature=0)
    spec = bench.enqueue(2, 2, sampling=sampling, retry_incomplete=True)
    engine = Cutting(max_num_seqs=2, held=True)
    worker = bench.worker(engine)
    bench.step(worker)
    assert cli("pause", spec.run_id, "-u", bench.url).exit_code == 0
    bench.step(worker)
    engine.answer()
    bench.step(worker)
    bench.step(worker)
    assert ([row.params.max_tokens for row in engine.asked], len(worker.flights)) == ([4, 4], 0)

    assert cli("continue", spec.run_id, "-u", bench.url).exit_code == 0
    bench.burst(Cutting())
    assert verify(Path(spec.out)).complete
    assert verify(Path(spec.out)).incomplete == 0


@pytest.mark.parametrize(
    ("max_tokens", "again", "asked", "incomplete"),
    [
        (4, True, [4, 8, 16], 0),
        (3, True, [3, 6, 12], 2),
        (4, False, [4], 2),
        (16, True, [16], 0),
        (5, True, [5], 2),
    ],
)
def test_what_is_cut_is_counted_or_tried_again(
    max_tokens: int, again: bool, asked: list[int], incomplete: int, bench: Bench
) -> None:
    sampling = SamplingParams.of(max_tokens=max_tokens, structured_outputs=OUTPUTS, temperature=0)
    spec = bench.enqueue(2, 2, sampling=sampling, retry_incomplete=again)
    engine = Cutting()
    bench.burst(engine)

    assert [row.params.max_tokens for row in engine.asked] == [
        each for each in asked for _ in range(2)
    ]
    assert run_status(bench.redis, spec.run_id).rows_incomplete == incomplete
    assert verify(Path(spec.out)).incomplete == incomplete
    told = "2 incomplete (constrained answer not whole)"
    assert (told in cli("verify", spec.out).output) == bool(incomplete)
    status = cli("status", spec.run_id, "-u", bench.url).output
    assert (told in " ".join(status.split())) == bool(incomplete)
    rows = pl.read_parquet(f"{spec.out}/data/*.parquet")
    assert rows["complete"].to_list() == [not incomplete] * 2
    assert rows["attempts"].to_list() == [len(asked)] * 2
    assert (f"Incomplete: {incomplete}" in (Path(spec.out) / "README.md").read_text()) == bool(
        incomplete
    )


def test_counts_of_an_older_version_are_read() -> None:
    assert Counts.decode(b"[3, 1, 20, 30]") == Counts(3, 1, 20, 30, 0)
    assert Counts.decode(Counts(3, 1, 20, 30, 2).encode().encode()) == Counts(3, 1, 20, 30, 2)
