"""Questions about images and videos: our engine against mlx-vlm's own generation, and the floor.

All answer the same questions about the same synthetic pictures, with the same weights, in turn in
one process, reading and preparing them on the clock. `generate` is mlx-vlm's `generate_step`, one
question after the other, `batch` its `batch_generate`, `--peer-width` questions at a time.

    python benchmarks/vision.py --shape qwen3-vl-4b        # on a GPU
    python benchmarks/vision.py --shape gemma-3-4b --workloads images --size 896 --peers generate
    python benchmarks/vision.py --model examples/tiny_vlm/model

`images` asks one question about each of 64 images, `clips` about each of 64 clips, `questions` ten
about each of 8 clips; other ones in each repeat, or they would be known. The floor is what the
vision tower, the prompts and the decode steps take at the measured rates of large matmuls and of
memory, each image or clip seen and its prompt computed once.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import mlx.core as mx

from benchmarks.asked import WORKLOADS, Asked, asked
from benchmarks.floor import floor, prefill_operations
from benchmarks.matrices import Matrices
from benchmarks.report import machine, print_head, print_header, print_row
from benchmarks.shapes import VISION
from benchmarks.sight import Sight
from benchmarks.timing import measured
from benchmarks.vision_models import named_pair, random_pair
from benchmarks.vision_pair import VisionPair
from benchmarks.vision_peers import Peers
from benchmarks.workloads import TokenRequest
from vllm_mlx import platform
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.outputs import EngineStats
from vllm_mlx.scheduler_config import SchedulerConfig

COLUMNS = (
    "workload", "questions", "floor s", "ours s", "ours/floor", "ours tok/s", "generate s",
    "generate/ours", "batch s", "batch/ours", "reading s", "cached", "width",
)  # fmt: skip
PEERS = ("generate", "batch")


class Bench:
    def __init__(self, given: argparse.Namespace, pair: VisionPair) -> None:
        self._given = given
        self._pair = pair
        self._peers = Peers(pair, given.peer_width)
        self.peers = {name: getattr(self._peers, name) for name in given.peers}

    def ours(self, work: Asked) -> EngineStats:
        config = SchedulerConfig(max_num_seqs=self._given.max_num_seqs)
        core = EngineCore("bench", lambda _: self._pair.ours, config, media=UNRESTRICTED)
        core.start()
        params = work.params
        futures = core.submit(*(Request(prompt, params) for prompt in work.prompts()))
        made = sum(future.result().completion_tokens for future in futures)
        stats = core.stats
        core.stop()
        if made != work.output_tokens:
            raise RuntimeError(f"ours made {made} tokens of {work.output_tokens}")
        return stats

    def reading(self, work: Asked) -> float:
        """Seconds that reading and preparing takes alone, one after the other."""
        assert self._pair.ours.new_preparer is not None
        preparer = self._pair.ours.new_preparer(UNRESTRICTED)
        started = time.perf_counter()
        for prompt in work.prompts():
            prepared = preparer.prepare(prompt)
            assert prepared.media is not None
            prepared.media.release()
        return time.perf_counter() - started

    def floor(self, work: Asked) -> float:
        language = Matrices(self._pair.peers.language_model)
        costs, rates = language.costs(), language.measure(1)
        sight = Sight(self._pair.peers)
        seconds, requests = 0.0, []
        for pixels, count in work.media():
            inputs = self._peers.inputs("what?", pixels)
            tokens = inputs["input_ids"].shape[1]
            alike = [TokenRequest([0] * tokens, work.tokens, work.params, tokens - 20)] * count
            seconds += sight.operations(inputs) / rates.matmul
            seconds += prefill_operations(costs, alike) / rates.matmul
            requests += alike
        width = self._given.max_num_seqs or platform.default_max_num_seqs()
        return seconds + floor(costs, rates, requests, width).decode


def _timed(run: Callable[[Asked], Any], work: Asked) -> tuple[float, Any]:
    with measured() as taken:
        result = run(work)
        mx.synchronize()
    return taken.seconds, result


def main() -> None:
    given = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # how the model runs
    pair = random_pair(given.shape, given.seed) if given.shape else named_pair(given.model)
    command = shlex.join(["python", "benchmarks/vision.py", *sys.argv[1:]])
    print_header(command, pair.name, machine())
    bench = Bench(given, pair)
    print_head(COLUMNS)
    for name in given.workloads:
        print_row(_row(bench, name, given))


def _row(bench: Bench, name: str, given: argparse.Namespace) -> list[str]:
    sizes = {"frames": given.frames, "size": given.size, "tokens": given.tokens}

    def work(repeat: int) -> Asked:
        return asked(name, given.seed + repeat, count=given.clips, **sizes)

    warm_up = work(given.repeats).first(given.warm_up)
    for warm in (bench.ours, *bench.peers.values()):
        warm(Asked("warm", warm_up.questions, min(8, given.tokens)))
    ours: list[float] = []
    peers: dict[str, list[float]] = {peer: [] for peer in PEERS}
    stats = EngineStats()
    for repeat in range(given.repeats):
        mine = work(repeat)
        sample = mine.first(given.peer_requests or len(mine.questions))
        seconds, stats = _timed(bench.ours, mine)
        ours.append(seconds)
        said = [f"ours {seconds:.2f} s"]
        for peer, run in bench.peers.items():
            seconds = _timed(run, sample)[0] * mine.output_tokens / sample.output_tokens
            peers[peer].append(seconds)
            said.append(f"{peer} {seconds:.2f} s")
        print(f"{name} {repeat + 1}: {', '.join(said)}", file=sys.stderr, flush=True)
    last = work(0)
    least, middle = bench.floor(last), median(ours)
    cells = [name, str(len(last.questions)), f"{least:.2f}"]
    cells += [f"{middle:.2f} ({min(ours):.2f} to {max(ours):.2f})", f"{middle / least:.2f}"]
    cells += [f"{last.output_tokens / middle:,.0f}"]
    for taken in peers.values():
        cells += [f"{median(taken):.1f}", f"{median(taken) / middle:.1f}"] if taken else ["-", "-"]
    cells += [f"{bench.reading(last):.2f}", f"{stats.cached_tokens:,}", str(given.peer_width)]
    return cells


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a hub id or a folder")
    model.add_argument("--shape", choices=VISION, help="random weights in this shape")
    parser.add_argument("--workloads", default="clips,questions", help=",".join(WORKLOADS))
    parser.add_argument("--clips", type=int, default=64, help="or images; an eighth for questions")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=448, help="pixels, a multiple of 14")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=8, help="questions")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--peer-width", type=int, default=8)
    parser.add_argument("--peer-requests", type=int, help="questions that the peers answer, scaled")
    parser.add_argument("--max-num-seqs", type=int, help="ours")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name, known in (("workloads", WORKLOADS), ("peers", PEERS)):
        names = getattr(given, name).split(",")
        if unknown := set(names) - set(known):
            parser.error(f"--{name}: {', '.join(unknown)}: should be of {', '.join(known)}")
        setattr(given, name, names)
    return given


if __name__ == "__main__":
    main()
