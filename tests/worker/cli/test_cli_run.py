"""`mlx-batch run` and `worker`, whole: real processes, a real server, a real or a tiny model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
from redis import Redis

from jobs.dataset import Dataset, verify
from jobs.dataset.layout import DatasetPaths
from jobs.ledger import Ledger
from jobs.ledger.keys import RUNS, done_key
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.decoding import ENDLESS
from tests.helpers.engines import (
    MODEL,
    wait_for,
    wait_until_finished,
    write_prompts,
)
from tests.helpers.terminal import Terminal
from vllm_mlx.sampling_params import SamplingParams
from worker.cli.exit_codes import ExitCode

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RQ_REDIS_URL"}
ENVIRONMENT["COLUMNS"] = "200"  # else tables break lines


def mlx_batch(*words: object) -> list[str]:
    return [sys.executable, "-m", "worker.cli", *map(str, words)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        mlx_batch(*words), env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def rows_of(out: Path) -> list[dict[str, Any]]:
    table = pyarrow.dataset.dataset(f"{out}/data", format="parquet").to_table()
    return sorted(table.to_pylist(), key=lambda row: row["row"])


# One run of six rows: four good ones, a bad one, and one that is too long for the model.

SIX_ROWS: list[Any] = [
    {
        "id": "capital",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
    },
    {"id": "plain", "prompt": "Once upon a time", "max_tokens": 4},
    {"id": "bad", "prompt": "hot", "temperature": 9},
    {"id": "long", "prompt": "word " * 9000},
    {"id": "markup", "prompt": "Say [/INST] and [bold]", "note": "mine"},
    {"id": "greedy", "prompt": "1, 2, 3,", "temperature": 0},
]


class Finished:
    """The run, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        prompts = folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps(row) + "\n" for row in SIX_ROWS))
        self.words = ["run", prompts, "--model", MODEL, "--out", self.out, "--max-tokens", 8]
        self.words += ["--shard-size", 2, "--skip-bad-rows", "--report"]
        self.result = run(*self.words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("run"))


def test_a_run_ends_well_and_says_where_its_dataset_is(finished: Finished) -> None:
    assert finished.result.returncode == 0, finished.result.stderr
    said = finished.result.stdout
    assert f"dataset: {finished.out}\nreport: {finished.out}/_job/report.html\n" in said
    assert "4 rows answered, 2 in error" in said
    assert re.search(r"[\d,]+ tokens in, [1-9]\d* tokens out in [\d.]+ s\n", said)
    assert re.search(r"tokens/s without loading: prefill [1-9][\d,]*, decode [1-9]", said)
    assert "first  capital: What is the capital of France?" in said
    assert "finished, 6/6 rows, 2 in error: " in said, "the last line of progress"


def test_every_row_of_the_input_is_in_the_dataset(finished: Finished) -> None:
    rows = {row["id"]: row for row in rows_of(finished.out)}

    assert list(rows) == ["capital", "plain", "bad", "long", "markup", "greedy"]
    assert verify(finished.out).complete
    assert "Paris" in rows["capital"]["text"]
    assert rows["capital"]["prompt_tokens"] > 10, "the chat template was applied"
    assert rows["plain"]["completion_tokens"] == 4
    assert rows["plain"]["finish_reason"] == "length"
    assert rows["markup"]["note"] == "mine"
    assert rows["greedy"]["seed"] is None
    assert {row["model"] for row in rows.values()} == {MODEL}


def test_rows_in_error_say_why(finished: Finished) -> None:
    rows = {row["id"]: row for row in rows_of(finished.out)}

    assert rows["bad"]["error_type"] == "InvalidRequestError"
    assert "temperature=9" in rows["bad"]["error"]
    assert rows["long"]["error_type"] == "ContextLengthError"
    assert "8192" in rows["long"]["error"]


def test_a_finished_run_leaves_no_server_and_no_clutter(finished: Finished) -> None:
    assert sorted(path.name for path in finished.out.iterdir()) == [
        "README.md",
        "_SUCCESS",
        "_job",
        "data",
    ]
    assert not (finished.out / "_job" / "redis").exists()
    assert "All 6 rows." in (finished.out / "_job" / "report.html").read_text()
    manifest = json.loads((finished.out / "_job" / "manifest.json").read_text())
    assert manifest["result"] | {"ok": 4, "error": 2, "rows_in": 6} == manifest["result"]


# What starts no worker runs in this process.


def test_verify_and_strict_on_a_finished_run(finished: Finished) -> None:
    assert cli("verify", finished.out).exit_code == 0
    assert cli("verify", finished.out, "--strict").exit_code == 1


def test_the_same_run_into_the_same_folder_is_refused(finished: Finished) -> None:
    parts = {path: path.stat().st_mtime_ns for path in (finished.out / "data").iterdir()}

    again = cli(*finished.words)

    assert again.exit_code == 6
    assert str(finished.out) in again.stderr
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_resuming_a_finished_run_does_nothing_and_is_strict_on_request(finished: Finished) -> None:
    parts = {path: path.stat().st_mtime_ns for path in (finished.out / "data").iterdir()}

    again = cli(*finished.words, "--resume", "--strict")

    assert again.exit_code == 1, "two rows are in error"
    assert "4 rows answered, 2 in error" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_another_run_into_the_same_folder_is_refused(finished: Finished) -> None:
    other = cli(*finished.words, "--temperature", 0.1)

    assert other.exit_code == 6
    assert "holds run" in other.stderr
    assert (finished.out / "_SUCCESS").exists()


def test_a_bad_file_is_refused_and_claims_no_folder(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": ""}\n')

    result = cli("run", prompts, "--model", MODEL, "--out", tmp_path / "out")

    assert result.exit_code == 2
    assert "line 2, row 1" in result.stderr
    assert not (tmp_path / "out" / "data").exists()
    assert not Dataset(tmp_path / "out").is_claimed


# What its folder is told, with no server given.


@pytest.mark.parametrize(
    ("words", "message", "state"),
    [
        (("retry",), "Missing option '--errors'", None),
        (("retry", "--type", "MediaError"), "types there are: ", "failed"),
        (("retry", "--errors", "--model", MODEL, "--adapter", "/no/such"), "/no/such", "failed"),
        (("retry", "--errors", "--kv-cache-bytes", "0"), "kv_cache_bytes", None),
        (("continue",), "is finished: nothing of it is left", "failed"),
    ],
)
def test_what_can_not_go_on_leaves_the_dataset_as_it_is(
    finished: Finished, words: tuple[str, ...], message: str, state: str | None
) -> None:
    command, *more = words
    ended = finished.out.parent / "ended.json"

    refused = cli(command, finished.out, *more, "--on-finish", f"cat > '{ended}'")

    assert refused.exit_code in (ExitCode.BAD_INPUT, ExitCode.CONFLICT)
    assert message in refused.stderr
    told = json.loads(ended.read_text()) if ended.exists() else None
    ended.unlink(missing_ok=True)
    assert (told and told["state"]) == state
    assert (finished.out / "_SUCCESS").exists()
    assert not (finished.out / "_job" / "redis").exists()


def test_error_rows_are_not_tried_again_of_another_input(finished: Finished) -> None:
    prompts = Path(finished.words[1])
    before = prompts.read_bytes()
    prompts.write_bytes(before.replace(b"Once", b"Twice"))

    refused = cli("retry", finished.out, "--errors")

    prompts.write_bytes(before)
    assert refused.exit_code == ExitCode.BAD_INPUT
    assert "is not what" in refused.stderr
    assert (finished.out / "_SUCCESS").exists()
    assert verify(finished.out).complete


def test_a_finished_run_has_nothing_to_resume_or_forget(finished: Finished, redis_url: str) -> None:
    ended = finished.out.parent / "ended.json"
    resumed = cli("resume", finished.out, "--strict", "--on-finish", f"cat > '{ended}'")
    assert resumed.exit_code == ExitCode.ROWS_IN_ERROR
    told = json.loads(ended.read_text())
    assert (told["state"], told["out"], told["rows_done"]) == ("finished", str(finished.out), 6)
    assert "4 rows answered, 2 in error" in resumed.stdout
    for server in ((), ("-u", redis_url)):
        forgotten = cli("forget", finished.out, *server)
        assert (forgotten.exit_code, "the dataset stays" in forgotten.stdout) == (0, True)
    assert "no process is at work" in cli("pause", finished.out).stderr
    assert verify(finished.out).complete
    status = json.loads(cli("status", finished.out, "--json").stdout)
    assert (status["state"], status["remark"]) == ("finished", "")


# Runs that are interrupted.


class Interrupted:
    """A run that is going on, with its server and its worker, and has committed a part of eight."""

    def __init__(self, folder: Path, model: str, *, in_terminal: bool = False) -> None:
        self.out = folder / "out"
        prompts = write_prompts(folder / "prompts.jsonl", 8, say="Tell me the story of")
        self.words = ["run", prompts, "--model", model, "--out", self.out, "--max-tokens", 100]
        self.words += ["--no-report", "--temperature", 0, "--shard-size", 1]
        self.words += ["--max-num-seqs", 1]  # slowly
        command = mlx_batch(*self.words)
        self.terminal = Terminal(command, ENVIRONMENT) if in_terminal else None
        self.process: subprocess.Popen[Any] = (
            self.terminal.process
            if self.terminal
            else subprocess.Popen(
                command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        wait_for(self._find_worker, timeout=60)

    def _find_worker(self) -> bool:
        if not list((self.out / "data").glob("*.parquet")):
            return False
        socket = (self.out / "_job" / "redis" / "server.lock").read_text()
        self.server = Redis(unix_socket_path=socket, decode_responses=True)
        with self.server:
            (run_id,) = self.server.zrange(RUNS, 0, -1)
            # A part in its place is not committed yet, and would be written once more.
            committed = sorted(map(int, self.server.hkeys(done_key(run_id))))
            if not committed:
                return False
            self.parts = [DatasetPaths(self.out).part(shard, 8) for shard in committed]
            (key,) = self.server.smembers("rq:workers")
            self.worker_pid = int(self.server.hget(key, "pid"))
            self.server_pid = int(self.server.info("server")["process_id"])
        return True

    def leftovers(self) -> list[int]:
        return [pid for pid in (self.worker_pid, self.server_pid) if is_alive(pid)]

    def clean_up(self) -> None:
        self.process.kill()
        self.process.communicate()
        if self.terminal:
            self.terminal.close()
        for pid in self.leftovers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # a zombie whose parent was killed is no leftover
    return not state.exists() or state.read_text().rpartition(") ")[2][0] != "Z"


@pytest.fixture
def interrupted(tmp_path: Path, text_folder: str) -> Iterator[Interrupted]:
    going = Interrupted(tmp_path, text_folder)
    yield going
    going.clean_up()


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
    ids=["SIGINT", "SIGTERM"],
)
def test_an_interrupted_run_ends_its_worker_and_server(
    interrupted: Interrupted, signum: signal.Signals, code: int
) -> None:
    interrupted.process.send_signal(signum)
    stdout, stderr = interrupted.process.communicate(timeout=30)

    assert interrupted.process.returncode == code
    has_summary = signum == signal.SIGINT
    assert ("of 8 rows done: " in stdout) is has_summary
    assert "mlx-batch resume " in (stdout if has_summary else stderr)
    assert ("--resume" in stderr) is not has_summary, "what goes on is told once"
    assert "Traceback" not in stderr
    assert interrupted.leftovers() == []


def test_a_run_whose_terminal_closes_ends_its_worker_and_server(
    tmp_path: Path, text_folder: str
) -> None:
    going = Interrupted(tmp_path, text_folder, in_terminal=True)
    try:
        going.terminal.close()
        going.process.send_signal(signal.SIGHUP)  # the shell's, after the kernel's

        assert going.process.wait(timeout=30) == 129
        assert going.leftovers() == []
    finally:
        going.clean_up()


def test_a_killed_run_is_resumed_at_once(interrupted: Interrupted) -> None:
    interrupted.process.kill()
    interrupted.process.wait()
    done = {part: part.stat().st_mtime_ns for part in interrupted.parts}
    assert len(done) < 8

    started = time.monotonic()
    result = run("continue", interrupted.out, "--max-num-seqs", 8)

    assert result.returncode == 0, result.stderr
    assert "8 rows answered, 0 in error" in result.stdout
    assert time.monotonic() - started < 45, "no lease of a minute was waited for"
    found = verify(interrupted.out)
    assert (found.complete, found.ok) == (True, 8)
    kept = {part: part.stat().st_mtime_ns for part in done}
    assert kept == done, "what was done was not done again"
    wait_for(lambda: not interrupted.leftovers(), timeout=20)


# `enqueue` here, `worker` there.


def test_two_workers_share_a_run(bench: Bench, text_folder: str) -> None:
    words = ["worker", "--model", text_folder, "-u", bench.url, "--max-num-seqs", 1]
    words += ["--output-root", bench.folder]
    workers = [
        subprocess.Popen(
            mlx_batch(*words, "--name", name), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    try:
        wait_for(lambda: bench.redis.scard("rq:workers") == 2, timeout=60)
        sampling = SamplingParams.of(max_tokens=64)
        spec = bench.enqueue(rows=8, shard_size=1, model=text_folder, sampling=sampling)
        assert wait_until_finished(bench.redis, spec.run_id, timeout=60).is_finished
    finally:
        for worker in workers:
            worker.terminate()
        said = [worker.communicate(timeout=30)[1] for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0], said
    assert {row["worker"] for row in rows_of(Path(spec.out))} == {"one", "two"}
    assert verify(Path(spec.out)).complete
    assert Ledger(bench.redis).progress(spec.run_id).done.rows == 8


def test_a_worker_that_is_told_to_end_gives_its_job_back(bench: Bench, text_folder: str) -> None:
    sampling = SamplingParams.of(**ENDLESS)
    spec = bench.enqueue(rows=2, shard_size=2, model=text_folder, sampling=sampling)
    words = ["worker", "--model", text_folder, "-u", bench.url, "--grace", 0]
    words += ["--output-root", bench.folder]
    worker = subprocess.Popen(mlx_batch(*words), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: bench.status(spec, 0) == "started", timeout=60)
        worker.terminate()
        _, stderr = worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.communicate()

    assert worker.returncode == 0, stderr
    assert bench.status(spec, 0) == "queued"
    assert bench.redis.smembers("rq:workers") == set()
