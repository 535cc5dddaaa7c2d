"""`tail`: the last rows of a run that has ended, and the last and next ones of one that has not."""

from __future__ import annotations

from dataclasses import replace

from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import DoubleEngine, echo, wait_for
from tests.helpers.shell import Shell
from vllm_mlx.outputs import GenerationOutput
from worker.cli.exit_codes import ExitCode


def ids(said: str) -> list[str]:
    return [line.partition(":")[0] for line in said.splitlines()]


def test_the_last_rows_of_a_finished_run_are_those_that_ended_last(bench: Bench) -> None:
    spec = bench.enqueue(rows=6, shard_size=3)
    engine = DoubleEngine(held=True, max_num_seqs=8)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    for number in (4, 5, 3, 0, 2, 1):
        engine.answer(of=f"prompt {number}")
        worker.settle()
    bench.finish(spec, worker)

    assert ids(cli("tail", spec.run_id, "-u", bench.url, "-n", 3).stdout) == ["r0", "r2", "r1"]
    assert len(ids(cli("tail", spec.run_id, "-u", bench.url).stdout)) == 6
    assert cli("tail", spec.run_id, "-u", bench.url, "-n", 0).stdout == ""
    assert ids(cli("tail", spec.out, "-n", 2).stdout) == ["r2", "r1"]


ODD = {
    "prompt 2": "a\nb\r\tc \x1b[2J\x1b]0;title\x07 \x9b1A \u202ereversed\u2028new",
    "prompt 3": "日本語 👩‍🔬 é" + 300 * "長",
    "prompt 4": "",
    "prompt 5": "[bold]not markup[/bold] :smile:",
}


def say_odd(prompt: str) -> GenerationOutput:
    return replace(echo(prompt), text=ODD.get(prompt, "plain"))


def test_a_run_that_goes_on_is_followed_to_its_end_in_a_terminal(
    bench: Bench, shell: Shell
) -> None:
    spec = bench.enqueue(rows=6, shard_size=3)
    engine = DoubleEngine(held=True, max_num_seqs=8, say=say_odd)
    worker = bench.worker(engine)
    worker.admit(wait=False)
    engine.answer(4)  # a shard that is in the folder, and a row that is not
    worker.settle()
    worker.tend()
    tail = shell.open("tail", spec.out, "-u", bench.url, "-n", 2)
    try:
        wait_for(lambda: "r3: " in tail.text)
        assert "r4: " not in tail.text
        engine.answer(1)
        worker.settle()
        wait_for(lambda: "r4: " in tail.text), "as soon as it is recorded"
        assert tail.process.poll() is None
        engine.answer()
        bench.finish(spec, worker)
        assert tail.finish() == ExitCode.OK
    finally:
        tail.process.kill()
        tail.close()

    assert tail.written.decode().split("\r\n") == [
        "r2: a b c �[2J�]0;title� �1A �reversed new (stop)",
        f"r3: {ODD['prompt 3'][:159]}… (stop)",
        "r4:  (stop)",
        "r5: [bold]not markup[/bold] :smile: (stop)",
        "",
    ]
