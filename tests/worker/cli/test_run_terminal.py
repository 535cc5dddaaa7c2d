"""`mlx-batch run` on a terminal of 24 lines and 80 columns, with a real model."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.helpers.decoding import ENDLESS
from tests.helpers.engines import wait_for, write_prompts
from tests.helpers.shell import Shell
from tests.helpers.terminal import Terminal
from worker.cli.exit_codes import ExitCode
from worker.local.embedded_redis import living_server


class Answered:
    """A run of seven rows that has ended, with all that its terminal showed."""

    def __init__(self, shell: Shell, folder: Path, model: str) -> None:
        lengths = [30, 3, 60, 30, 30, 30]
        rows = [
            {"id": f"r{n}", "prompt": f"Tell of {n}", "max_tokens": length, "min_tokens": length}
            for n, length in enumerate(lengths)
        ]
        rows += [{"id": "hot", "prompt": "a", "top_p": 7}]
        prompts = folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.out = folder / "out"
        self.words = ["run", prompts, "--model", model, "--out", self.out, "--skip-bad-rows"]
        self.terminal = shell.open(*self.words, "--max-num-seqs", 2)
        self.code = self.terminal.finish()
        self.terminal.close()


@pytest.fixture(scope="module")
def answered(shell: Shell, tmp_path_factory: pytest.TempPathFactory, text_folder: str) -> Answered:
    return Answered(shell, tmp_path_factory.mktemp("answered"), text_folder)


def test_a_run_shows_each_phase_its_rows_and_what_became_of_them(answered: Answered) -> None:
    terminal, out, text = answered.terminal, answered.out, answered.terminal.text
    assert answered.code == 0, text
    drawn = re.findall(r"^[⠀-⣿✓] ([a-z ]+?) [━╸╺ ]+ +(\d+%)? *\d:\d\d:\d\d", text, re.MULTILINE)
    phases = list(dict.fromkeys(phase for phase, _ in drawn))
    assert phases[:3] == ["reading the input", "starting", "loading the model"]
    assert drawn[-1] == ("finished", "100%"), "and not 64/64 loading the model"
    assert max(map(len, text[: text.index("   first  ")].splitlines())) <= 80
    assert "7/7 rows, 1 in error: 1 InvalidRequestError" in text
    assert b"\x1b[31m, 1 in error" in terminal.written
    assert re.search(r"^  r\d: .+", text, re.MULTILINE), "a row that has ended, as a sample"
    samples = dict(re.findall(r"^ *(first|longest|shortest|error)  (\w+): ", text, re.MULTILINE))
    assert samples == {"first": "r0", "longest": "r2", "shortest": "r1", "error": "hot"}
    assert "6 rows answered, 1 in error" in text
    assert "1 InvalidRequestError, such as hot: " in text
    assert re.search(r"tokens/s without loading: prefill [\d,]+, decode [\d,]+", text)
    assert f"dataset: {out}" in text
    assert f"mlx-batch export {out} --format jsonl" in text
    assert f"mlx-batch report {out}" in text


@pytest.fixture
def endless(shell: Shell, tmp_path: Path, text_folder: str) -> Iterator[Terminal]:
    """A run of two rows that do not end, one of them in the batch."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 2, **ENDLESS)
    with prompts.open("a") as file:
        file.write('{"id": "bad", "prompt": "a", "top_p": 7}\n')
    words = ["--model", text_folder, "--out", tmp_path / "out", "--max-num-seqs", 1]
    terminal = shell.open("run", prompts, *words, "--skip-bad-rows", "--report", NO_COLOR="1")
    wait_for(lambda: re.search(r"answering .* \d+% .* ETA ", terminal.text), timeout=60)
    assert re.search(r"in \d+ tok/s, out \d+ tok/s, 1 of 1 slots, 1 waiting", terminal.text)
    yield terminal
    terminal.process.send_signal(signal.SIGTERM)
    terminal.close()


@pytest.mark.slow  # two runs
def test_a_paused_run_is_summed_up_and_goes_on_as_it_says(
    shell: Shell, tmp_path: Path, text_folder: str
) -> None:
    prompts, out = write_prompts(tmp_path / "prompts.jsonl", 8), tmp_path / "out"
    words = ["--model", text_folder, "--max-num-seqs", 1, "--max-tokens", 200, "--temperature", 0]
    terminal = shell.open("run", prompts, "--out", out, *words, "--shard-size", 4, "--report")
    wait_for(lambda: re.search(r"  [1-4]/8 rows", terminal.text), timeout=60)

    code, said = shell.run("pause", out)
    assert code == 0, said
    assert terminal.finish() == 5
    terminal.close()

    summary = terminal.text[terminal.text.index("   first  ") :].replace("\n\n", "\n")
    found = re.search(
        r"^([1-7]) of 8 rows done: \1 rows? answered, 0 in error$", summary, re.MULTILINE
    )
    assert found, summary
    done = int(found[1])
    assert f", {200 * done:,} tokens out in " in summary
    assert f"report: {out}/_job/report.html\n" in summary
    assert f"Unfinished: {done} of 8 rows are here" in (out / "_job" / "report.html").read_text()
    assert ": paused: " in summary

    again = re.search(r"^go on: +mlx-batch (resume .*)$", summary, re.MULTILINE)
    assert again
    terminal = shell.open(*shlex.split(again[1]))
    assert terminal.finish() == 0
    terminal.close()
    assert re.search(r"^[⠀-⣿] writing the report ", terminal.text, re.MULTILINE)
    assert f"since it went on: {8 - done} rows, " in terminal.text
    assert f"{200 * (8 - done):,} tokens out in " in terminal.text
    assert "1,600 tokens out in all" in terminal.text


@pytest.mark.slow  # ten seconds of grace
def test_a_worker_that_does_not_end_is_ended_after_the_grace(
    endless: Terminal, tmp_path: Path
) -> None:
    url = living_server(tmp_path / "out" / "_job" / "redis")
    assert url is not None
    with Redis.from_url(url) as server:
        (worker,) = server.smembers("rq:workers")
        os.kill(int(server.hget(worker, "pid")), signal.SIGSTOP)
    pressed = time.monotonic()

    endless.press("\x03")

    assert endless.finish(30) == 130
    assert 10 < time.monotonic() - pressed < 16, "10 s for rows, 1 s for workers, and the shell"
    assert endless.text.rstrip().endswith("mlx-batch: stopped")
    assert "Traceback" not in endless.text


def test_ctrl_c_answers_at_once_and_a_second_one_ends_it_now(
    endless: Terminal, tmp_path: Path
) -> None:
    pressed = time.monotonic()
    endless.press("\x03")
    wait_for(lambda: "ending 1 row, at most 10 s; Ctrl-C again to stop now" in endless.text)
    assert time.monotonic() - pressed < 2
    wait_for(lambda: "at most 9 s" in endless.text), "the display is alive"

    endless.press("\x03")

    assert endless.finish(8) == 130
    assert time.monotonic() - pressed < 10, "the grace was not waited for"
    assert "stopping now" in endless.text
    assert "■ stopped" in endless.text
    out = tmp_path / "out"
    summary = endless.text[endless.text.index("   error  bad") :].replace("\n\n", "\n")
    assert "\n1 of 3 rows done: 0 rows answered, 1 in error\n" in summary
    assert "\n  1 InvalidRequestError, such as bad: top_p=7" in summary
    assert f"\ndataset: {out} (unfinished)\nreport: {out}/_job/report.html (in a" in summary
    assert f"\ngo on:         mlx-batch resume {out}\n" in summary
    assert summary.rstrip().endswith("mlx-batch: stopped")
    assert summary.count("resume") == 1, "the command that goes on is told once"
    assert "Traceback" not in endless.text
    wait_for((out / "_job" / "report.html").exists, timeout=60)
    assert b"\x1b[3" not in re.sub(rb"\x1b\[3[JK]", b"", endless.written), "NO_COLOR"


# What a person does after it, and before another one.


def test_what_the_summary_proposes_and_what_else_is_asked_of_a_folder(
    shell: Shell, answered: Answered
) -> None:
    out = answered.out
    code, said = shell.run("status", out)
    assert code == 0
    assert re.search(r"│ state   │ finished\b", said)
    assert "7 of 7 (100 %), 1 in error: 1 InvalidRequestError" in said
    assert max(map(len, said.splitlines())) <= 80

    code, said = shell.run("tail", out, "-n", 3)
    assert code == 0
    assert len(re.findall(r"^(r\d|hot): ", said, re.MULTILINE)) == 3

    for command in (["export", out, "--format", "openai"], ["verify", out]):
        code, said = shell.run(*command)
        assert code == 0, said
    assert "7 rows in = 6 ok + 1 error" in said
    assert (out / "_job" / ".gitignore").read_text() == "*\n"


def test_a_folder_that_is_taken_says_what_differs_and_what_to_do(
    shell: Shell, answered: Answered
) -> None:
    for other, difference in (
        (["--temperature", 0.1], "\n  temperature: 0.7, not 0.1\n"),
        ([], ""),
    ):
        code, said = shell.run(*answered.words, *other)
        assert code == ExitCode.CONFLICT
        assert difference in said
        assert "another --out" in " ".join(said.split())
        assert "--overwrite" in " ".join(said.split())


def test_ctrl_c_while_an_input_is_read_leaves_nothing(shell: Shell, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 80_000)
    words = ["run", prompts, "--model", "smollm2-135m", "--out", tmp_path / "out"]
    terminal = shell.open(*words)
    wait_for(lambda: re.search(r"^  [\d,]+ rows read$", terminal.text, re.MULTILINE))
    terminal.press("\x03")

    assert terminal.finish() == ExitCode.INTERRUPTED
    terminal.close()
    assert terminal.text.rstrip().endswith("mlx-batch: stopped"), "and nothing that could go on"
    assert not (tmp_path / "out").exists()


def test_errors_of_the_input_are_told_by_kind_and_leave_nothing(
    shell: Shell, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    bad = [{"prompt": "a", "response_format": 3}] * 30 + [{"prompt": "a", "top_p": 7}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in bad))
    words = ["run", prompts, "--out", tmp_path / "new" / "out", "--model"]

    code, said = shell.run(*words, "smollm2-135m")
    assert code == ExitCode.BAD_INPUT
    assert "31 bad rows of 31; nothing was enqueued." in said
    assert re.search(r"^  30 rows: response_format: type should be .*, lines 1, 2, 3", said, re.M)

    code, said = shell.run(*words, "smollm2-135")
    assert code == ExitCode.BAD_INPUT
    assert "there is no model 'smollm2-135': did you mean smollm2-135m?" in said

    code, said = shell.run(*words[:-2], "s3://bucket/out", "--model", "smollm2-135m")
    assert code == ExitCode.BAD_INPUT
    assert "out='s3://bucket/out': should be a path on this machine" in said
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]

    for command in (
        ["enqueue", prompts, "--model", "smollm2-135m", "--out", "o"],
        ["pause", "run-1"],
    ):
        code, said = shell.run(*command)
        assert code == ExitCode.BAD_INPUT
        assert "-u" in said
        assert "RQ_REDIS_URL" in said
