"""Questions about videos: our engine against mlx-vlm's own generation, and against the floor.

All three answer the same questions about the same synthetic clips, with the same weights, in turn
in one process, reading and preparing the clips on the clock. `generate` is mlx-vlm's
`generate_step`, one question after the other, `batch` its `batch_generate`, `--peer-width`
questions at a time.

    python benchmarks/vision.py --shape qwen3-vl-4b        # on a GPU
    python benchmarks/vision.py --model examples/tiny_vlm/model

`clips` asks one question about each of 64 clips, `questions` ten about each of 8. The floor is
what the vision tower, the prompts and the decode steps take at the measured rates of large matmuls
and of memory, each clip seen and its prompt computed once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_vlm.generate.ar import batch_generate, generate_step
from mlx_vlm.utils import prepare_inputs

from benchmarks.floor import floor, prefill_operations
from benchmarks.matrices import Matrices
from benchmarks.peer import published
from benchmarks.report import machine, print_head, print_header, print_row
from benchmarks.shapes import VISION
from benchmarks.timing import measured
from benchmarks.vision_models import VisionPair, named_pair, random_pair
from benchmarks.workloads import TokenRequest
from vllm_mlx import platform
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.prompts import MediaPrompt, user_prompt
from vllm_mlx.batching.request import Request
from vllm_mlx.media.policy import UNRESTRICTED
from vllm_mlx.outputs import EngineStats
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams

FPS = 2.0
COLUMNS = (
    "workload", "questions", "floor s", "ours s", "ours/floor", "ours tok/s", "generate s",
    "generate/ours", "batch s", "batch/ours", "reading s", "cached", "width",
)  # fmt: skip

Clip = npt.NDArray[np.uint8]


def _params(asked: Asked) -> SamplingParams:
    return SamplingParams.of(max_tokens=asked.tokens, temperature=0.0)


@dataclass(frozen=True)
class Asked:
    """A workload: questions about clips, each with its clip, the same clip's together."""

    name: str
    questions: list[tuple[str, Clip]]
    tokens: int

    @property
    def output_tokens(self) -> int:
        return self.tokens * len(self.questions)

    def first(self, count: int) -> Asked:
        return Asked(self.name, self.questions[:count], self.tokens)


class Bench:
    def __init__(self, given: argparse.Namespace, pair: VisionPair) -> None:
        self._given = given
        self._pair = pair

    def ours(self, asked: Asked) -> EngineStats:
        config = SchedulerConfig(max_num_seqs=self._given.max_num_seqs)
        core = EngineCore("bench", lambda _: self._pair.ours, config, media=UNRESTRICTED)
        self._pair.ours.model.features.clear()
        core.start()
        params = _params(asked)
        futures = core.submit(*(Request(_prompt(*each), params) for each in asked.questions))
        made = sum(future.result().completion_tokens for future in futures)
        stats = core.stats
        core.stop()
        if made != asked.output_tokens:
            raise RuntimeError(f"ours made {made} tokens of {asked.output_tokens}")
        return stats

    def generate(self, asked: Asked) -> None:
        """mlx-vlm, one question at a time."""
        for question, clip in asked.questions:
            inputs = self._inputs(question, clip)
            ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
            pixels = inputs.pop("pixel_values", None)
            steps = generate_step(
                ids,
                self._pair.peers,
                pixels,
                mask,
                max_tokens=asked.tokens,
                temperature=0.0,
                **inputs,
            )
            if sum(1 for _ in steps) != asked.tokens:
                raise RuntimeError("mlx-vlm made fewer tokens")

    def batch(self, asked: Asked) -> None:
        """mlx-vlm's batches, `--peer-width` questions each."""
        width = self._given.peer_width
        for start in range(0, len(asked.questions), width):
            part = asked.questions[start : start + width]
            batch_generate(
                self._pair.peers,
                self._pair.processor,
                videos=[_Frames(clip) for _, clip in part],
                prompts=[question for question, _ in part],
                max_tokens=asked.tokens,
                fps=FPS,
            )

    def reading(self, asked: Asked) -> float:
        """Seconds that reading and preparing the clips takes alone, one after the other."""
        assert self._pair.ours.new_preparer is not None
        preparer = self._pair.ours.new_preparer(UNRESTRICTED)
        started = time.perf_counter()
        for question, clip in asked.questions:
            prepared = preparer.prepare(_prompt(question, clip))
            assert prepared.media is not None
            prepared.media.release()
        return time.perf_counter() - started

    def floor(self, asked: Asked) -> float:
        language = Matrices(self._pair.peers.language_model)
        costs, rates = language.costs(), language.measure(1)
        sight = _Sight(self._pair.peers)
        seconds, requests = 0.0, []
        for clip, count in _clips(asked):
            inputs = self._inputs("what?", clip)
            tokens = inputs["input_ids"].shape[1]
            of_clip = [
                TokenRequest([0] * tokens, asked.tokens, _params(asked), tokens - 20)
            ] * count
            seconds += sight.operations(inputs["video_grid_thw"].tolist()) / rates.matmul
            seconds += prefill_operations(costs, of_clip) / rates.matmul
            requests += of_clip
        width = self._given.max_num_seqs or platform.default_max_num_seqs()
        return seconds + floor(costs, rates, requests, width).decode

    def _inputs(self, question: str, clip: Clip) -> dict[str, Any]:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text = self._pair.processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        frames = len(clip)
        known = {"total_num_frames": frames, "fps": FPS, "frames_indices": list(range(frames))}
        return dict(
            prepare_inputs(
                self._pair.processor,
                videos=[clip],
                prompts=[text],
                add_special_tokens=False,
                video_metadata=[known],
            )
        )


@dataclass(frozen=True)
class _Frames:
    """A clip as `batch_generate` takes one that is decoded already: no array, no list."""

    frames: Clip

    def __len__(self) -> int:
        return len(self.frames)

    def __array__(self, *_: Any, **__: Any) -> Clip:
        return self.frames


class _Sight:
    """What the vision tower costs."""

    def __init__(self, model: Any) -> None:
        self._config = model.config.vision_config
        named = model.vision_tower.named_modules()
        linears = [(name, module) for name, module in named if isinstance(module, nn.Linear)]
        merge = self._config.spatial_merge_size**2
        self._parameters = sum(
            module.weight.size / (1 if name.startswith("blocks.") else merge)
            for name, module in linears
        )

    def operations(self, grids: list[list[int]]) -> float:
        total = 0.0
        for time_, height, width in grids:
            frame = height * width
            total += 2 * self._parameters * time_ * frame
            total += 4 * self._config.depth * self._config.hidden_size * time_ * frame**2
        return total


def _prompt(question: str, clip: Clip) -> MediaPrompt:
    prompt = user_prompt(question, None, [clip], VideoParams.of(video_fps=FPS))
    assert isinstance(prompt, MediaPrompt)
    return prompt


def _clips(asked: Asked) -> Iterator[tuple[Clip, int]]:
    ids = [id(clip) for _, clip in asked.questions]
    for one in dict.fromkeys(ids):
        yield asked.questions[ids.index(one)][1], ids.count(one)


def workloads(given: argparse.Namespace) -> list[Asked]:
    rng = np.random.default_rng(given.seed)

    def clip() -> Clip:
        small = rng.integers(0, 256, (given.frames, 14, 14, 3), dtype=np.uint8)
        side = given.size // 14
        return small.repeat(side, axis=1).repeat(side, axis=2)

    clips = [(f"What happens in clip {n}?", clip()) for n in range(given.clips)]
    few = [clip() for _ in range(max(1, given.clips // 8))]
    questions = [(f"Question {n}: what is seen?", each) for each in few for n in range(10)]
    made = [Asked("clips", clips, given.tokens), Asked("questions", questions, given.tokens)]
    return [each for each in made if each.name in given.workloads]


def _timed(run: Callable[[Asked], Any], asked: Asked) -> tuple[float, Any]:
    with measured() as taken:
        result = run(asked)
        mx.synchronize()
    return taken.seconds, result


def main() -> None:
    given = _arguments()
    pair = random_pair(given.shape, given.seed) if given.shape else named_pair(given.model)
    command = shlex.join(["python", "benchmarks/vision.py", *sys.argv[1:]])
    print_header(command, pair.name, machine())
    bench = Bench(given, pair)
    print_head(COLUMNS)
    for asked in workloads(given):
        print_row(_row(bench, asked, given))


def _row(bench: Bench, asked: Asked, given: argparse.Namespace) -> list[str]:
    sample = asked.first(given.peer_requests or len(asked.questions))
    scale = asked.output_tokens / sample.output_tokens
    for warm in (bench.ours, bench.generate, bench.batch):
        warm(Asked("warm", asked.questions[: given.warm_up], min(8, asked.tokens)))
    ours, alone, batch = [], [], []
    stats = EngineStats()
    for repeat in range(given.repeats):
        seconds, stats = _timed(bench.ours, asked)
        ours.append(seconds)
        with published():
            alone.append(scale * _timed(bench.generate, sample)[0])
            batch.append(scale * _timed(bench.batch, sample)[0])
        said = f"ours {ours[-1]:.2f} s, generate {alone[-1]:.2f} s, batch {batch[-1]:.2f} s"
        print(f"{asked.name} {repeat + 1}: {said}", file=sys.stderr, flush=True)
    least, mine = bench.floor(asked), median(ours)
    return [
        *(asked.name, str(len(asked.questions)), f"{least:.2f}"),
        *(f"{mine:.2f} ({min(ours):.2f} to {max(ours):.2f})", f"{mine / least:.2f}"),
        *(
            f"{asked.output_tokens / mine:,.0f}",
            f"{median(alone):.1f}",
            f"{median(alone) / mine:.1f}",
        ),
        *(f"{median(batch):.1f}", f"{median(batch) / mine:.1f}", f"{bench.reading(asked):.2f}"),
        *(f"{stats.cached_tokens:,}", str(given.peer_width)),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a hub id or a folder")
    model.add_argument("--shape", choices=VISION, help="random weights in this shape")
    parser.add_argument("--workloads", default="clips,questions")
    parser.add_argument("--clips", type=int, default=64, help="an eighth of it for `questions`")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=448, help="pixels, a multiple of 14")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=8, help="questions")
    parser.add_argument("--peer-width", type=int, default=8)
    parser.add_argument("--peer-requests", type=int, help="questions that the peers answer, scaled")
    parser.add_argument("--max-num-seqs", type=int, help="ours")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.workloads = given.workloads.split(",")
    return given


if __name__ == "__main__":
    main()
