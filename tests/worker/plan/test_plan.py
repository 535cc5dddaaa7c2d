"""`mlx-batch plan` says of an input what its run does: compared with real runs of the same rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.sources import input_of
from tests.helpers.command_line import cli
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.models.loading import load_model
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.cli.exit_codes import ExitCode
from worker.plan import timings
from worker.plan.answers import run_some
from worker.plan.prompts import PlannedPrompts, Reading, read_prompts
from worker.plan.schedule import decode_seconds

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


def test_what_is_printed_fits_in_80_columns(tmp_path: Path, text_folder: str) -> None:
    rows = [{"prompt": "a" * size} for size in (5, 30, 31, 40, 100)]
    hot = [{"prompt": "x", "temperature": each} for each in (9, 10, 11)]
    path = write(tmp_path, *rows, "{", *hot)

    result = cli("plan", path, "--model", text_folder, "--max-tokens", 5, env={"COLUMNS": "80"})

    assert result.exit_code == ExitCode.ROWS_IN_ERROR
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "9, 4 of them bad" in result.stdout
    assert "1 row, line 6: InvalidRequestError" in result.stdout
    assert "3 rows, lines 7, 8, 9: InvalidRequestError" in result.stdout
    bars = [line for line in lines if "█" in line]
    assert max(bar.count("█") for bar in bars) == 40
    assert sum(int(bar.split()[-1]) for bar in bars) == 5
    assert "0 to 25" in result.stdout
    assert "--measure" in result.stdout


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
    path = write(tmp_path, *rows)

    _, measured = plan_json(path, "--model", text_folder, "--measure")

    assert sum(measured["measured"]["finish_reasons"].values()) == 20
    low, high = measured["output_tokens"]
    assert 0 < low <= high
    assert high - low < 180, "what it is without"


def test_rows_that_fail_when_they_are_run_are_told(
    tmp_path: Path, new_core: NewCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = new_core()
    found = read(write(tmp_path, {"prompt": "a"}, {"prompt": "b"}), core, max_tokens=2)
    runner = core.runner

    def fail() -> Any:
        raise ValueError("the model broke")

    monkeypatch.setattr(runner, "step", fail)
    answers = run_some(core, found.sample)

    assert answers.finish_reasons == {"error": 2}
    assert answers.errors == {"EngineError": "ValueError: the model broke"}
