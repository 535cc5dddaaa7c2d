"""What `mlx-batch plan` predicts, against the run that it is about.

    python -m benchmarks.planned
    python -m benchmarks.planned --requests 512 --workloads uneven mixed prefix

Each workload becomes a prompt file, whose rows have answers of known length. `plan` predicts the
whole time of `mlx-batch run`, from the command to the dataset; then that command is run. On cores
that others use, too, `--clock processor` compares processor time: of the plan's process and of all
processes of the run.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.workloads import SEED, WORKLOADS, Workload
from jobs.sources import input_of
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.models.loading import load_model
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.plan.plan import Plan, make_plan
from worker.plan.prompts import Reading


def processor() -> float:
    """Seconds of processor time of this process and of those it has started and that ended."""
    used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": processor}


def words_of(model: str) -> list[str]:
    """Return words that are a token each, with the space before them."""
    tokenizer = load_model(model).tokenizer
    words = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
    return sorted({word for word in words if re.fullmatch(" [a-z]{3,}", word)})


def write(path: Path, workload: Workload, words: list[str]) -> None:
    """Write a prompt file whose rows are as long as those of a workload."""
    with path.open("w") as file:
        for request in workload.requests:
            text = "".join(words[token % len(words)] for token in request.prompt_tokens)
            settings = request.params.model_dump(exclude_defaults=True, exclude={"max_tokens"})
            row = {"prompt": text, "max_tokens": request.max_tokens, "ignore_eos": True}
            file.write(json.dumps({**row, **settings}) + "\n")


def planned(path: Path, given: argparse.Namespace) -> Plan:
    source = input_of(path)
    reading = Reading(
        source=source, sampling=SamplingParams.of(), video=VideoParams.of(), n=1, chat=False
    )
    config = SchedulerConfig(max_num_seqs=given.max_num_seqs)
    return make_plan(
        reading,
        given.model,
        adapter=None,
        config=config,
        media=MediaPolicy.of([source.folder], ()),
        measures=False,
        tell=lambda _: None,
        clock=CLOCKS[given.clock],
    )


def run(path: Path, given: argparse.Namespace) -> float:
    """Return the seconds of `mlx-batch run`."""
    command = [sys.executable, "-m", "worker.cli", "run", str(path), "--model", given.model]
    command += ["--out", str(path.with_suffix(""))]
    if given.max_num_seqs:
        command.append(f"--max-num-seqs={given.max_num_seqs}")
    clock = CLOCKS[given.clock]
    started = clock()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return clock() - started


def line(name: str, plan: Plan, took: float) -> str:
    """Return a row of the table."""
    low, high = plan.seconds
    middle = (low + high) / 2
    cells = [
        f"`{name}`",
        f"{plan.prompts.rows}",
        f"{low:.0f} to {high:.0f} s",
        f"{(high - low) / 2 / middle:.0%}",
        f"{took:.0f} s",
        f"{took / middle:.2f}",
        "yes" if low <= took <= high else "**no**",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--workloads", nargs="+", default=["uneven", "mixed", "prefix"])
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--answered-by", type=int, help="Most tokens of an answer.")
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args()
    words = words_of(given.model)
    print("| workload | rows | predicted | ± | measured | of the middle | within |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.workloads:
            workload = WORKLOADS[name](given.requests, len(words), SEED)
            if given.answered_by:
                workload = workload.answered_by(given.answered_by)
            path = Path(folder) / f"{name}.jsonl"
            write(path, workload, words)
            plan = planned(path, given)
            took = run(path, given)
            print(line(name, plan, took), flush=True)
            print(f"{name}: {plan.timings}", file=sys.stderr)


if __name__ == "__main__":
    main()
