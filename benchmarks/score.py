"""Labels ranked behind prompts: our engine against mlx-lm, one after the other.

    python benchmarks/score.py [--model smollm2-135m] [--passages 4] [--repeats 3]

Each passage has four questions with four labels each. The peers are mlx-lm's model with the same
weights:

    each label     a forward pass over passage, question and label, 16 for a passage
    each question  one over passage and question, and one over each label behind it, as
                   `mlx_lm.evaluate` does

Seconds are of the processor, medians: others on the machine don't count. Targets: five times as
fast as each label by itself, and log-probabilities at most 0.0001 apart.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from benchmarks.report import machine, print_head, print_row
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.loaded_model import LoadedModel
from vllm_mlx.batching.request import Request
from vllm_mlx.models.loading import load_model
from vllm_mlx.sampling_params import SamplingParams

QUESTIONS, PASSAGE_WORDS = 4, 150
LABELS = ("the harbour", "a garden", "nobody knows", "the old mill by the river")
WORDS = ("river", "wall", "gold", "night", "under", "boat", "stone", "quiet", "letters", "rain")

Scores = list[dict[str, float]]
"""Log-probability by label, of each prompt."""


class Timed(NamedTuple):
    scores: Scores
    seconds: float


def prompts_of(passages: int) -> list[str]:
    """Return every question behind its passage."""
    draw = random.Random(0)
    prompts = []
    for _ in range(passages):
        passage = " ".join(draw.choices(WORDS, k=PASSAGE_WORDS))
        prompts += [
            f"{passage}.\nQuestion {at + 1}: where was the {draw.choice(WORDS)}?\nAnswer: "
            for at in range(QUESTIONS)
        ]
    return prompts


def each_label(loaded: LoadedModel, prompts: list[str]) -> Scores:
    def score(start: list[int], label: str) -> float:
        end = loaded.encode_label(label)
        return _sum(_logits(loaded.model, start + end)[len(start) - 1 : -1], end)

    encoded = [loaded.encode(prompt) for prompt in prompts]
    return [{label: score(start, label) for label in LABELS} for start in encoded]


def each_question(loaded: LoadedModel, prompts: list[str]) -> Scores:
    def scores(start: list[int]) -> dict[str, float]:
        cache = make_prompt_cache(loaded.model)
        first = _logits(loaded.model, start, cache)[-1:]
        mx.eval(first, [each.state for each in cache])
        found = {}
        for label in LABELS:
            end, own = loaded.encode_label(label), copy.deepcopy(cache)
            more = _logits(loaded.model, end[:-1], own) if len(end) > 1 else first[:0]
            found[label] = _sum(mx.concatenate([first, more]), end)
        return found

    return [scores(loaded.encode(prompt)) for prompt in prompts]


def ours(core: EngineCore, prompts: list[str]) -> Scores:
    params = SamplingParams.of(structured_outputs={"choice": LABELS}, score_choices=True)
    futures = core.submit(*(Request(prompt, params) for prompt in prompts))
    outputs = [future.result() for future in futures]
    return [{each.choice: each.logprob for each in output.scores or ()} for output in outputs]


def _logits(model: Any, tokens: list[int], cache: Any = None) -> mx.array:
    logits: mx.array = model(mx.array([tokens]), cache=cache)[0].astype(mx.float32)
    return logits


def _sum(logits: mx.array, tokens: list[int]) -> float:
    chosen = mx.take_along_axis(logits, mx.array(tokens)[:, None], axis=-1)
    total: Any = (chosen[:, 0] - mx.logsumexp(logits, axis=-1)).sum().item()
    return float(total)


def _timed(score: Callable[[list[str]], Scores], prompts: list[str], repeats: int) -> Timed:
    score(prompts[:1])  # what is compiled or tried the first time
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        found = score(prompts)
        seconds.append(time.process_time() - started)
    return Timed(found, median(seconds))


def _peers(model: str, prompts: list[str], repeats: int) -> dict[str, Timed]:
    loaded = load_model(model, accelerated=False)
    return {
        "each label": _timed(partial(each_label, loaded), prompts, repeats),
        "each question": _timed(partial(each_question, loaded), prompts, repeats),
    }


def _apart(one: Scores, other: Scores) -> float:
    pairs = zip(one, other, strict=True)
    return max(abs(a[label] - b[label]) for a, b in pairs for label in LABELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--passages", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    prompts = prompts_of(options.passages)
    rows = _peers(options.model, prompts, options.repeats)
    core = EngineCore(options.model, load_model)
    core.start()
    found = _timed(lambda given: ours(core, given), prompts, options.repeats)
    stats = core.stats
    core.stop()
    print(f"{machine()}; {options.model}, {len(prompts)} prompts of {len(LABELS)} labels")
    print(f"cached: {stats.cached_tokens:,} of {stats.prompt_tokens:,} prompt tokens\n")
    print_head(["mlx-lm", "its seconds", "ours", "times as fast", "apart"])
    for name, peer in rows.items():
        times, apart = peer.seconds / found.seconds, _apart(peer.scores, found.scores)
        seconds = f"{peer.seconds:.2f}", f"{found.seconds:.2f}"
        print_row([name, *seconds, f"{times:.1f}", f"{apart:.1e}"])


if __name__ == "__main__":
    main()
