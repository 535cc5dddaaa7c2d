"""`mlx-batch plan` says of an input what its run does: compared with real runs of the same rows."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from jobs.sources import input_of
from tests.helpers.command_line import cli
from tests.helpers.shell import Shell
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request
from vllm_mlx.models.loading import load_model
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.cli.exit_codes import ExitCode
from worker.plan import timings
from worker.plan.answers import run_some
from worker.plan.prompts import PlannedPrompts, Reading, read_prompts
from worker.plan.schedule import decode_seconds
from worker.plan.shares import Planned, SampleRow

NewCore = Callable[..., EngineCore]
WIDTH = 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a few steps only: how good the timings are is for `benchmarks/planned.py`."""
    monkeypatch.setattr(timings, "POINT_SECONDS", 0.02)
    monkeypatch.setattr("worker.plan.plan.overhead", lambda _: 0.5)


@pytest.fixture
def new_core(text_folder: str) -> Iterator[NewCore]:
    cores: list[EngineCore] = []

    def new(**config: Any) -> EngineCore:
        core = EngineCore(text_folder, load_model, SchedulerConfig.of(**config))
        cores.append(core)
        core.start()
        return core

    yield new
    for core in cores:
        core.stop()


def write(folder: Path, *rows: dict[str, Any] | str) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return path


def reading_of(path: Path, n: int = 1, **sampling: Any) -> Reading:
    params = SamplingParams.of(**sampling)
    return Reading(source=input_of(path), sampling=params, video=VideoParams.of(), n=n, chat=False)


def plan_json(*words: object) -> tuple[int, dict[str, Any]]:
    result = cli("plan", *words, "--json")
    assert result.stdout, result.output
    return result.exit_code, json.loads(result.stdout)


def read(path: Path, core: EngineCore, **options: Any) -> PlannedPrompts:
    return read_prompts(reading_of(path, **options), core, lambda _: None)


def test_a_plan_of_rows_that_all_run(tmp_path: Path, text_folder: str) -> None:
    rows = [{"prompt": "word " * size, "max_tokens": size, "ignore_eos": True} for size in (2, 9)]

    path = write(tmp_path, *rows, rows[0], "no JSON")
    code, found = plan_json(path, "--model", text_folder, "--limit", 3)

    assert code == 0
    assert (found["rows"], found["bad_rows"], found["failing_rows"]) == (3, 0, 0)
    assert found["output_tokens"] == [13, 13]
    assert found["duplicate_rows"] == 1
    assert (found["runner"], found["way"]) == ("SlotRunner", "in slots, 2 x keys and values")
    assert sum(rows for *_, rows in found["histogram"]) == 3
    low, high = found["seconds"]
    assert 0 < low < high <= low * 1.3 / 0.7 + 1e-6
    assert found["memory"]["weights"] > 0


def test_what_is_printed_fits_in_80_columns(shell: Shell, tmp_path: Path, text_folder: str) -> None:
    rows = [{"prompt": "a" * size} for size in (5, 30, 31, 40, 100)]
    hot = [{"prompt": "x", "temperature": each} for each in (9, 10, 11)]
    form = {"prompt": "x", "response_format": {"type": "xml"}}
    path = write(tmp_path, *rows, "{", *hot, form)

    code, said = shell.run("plan", path, "--model", text_folder, "--max-tokens", 5000)

    assert code == ExitCode.ROWS_IN_ERROR
    lines = [line for line in said.splitlines() if "[transformers]" not in line]
    assert max(map(len, lines)) <= 80
    assert any(line.endswith(" loading the model") for line in lines)
    assert "10, 5 of them bad" in said
    assert "line 10: InvalidRequestError: response_format: type should be" in " ".join(said.split())
    assert "1 row, line 6: InvalidRequestError" in said
    assert "3 rows, lines 7, 8, 9: InvalidRequestError" in said
    bars = [line for line in lines if "█" in line]
    assert max(bar.count("█") for bar in bars) == 40
    assert sum(int(bar.split()[-1]) for bar in bars) == 5
    assert "0 to 25,000" in said
    assert "--measure" in said


def test_rows_that_get_the_answer_of_another_are_not_planned(
    tmp_path: Path, new_core: NewCore
) -> None:
    core = new_core()
    once = [{"prompt": "a", "temperature": 0}, {"prompt": "b", "seed": 3}]
    fails = {"prompt": "c", "temperature": 0, "stop_token_ids": [10**6]}
    path = write(tmp_path, *once, fails, {"prompt": "drawn"}, *once, fails, {"prompt": "drawn"})
    reading = reading_of(path)

    found = read_prompts(reading, core, lambda _: None)
    each = read_prompts(replace(reading, dedupe=False), core, lambda _: None)

    assert (found.duplicates, found.copied, found.failing) == (4, 3, 2)
    assert (each.duplicates, each.copied, each.failing) == (4, 0, 2)
    assert (len(found.planned), len(each.planned)) == (4, 6)
    assert found.prompt_tokens < each.prompt_tokens


def test_answers_are_as_long_as_labels_are(tmp_path: Path, new_core: NewCore) -> None:
    core, asked = new_core(), {"structured_outputs": {"choice": ["yes", "certainly not"]}}
    rows = [{"prompt": "a"} | asked, {"prompt": "b", "max_tokens": 2} | asked, {"prompt": "c"}]

    found = read(write(tmp_path, *rows), core)

    shortest, longest = (len(core.loaded.encode_label(text)) for text in ("yes", "certainly not"))
    assert shortest < 2 < longest
    bounds = {(each.least, each.most) for each in found.planned}
    assert bounds == {(shortest, longest + 1), (shortest, 2), (0, 256)}


def test_rows_that_could_not_run_are_told(tmp_path: Path, text_folder: str) -> None:
    context = json.loads((Path(text_folder) / "config.json").read_text())["max_position_embeddings"]
    path = write(
        tmp_path,
        {"prompt": "fits"},
        {"prompt": "word " * (context + 1)},
        {"prompt": "sees", "images": ["photo.png"]},
        {"prompt": "x", "stop_token_ids": [10**6]},
    )

    code, found = plan_json(path, "--model", text_folder)

    assert code == ExitCode.ROWS_IN_ERROR
    assert found["failing_rows"] == 3
    assert {each["error_type"]: each["lines"] for each in found["failures"]} == {
        "ContextLengthError": [2],
        "MediaError": [3],
        "InvalidRequestError": [4],
    }


def test_media_that_can_not_be_read_or_may_not(tmp_path: Path, vision_folder: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    path = write(
        tmp_path,
        {"prompt": "outside", "images": ["/etc/hostname"]},
        {"prompt": "broken", "images": ["broken.png"]},
    )

    code, found = plan_json(path, "--model", vision_folder)

    assert code == ExitCode.ROWS_IN_ERROR
    assert {each["error_type"]: each["lines"] for each in found["failures"]} == {
        "MediaNotAllowedError": [1],
        "MediaError": [2],
    }
    assert found["timings"] is None, "there is nothing to time"


def test_a_model_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "x"})

    result = cli("plan", path, "--model", tmp_path / "nowhere")

    assert result.exit_code == ExitCode.BAD_INPUT
    assert "nowhere" in result.stderr


def test_steps_are_as_many_as_a_run_takes(tmp_path: Path, new_core: NewCore) -> None:
    core = new_core(max_num_seqs=WIDTH)
    sizes = [3, 17, 5, 11, 2, 30, 7, 7, 1, 13, 4, 6, 19, 2, 8, 9, 10, 21, 3, 5]
    rows = [{"prompt": f"row {n}", "max_tokens": n, "ignore_eos": True} for n in sizes]
    reading = reading_of(write(tmp_path, *rows))

    steps = decode_seconds(sizes, WIDTH, lambda _: 1.0)

    requests = [reading.request(row.request) for row in reading.rows() if row.request]
    for future in core.submit(*requests):
        future.result()
    assert core.stats.steps == pytest.approx(steps, abs=2)


@pytest.mark.parametrize("n", [1, 3])
def test_prefixes_save_as_much_as_in_a_run(tmp_path: Path, new_core: NewCore, n: int) -> None:
    core = new_core(max_num_seqs=WIDTH)
    rows = [{"prompt": "the same beginning of all, " * 8 + "of one " * k} for k in range(6)]
    reading = reading_of(write(tmp_path, *rows), n=n, max_tokens=1)

    found = read_prompts(reading, core, lambda _: None)

    requests = [
        sample
        for row in reading.rows()
        if row.request
        for sample in reading.request(row.request).samples(n)
    ]
    for future in core.submit(*requests):
        future.result()
    stats = core.stats
    assert found.prompt_tokens == stats.prompt_tokens
    assert found.computed_tokens == pytest.approx(
        stats.prompt_tokens - stats.cached_tokens, rel=0.1
    )
    assert found.computed_tokens < 0.4 * found.prompt_tokens


def test_what_a_run_takes_beside_its_rows_is_timed() -> None:
    assert timings.overhead(time.perf_counter) > 0.05


def test_tokens_of_prefixes_take_about_as_long_as_others(tmp_path: Path, new_core: NewCore) -> None:
    core = new_core(max_num_seqs=WIDTH)
    rows = [{"prompt": "the same beginning of all, " * 30 + f"of {k}"} for k in range(8)]
    found = read(write(tmp_path, *rows), core, max_tokens=4)
    assert sum(each.shared for each in found.planned) > 150

    for _ in range(2):  # the second time prefixes may be there
        measured = timings.measure(core, found.sample, WIDTH, start=0.0, clock=time.perf_counter)
        assert 0 < measured.own / 4 <= measured.shared <= 2 * measured.own


def test_nothing_runs_without_measure(tmp_path: Path, new_core: NewCore) -> None:
    core = new_core()

    read(write(tmp_path, {"prompt": "a"}, {"prompt": "b"}), core)

    assert core.stats.prompt_tokens == core.stats.waiting == 0


def test_fewer_slots_where_the_budget_is_small(tmp_path: Path, text_folder: str) -> None:
    rows = [{"prompt": "word " * size, "max_tokens": 40, "ignore_eos": True} for size in (9, 1500)]
    _, found = plan_json(write(tmp_path, rows[0]), "--model", text_folder)

    enough = 6 * found["memory"]["row"]
    words = ["--model", text_folder, "--kv-cache-bytes", enough]
    code, small = plan_json(write(tmp_path, *rows), *words)

    assert found["memory"]["slots"] == found["memory"]["max_num_seqs"]
    assert 1 <= small["memory"]["slots"] < 6
    assert code == ExitCode.ROWS_IN_ERROR
    assert {each["error_type"]: each["lines"] for each in small["failures"]} == {
        "KVCacheBudgetError": [2]
    }


def test_measured_answers_narrow_the_range(tmp_path: Path, text_folder: str) -> None:
    rows = [{"prompt": f"row {n}", "max_tokens": 6} for n in range(30)]
    known = [{"prompt": "a", "max_tokens": 40, "ignore_eos": True}] * 5
    path = write(tmp_path, *rows, *known)

    _, measured = plan_json(path, "--model", text_folder, "--measure")

    assert sum(measured["measured"]["finish_reasons"].values()) == 20, "none of those known"
    for low, high in (measured["output_tokens"], measured["seconds"]):
        assert 0 < low <= high <= low * 1.3 / 0.7 + 1e-6
    assert 200 < measured["output_tokens"][0] <= 380


class _Answering:
    """Answers as an engine does, with so many tokens each."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = iter(lengths)

    def submit(self, *requests: Request) -> list[Future[Any]]:
        futures: list[Future[Any]] = [Future() for _ in requests]
        for future in futures:
            future.set_result(Mock(finish_reason="stop", completion_tokens=next(self._lengths)))
        return futures


def test_rows_are_run_until_all_tokens_are_known_well() -> None:
    draw = random.Random(5)
    lengths = [min(1000, int(draw.expovariate(1 / 60)) + 1) for _ in range(4000)]
    rows = [SampleRow(Planned(20, 20, 0, 0, 1000), Request("a", SamplingParams.of()))] * 4000
    planned = [each.planned for each in rows]

    core: Any = _Answering(lengths)
    answers = run_some(core, rows[:512], planned, lambda _: None)

    assert 60 <= answers.rows <= 200
    unsure = answers.uncertainty(planned)
    assert 0.1 < unsure <= 0.2
    assert sum(answers.draw(planned)) == pytest.approx(sum(lengths), rel=unsure)
    few = run_some(core, rows[:15], planned[:15], lambda _: None)
    assert (few.rows, few.uncertainty(planned[:15])) == (15, 0.0), "all of them are known"


def test_rows_that_fail_when_they_are_run_are_told(
    tmp_path: Path, new_core: NewCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = new_core()
    found = read(write(tmp_path, {"prompt": "a"}, {"prompt": "b"}), core, max_tokens=2)
    runner = core.runner

    def fail() -> Any:
        raise ValueError("the model broke")

    monkeypatch.setattr(runner, "step", fail)
    answers = run_some(core, found.sample, found.planned, lambda _: None)

    assert answers.finish_reasons == {"error": 2}
    assert answers.errors == {"EngineError": "ValueError: the model broke"}
