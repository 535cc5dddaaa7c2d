"""An engine in a process of its own: what crosses, and what is left when that process dies."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from jobs.model_identity import identify
from tests.helpers.double_process import MAKE
from tests.helpers.engines import MODEL, wait_for
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import EngineStoppedError, MLXBatchError, ModelLoadError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.models.loading import load_model
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.engine import child, supervisor
from worker.engine.supervisor import SupervisedEngine

PARAMS = SamplingParams.of(max_tokens=2, temperature=0)

StartEngine = Callable[..., SupervisedEngine]


@pytest.fixture
def start_engine() -> Iterator[StartEngine]:
    started: list[SupervisedEngine] = []

    def start(model: str = "m", **options: Any) -> SupervisedEngine:
        options = {"make": MAKE} | options
        engine = SupervisedEngine(model, SchedulerConfig(max_num_seqs=4), **options)
        started.append(engine)
        engine.start()
        return engine

    yield start
    for engine in started:
        engine.stop()


def ask(engine: SupervisedEngine, *prompts: Any) -> list[Future[GenerationOutput]]:
    return engine.submit(*(Request(prompt, PARAMS) for prompt in prompts))


def answers(futures: list[Future[GenerationOutput]]) -> list[GenerationOutput]:
    return [future.result(20) for future in futures]


def answer(engine: SupervisedEngine, prompt: Any) -> GenerationOutput:
    (output,) = answers(ask(engine, prompt))
    return output


def errors(outputs: list[GenerationOutput]) -> list[str | None]:
    return [output.error_type for output in outputs]


def pid_of(engine: SupervisedEngine) -> int:
    assert engine._child
    return engine._child._process.pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # its new parent may be slow to bury it


# The model.


def test_outputs_have_the_name_of_its_identity(start_engine: StartEngine, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    engine = start_engine(str(tmp_path))

    assert answer(engine, "row").model == identify(str(tmp_path)).name


def test_a_process_that_is_started_again_has_the_same_model(
    start_engine: StartEngine, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    engine = start_engine(str(tmp_path))
    answer(engine, "row")
    (tmp_path / "config.json").write_text("[]")

    (future,) = ask(engine, "abort")

    with pytest.raises(EngineStoppedError, match="its files have changed"):
        future.result(20)


# What crosses.


def test_prompts_and_parameters_arrive_and_answers_come_back(start_engine: StartEngine) -> None:
    engine = start_engine(media=MediaPolicy(allowed_paths=(Path("/clips"),)))
    messages = [{"role": "user", "content": "é\nß"}]
    seen = MediaPrompt(
        [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}],
        VideoParams.of(video_fps=0.1),
    )
    seeded = SamplingParams.of(seed=2**63 - 1, stop=["a", "\n"], max_tokens=9, top_p=0.3)

    asked: list[Any] = [("plain", PARAMS), (messages, PARAMS), (seen, PARAMS)]
    asked += [("n", seeded), ("n", PARAMS)]
    futures = engine.submit(*(Request(*each) for each in asked))
    plain, chat, media, first, second = answers(futures)

    assert plain == GenerationOutput("'plain' and 3 others", 3, 2, "stop", "m")
    assert chat.text.startswith(repr(messages))
    assert media.text.startswith(repr(seen))
    assert media.media
    assert media.media[0].hash == repr((Path("/clips"),))
    assert (first.seed, first.completion_tokens) == (2**63 - 1, 9)
    assert (second.seed, second.completion_tokens) == (None, 2)


def test_callbacks_are_refused(start_engine: StartEngine) -> None:
    engine = start_engine()
    for wrong in ({"on_chunk": print}, {"on_begin": print}):
        with pytest.raises(ValueError, match="calls nothing back"):
            engine.submit(Request("row", PARAMS, **wrong))


def test_what_json_has_trouble_with(start_engine: StartEngine) -> None:
    engine = start_engine()

    half, nan, strange, printed, long = answers(
        ask(engine, "half \ud800", "nan", b"bytes", "print", "long")
    )

    assert half.text.startswith(r"'half \ud800'")
    assert nan.logprobs
    assert math.isnan(nan.logprobs[0].logprob)
    assert strange.error_type == "TypeError", "as it is a row's error, not the caller's"
    assert printed.text.startswith("'print'"), "what a library prints is no event"
    assert (long.error_type, long.error) == ("ContextLengthError", "the prompt is too long \ufffd")


def test_what_the_process_prints_and_logs_reaches_stderr(
    start_engine: StartEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(start_engine(), "print")

    err = ""

    def is_told() -> bool:
        nonlocal err
        err += capsys.readouterr().err
        return "printed" in err

    wait_for(is_told)


def test_a_cancelled_row_frees_its_place(start_engine: StartEngine) -> None:
    engine = start_engine()
    held = ask(engine, *["hold"] * 3)
    wait_for(lambda: engine.stats.running == 3)

    assert held[0].cancel()
    wait_for(lambda: engine.stats.running == 2)

    assert not held[1].done()
    assert answer(engine, "next").finish_reason == "stop"


def test_only_rows_that_have_not_begun_are_cancelled_as_waiting(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "END_TIMEOUT", 0.1)
    engine = start_engine()
    (begun,) = ask(engine, "sleep")
    wait_for(lambda: begun not in engine._backlog.waiting)
    waiting, other = ask(engine, "row", "row")

    engine.cancel_waiting([begun, waiting])

    assert [row.cancelled() for row in (begun, waiting, other)] == [False, True, False]


def test_stopping_ends_what_waits_and_the_process(start_engine: StartEngine) -> None:
    engine = start_engine()
    (held,) = ask(engine, "hold")
    pid = pid_of(engine)

    engine.stop()

    with pytest.raises(EngineStoppedError, match="the engine of m was stopped"):
        held.result(0)
    with pytest.raises(EngineStoppedError):
        ask(engine, "more")
    assert not is_alive(pid)
    engine.start()
    assert answer(engine, "again").finish_reason == "stop"


def test_it_is_not_started_yet() -> None:
    with pytest.raises(EngineStoppedError, match="is not started"):
        ask(SupervisedEngine("m", make=MAKE), "early")


# The process dies.


@pytest.mark.parametrize(("killers", "deaths"), [(1, 2), (2, 3)])
def test_a_row_that_kills_twice_is_an_error_row_and_all_others_are_answered(
    start_engine: StartEngine, killers: int, deaths: int, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = start_engine()
    prompts = [f"row {n}" for n in range(30)]
    for n in range(killers):
        prompts.insert(12 + 2 * n, f"abort {n}")

    outputs = answers(ask(engine, *prompts))

    kinds = {prompt: output.error_type for prompt, output in zip(prompts, outputs, strict=True)}
    assert {prompt for prompt, kind in kinds.items() if kind} == set(prompts) - {
        f"row {n}" for n in range(30)
    }
    killed = outputs[prompts.index("abort 0")]
    assert (killed.error_type, killed.model) == ("WorkerKilled", "m")
    assert killed.error == (
        "the engine's process was killed by SIGABRT while it answered this row and no other; "
        "before, another had died with this row among others"
    )
    assert answer(engine, "later").text == "'later' and 0 others"
    assert capsys.readouterr().err.count("a last word") == deaths


def test_only_rows_that_had_begun_are_tried_alone(
    start_engine: StartEngine, tmp_path: Path
) -> None:
    engine = start_engine()

    outputs = answers(ask(engine, f"once {tmp_path}/a", *[f"row {n}" for n in range(7)]))

    company = [int(output.text.split()[-2]) for output in outputs]
    assert company == [0, 0, 0, 0, 3, 3, 3, 3]


def test_rows_that_come_while_suspects_are_tried_wait(
    start_engine: StartEngine, tmp_path: Path
) -> None:
    engine = start_engine()
    first = ask(engine, f"once {tmp_path}/a", "hold 1", "row")
    pid = pid_of(engine)
    wait_for(lambda: engine._child and pid_of(engine) != pid)
    later = ask(engine, "row 1", "row 2")
    wait_for(lambda: first[0].done() and engine.stats.running == 1)

    assert not later[0].done()
    assert not first[2].done()
    assert engine.stats.waiting == 3

    assert first[1].cancel(), "the one that is alone in the engine"
    assert first[2].result(20).text == "'row' and 0 others"
    assert later[0].result(20).text == "'row 1' and 1 others"


def test_a_process_that_is_killed_from_outside_costs_no_row(start_engine: StartEngine) -> None:
    engine = start_engine()
    held = ask(engine, *["hold"] * 3)
    wait_for(lambda: engine.stats.running == 3)
    pid = pid_of(engine)

    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: engine.stats.running == 1)

    assert pid_of(engine) != pid
    assert not any(future.done() for future in held)


def test_it_dies_with_nothing_to_do(start_engine: StartEngine) -> None:
    engine = start_engine()
    os.kill(pid_of(engine), signal.SIGKILL)

    assert answer(engine, "row").finish_reason == "stop"


def test_no_temporary_file_outlives_its_process(start_engine: StartEngine) -> None:
    engine = start_engine()
    first = Path(answer(engine, "scratch").text)
    assert first.is_dir()

    answer(engine, "leave")

    second = Path(answer(engine, "scratch").text)
    assert not first.exists()
    assert second != first
    engine.stop()
    assert not second.exists()


def test_an_engine_that_ends_by_itself_is_started_again(start_engine: StartEngine) -> None:
    engine = start_engine()

    assert errors(answers(ask(engine, "row", "end"))) == [None, "WorkerKilled"]


def test_counts_go_on_over_a_death(start_engine: StartEngine, tmp_path: Path) -> None:
    engine = start_engine()
    answers(ask(engine, *[f"row {n}" for n in range(8)]))
    assert (engine.stats.steps, engine.stats.completion_tokens) == (8, 16)

    answers(ask(engine, f"once {tmp_path}/a", "row"))

    assert (engine.stats.steps, engine.stats.completion_tokens) == (10, 20)
    assert engine.stats.slots == 4


def test_a_machine_on_which_everything_dies_is_given_up(
    start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MOST_DEATHS", 3)
    engine = start_engine()

    futures = ask(engine, *["abort"] * 8)

    assert errors(answers(futures[:2])) == ["WorkerKilled"] * 2
    with pytest.raises(EngineStoppedError, match="died 3 times in a row; the last one was killed"):
        futures[2].result(20)
    with pytest.raises(EngineStoppedError):
        ask(engine, "more")


# The process and its model.


def test_a_model_that_can_not_be_loaded(start_engine: StartEngine) -> None:
    with pytest.raises(ModelLoadError, match=r"^there is no such model$"):
        start_engine("missing")


def test_an_error_that_is_not_ours(start_engine: StartEngine) -> None:
    with pytest.raises(MLXBatchError, match="ZeroDivisionError: in the weights"):
        start_engine("broken")


def test_a_process_that_dies_while_it_loads_gets_two_more_chances(
    start_engine: StartEngine, tmp_path: Path
) -> None:
    assert answer(start_engine(f"dies 2 {tmp_path}"), "row").finish_reason == "stop"


def test_a_process_that_always_dies_while_it_loads(
    start_engine: StartEngine, tmp_path: Path
) -> None:
    said = "can't be loaded: its process died 3 times in a row; the last one was killed by SIGABRT"
    with pytest.raises(EngineStoppedError, match=said) as caught:
        start_engine(f"dies 9 {tmp_path}")

    assert "no memory for the weights" in str(caught.value)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the OOM killer is Linux's")
def test_the_oom_killer_takes_the_engine_first(start_engine: StartEngine) -> None:
    pid = pid_of(start_engine())

    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"


# The worker's process is stopped or dies.


def start_parent(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.helpers.double_process", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task")
    found = [each.read_text() for each in children.glob("*/children")]
    return next((int(word) for text in found for word in text.split()), None)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize(("model", "prompt"), [("m", "sleep"), ("slow", "row")])
def test_the_process_ends_with_its_worker_whatever_it_does(model: str, prompt: str) -> None:
    parent = start_parent(model, prompt)
    try:
        wait_for(lambda: child_of(parent.pid))
        child = child_of(parent.pid)
        assert child
        assert parent.stdout
        if model == "m":
            assert parent.stdout.readline() == "asked\n"
    finally:
        parent.kill()
        parent.communicate()

    wait_for(lambda: not is_alive(child), timeout=5)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_and_the_service_stop_the_worker_not_its_engine(
    start_engine: StartEngine, signum: signal.Signals
) -> None:
    engine = start_engine()
    pid = pid_of(engine)

    os.kill(pid, signum)

    assert answer(engine, "row").finish_reason == "stop"
    assert pid_of(engine) == pid


def test_a_worker_that_sleeps_gets_all_answers_when_it_wakes_up() -> None:
    parent = start_parent("m", "big", "40")
    with parent:
        assert parent.stdout
        assert parent.stdout.readline() == "asked\n"
        parent.send_signal(signal.SIGSTOP)
        time.sleep(1)
        parent.send_signal(signal.SIGCONT)
        out, _ = parent.communicate(timeout=20)

    assert out == f"{40 * 1_000_000}\n"


# The real engine.


def test_texts_are_those_of_an_engine_in_this_process(text_folder: str) -> None:
    config = SchedulerConfig(max_num_seqs=4)
    greedy = SamplingParams.of(max_tokens=12, temperature=0, logprobs=2)
    drawn = [SamplingParams.of(max_tokens=12, seed=seed) for seed in (1, 2)]
    prompts: list[Any] = [
        *(f"Two facts about the number {n}:" for n in range(6)),
        "",
        "half \ud800",
    ]
    asked = [Request(prompt, greedy) for prompt in prompts]
    asked += [Request("Once upon a time", each) for each in drawn]
    asked.append(Request([{"role": "user", "content": "Hello"}], greedy))
    core = EngineCore(text_folder, load_model, config)
    supervised = SupervisedEngine(text_folder, config)
    core.start()
    try:
        expected = [as_output(future) for future in core.submit(*asked)]
    finally:
        core.stop()
    supervised.start()
    try:
        outputs = answers(supervised.submit(*asked))
    finally:
        supervised.stop()

    for ours, theirs in zip(outputs, expected, strict=True):
        assert comparable(ours) == comparable(theirs)


def as_output(future: Future[GenerationOutput]) -> GenerationOutput:
    error = future.exception()
    return GenerationOutput.from_error(error, MODEL) if error else future.result()


def comparable(output: GenerationOutput) -> tuple[object, ...]:
    texts = [each.token for each in output.logprobs or ()]
    return (
        output.text,
        output.prompt_tokens,
        output.completion_tokens,
        output.finish_reason,
        output.seed,
        output.error_type,
        output.error,
        texts,
    )


def test_a_worker_needs_no_mlx_in_its_own_process() -> None:
    code = "import sys, worker.batch_worker, worker.engine.supervisor; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"mlx", "mlx_lm", "mlx_vlm", "transformers"} & set(said.stdout.split())


def test_an_engine_that_hangs_is_ended_and_started_again(
    start_engine: StartEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start_engine(make="tests.helpers.double_process:make_impatient")

    outputs = answers(ask(engine, "sleep", "row"))

    assert errors(outputs) == ["WorkerKilled", None]
    assert outputs[0].error is not None
    assert "hung and was ended" in outputs[0].error
    assert "hung and was ended; it is started again" in caplog.text
