"""`mlx-batch run` on a terminal of 24 lines and 80 columns, with a real model."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.helpers.command_line import cli
from tests.helpers.decoding import ENDLESS
from tests.helpers.engines import wait_for, write_prompts
from tests.helpers.terminal import Terminal
from worker.local.embedded_redis import living_server

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RQ_REDIS_URL"}
ENVIRONMENT["TERM"] = "xterm-256color"
ENVIRONMENT.pop("NO_COLOR", None)
ENVIRONMENT.pop("COLUMNS", None)


def run(*words: object, **environment: str) -> Terminal:
    command = [sys.executable, "-m", "worker.cli", "run", *map(str, words)]
    return Terminal(command, ENVIRONMENT | environment)


def test_a_run_shows_each_phase_its_rows_and_what_became_of_them(
    tmp_path: Path, text_folder: str
) -> None:
    rows = [{"id": f"r{n}", "prompt": f"Tell me of {n}", "max_tokens": 30} for n in range(6)]
    rows += [{"id": "hot", "prompt": "a", "top_p": 7}]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"

    terminal = run(
        prompts, "--model", text_folder, "--out", out, "--skip-bad-rows", "--max-num-seqs", 2
    )
    code = terminal.finish()
    terminal.close()

    text = terminal.text
    assert code == 0, text
    drawn = re.findall(r"^[⠀-⣿✓] ([a-z ]+?) [━╸╺ ]+ +(\d+%)? *\d:\d\d:\d\d", text, re.MULTILINE)
    phases = list(dict.fromkeys(phase for phase, _ in drawn))
    assert phases[:3] == ["reading the input", "starting", "loading the model"]
    assert drawn[-1] == ("finished", "100%"), "and not 64/64 loading the model"
    assert max(map(len, text[: text.index("   first  ")].splitlines())) <= 80
    assert "7/7 rows, 1 in error: 1 InvalidRequestError" in text
    assert b"\x1b[31m, 1 in error" in terminal.written
    assert "6 rows answered, 1 in error" in text
    assert "1 InvalidRequestError, such as hot: " in text
    assert re.search(r"tokens/s without loading: prefill [\d,]+, decode [\d,]+", text)
    assert f"dataset: {out}" in text
    assert f"mlx-batch export {out} --format openai" in text
    assert cli("export", out, "--format", "openai").exit_code == 0, "what is proposed works"


@pytest.fixture
def endless(tmp_path: Path, text_folder: str) -> Iterator[Terminal]:
    """A run of two rows that do not end, one of them in the batch."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 2, **ENDLESS)
    with prompts.open("a") as file:
        file.write('{"id": "bad", "prompt": "a", "top_p": 7}\n')
    words = ["--model", text_folder, "--out", tmp_path / "out", "--max-num-seqs", 1]
    terminal = run(prompts, *words, "--skip-bad-rows", "--report", NO_COLOR="1")
    wait_for(lambda: re.search(r"answering .* \d+% .* ETA ", terminal.text), timeout=60)
    assert re.search(r"in \d+ tok/s, out \d+ tok/s, 1 of 1 slots, 1 waiting", terminal.text)
    yield terminal
    terminal.process.send_signal(signal.SIGTERM)
    terminal.close()


@pytest.mark.slow  # two runs
def test_a_paused_run_is_summed_up_and_goes_on_as_it_says(tmp_path: Path, text_folder: str) -> None:
    prompts, out = write_prompts(tmp_path / "prompts.jsonl", 8), tmp_path / "out"
    words = ["--model", text_folder, "--max-num-seqs", 1, "--max-tokens", 200, "--temperature", 0]
    terminal = run(prompts, "--out", out, *words, "--shard-size", 4, "--report")
    wait_for(lambda: re.search(r"  [1-4]/8 rows", terminal.text), timeout=60)

    assert cli("pause", out).exit_code == 0
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

    again = re.search(r"^go on: +mlx-batch run (.*)$", summary, re.MULTILINE)
    assert again
    terminal = run(*shlex.split(again[1]))
    assert terminal.finish() == 0
    terminal.close()
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
    assert endless.text.rstrip().endswith("--resume goes on")
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
    assert re.search(r"\ngo on: +mlx-batch run .* --skip-bad-rows --report --resume\n", summary)
    assert summary.rstrip().endswith("--resume goes on")
    assert "Traceback" not in endless.text
    wait_for((out / "_job" / "report.html").exists, timeout=60)
    assert b"\x1b[3" not in re.sub(rb"\x1b\[3[JK]", b"", endless.written), "NO_COLOR"
