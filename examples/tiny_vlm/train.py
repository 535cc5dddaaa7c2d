"""Train the tiny Qwen3-VL from scratch: `python -m examples.tiny_vlm.train`, from the clone's root.

First its vision tower (`eyes.py`), then all of it. It takes two cores, and a GPU if told so: one
process learns from stills, one from clips, and both take the mean of their gradients, so they hold
the same weights all the way.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

# Two threads each on two cores are slower than one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_vlm.models.qwen3_vl import Model, ModelConfig
from mlx_vlm.utils import load_model
from numpy.typing import NDArray
from tokenizers import Tokenizer

from examples.tiny_vlm import batches, checkpoint, eyes, network, questions, scenes
from examples.tiny_vlm.batches import Writer
from vllm_mlx import platform

KINDS = ("stills", "clips")
WARMUP = 100


class Plan(NamedTuple):
    """What both processes know."""

    tokenizer: str
    first_steps: int
    steps: int
    learning_rate: float
    seed: int
    gpu: bool
    on: bool
    out: Path


class Exchange:
    """Takes the mean of the processes' gradients."""

    def __init__(self, size: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._shared = spawn.RawArray("f", 2 * len(KINDS) * size)
        self._barrier: Barrier = spawn.Barrier(len(KINDS))
        self._turn = 0

    def mean(self, process: int, mine: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of what all processes bring at the same time."""
        places = np.frombuffer(self._shared, np.float32).reshape(2, len(KINDS), -1)
        # In turns, so nobody writes what another still reads.
        place, self._turn = places[self._turn], 1 - self._turn
        place[process, : mine.size] = mine
        self._barrier.wait(timeout=300)
        mean: NDArray[np.float32] = place[:, : mine.size].mean(axis=0)
        return mean


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-steps", type=int, default=1500, help="of the vision tower alone")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", action="store_true", help="instead of two cores")
    parser.add_argument("--out", type=Path, default=checkpoint.FOLDER)
    parser.add_argument("--on", action="store_true", help="from the weights that are in --out")
    args = parser.parse_args()
    if args.on:
        tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    else:
        tokenizer = checkpoint.train_tokenizer(spoken(args.seed))
        checkpoint.write_files(args.out, tokenizer)
    plan = Plan(
        tokenizer.to_str(),
        args.first_steps,
        args.steps,
        args.learning_rate,
        args.seed,
        args.gpu,
        args.on,
        args.out,
    )
    exchange = Exchange(2 * sum(w.size for _, w in tree_flatten(_new(plan).parameters())))
    spawn = multiprocessing.get_context("spawn")
    helper = spawn.Process(target=learn, args=(1, plan, exchange))
    helper.start()
    learn(0, plan, exchange)
    helper.join()


def learn(process: int, plan: Plan, exchange: Exchange) -> None:
    """A process's share of all steps; the first writes the weights, again and again."""
    platform.prepare()
    mx.set_default_device(mx.gpu if plan.gpu else mx.cpu)
    mx.set_cache_limit(1 << 30)
    model, kind = _new(plan), KINDS[process]

    def save() -> None:
        if process == 0:
            checkpoint.write_weights(plan.out, model)

    descend = partial(
        _descend, rate=plan.learning_rate, process=process, exchange=exchange, save=save
    )
    looking = eyes.Eyes(model.vision_tower, model.config.text_config.hidden_size)
    if not plan.on:
        make_first = partial(eyes.make, plan.seed, kind)
        descend(looking, eyes.loss, _ahead(plan, make_first, plan.first_steps), plan.first_steps)
    writer = Writer(Tokenizer.from_str(plan.tokenizer))
    make = partial(batches.make, plan.seed, kind, writer)
    descend(model, network.loss, _ahead(plan, make, plan.steps), plan.steps)
    save()


def _descend(
    model: nn.Module,
    loss: Callable[..., mx.array],
    made: Iterator[Any],
    steps: int,
    *,
    rate: float,
    process: int,
    exchange: Exchange,
    save: Callable[[], None],
) -> None:
    """Improve the model so many times."""
    optimizer = optim.AdamW(_schedule(rate, steps), betas=[0.9, 0.98], weight_decay=0.02)
    gradient, started, recent = nn.value_and_grad(model, loss), time.monotonic(), []
    for step, batch in enumerate(made):
        value, gradients = gradient(model, batch)
        gradients, joint = _shared(gradients, value, process, exchange)
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        recent.append((value.item(), 2 * joint - value.item()))
        if process == 0 and (step + 1) % 100 == 0:
            stills, clips = np.mean(recent[-100:], axis=0)
            minutes, busy = (time.monotonic() - started) / 60, time.process_time() / 60
            passed = f"step {step + 1}, {minutes:.1f} minutes ({busy:.1f} of CPU)"
            print(f"{passed}: stills {stills:.4f}, clips {clips:.4f}", flush=True)
        if (step + 1) % 500 == 0:
            save()


def _ahead(plan: Plan, make: Callable[[int], Any], steps: int) -> Iterator[Any]:
    """Batches; other processes draw them ahead if a GPU waits for them."""
    if not plan.gpu:
        yield from map(make, range(steps))
        return
    with ProcessPoolExecutor(6, multiprocessing.get_context("spawn")) as pool:
        coming = deque(pool.submit(make, step) for step in range(min(12, steps)))
        for step in range(steps):
            yield coming.popleft().result()
            if step + 12 < steps:
                coming.append(pool.submit(make, step + 12))


def _new(plan: Plan) -> Model:
    if plan.on:
        known: Model = load_model(plan.out)
        known.update(tree_map(lambda weight: weight.astype(mx.float32), known.parameters()))
        return known
    mx.random.seed(plan.seed)
    tokenizer = Tokenizer.from_str(plan.tokenizer)
    return Model(ModelConfig.from_dict(checkpoint.configuration(tokenizer)))


def _schedule(rate: float, steps: int) -> Any:
    rises = optim.linear_schedule(0, rate, WARMUP)
    falls = optim.cosine_decay(rate, max(1, steps - WARMUP), rate / 50)
    return optim.join_schedules([rises, falls], [WARMUP])


def _shared(gradients: Any, value: mx.array, process: int, exchange: Exchange) -> tuple[Any, float]:
    """The mean gradients and the mean loss."""
    named = tree_flatten(gradients)
    flat = mx.concatenate([*(each.reshape(-1) for _, each in named), value.reshape(1)])
    mean = exchange.mean(process, np.array(flat))
    ends = np.cumsum([each.size for _, each in named]).tolist()
    pieces = mx.split(mx.array(mean), ends)
    shaped = [
        (name, piece.reshape(each.shape))
        for (name, each), piece in zip(named, pieces[:-1], strict=True)
    ]
    return tree_unflatten(shaped), float(mean[-1])


def spoken(seed: int) -> Iterator[str]:
    """Texts for the tokenizer."""
    rng = np.random.default_rng([seed, 1 << 31])
    for question, answer in questions.SMALL_TALK * 20:
        yield from (question, answer)
    yield from ["user\n", "assistant\n", "system\n", *batches.SYSTEM] * 3000
    for _ in range(3000):
        yield f"<{rng.integers(0, 100) / 10:.1f} seconds>"
        scene, several = scenes.random_scene(rng, 2), scenes.random_scenes(rng, 2)
        clip = scenes.random_motion(rng) if rng.random() < 0.5 else scenes.random_events(rng)
        for asked in (
            questions.about_image(rng, scene),
            questions.about_images(rng, several),
            *(questions.about_clip(rng, clip) for _ in range(3)),
        ):
            for question, answer in asked:
                yield from (question, answer)


if __name__ == "__main__":
    main()
