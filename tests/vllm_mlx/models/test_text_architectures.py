"""Models of many architectures, tiny and random, answer in a batch as mlx-lm answers alone.

`UPDATE_DOCS=1 pytest -m 'slow or not slow'` on this file rewrites a table of docs/models.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path

import mlx_lm
import pytest
from mlx_lm.models.cache import make_prompt_cache

from tests.helpers.architectures import ARCHITECTURES, VOCAB
from tests.helpers.decoding import new_scheduler, sequential
from tests.helpers.exactness import (
    next_tokens,
    play,
    ties,
    undo_dispatch,
    uneven_rows,
    without_state,
    without_window,
)
from tests.helpers.text_folders import new_model, write_folder
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.slots.layout import Layout, UnsuitableCacheError
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.engine import BatchedEngine
from vllm_mlx.models.accelerated import accelerate

DOCS = Path(__file__).parents[3] / "docs" / "models.md"
TABLE = re.compile(r"(?<=<!-- text table -->\n).*?(?=<!-- end of text table -->)", re.DOTALL)
HEAD = "| Architecture | Its layers remember | Runs | Equal rows |\n|---|---|---|---|\n"

ONE_LENGTH = "in slots, prompts of one length together"
EXCEPTIONS = {
    "mamba": ONE_LENGTH,
    "rwkv7": ONE_LENGTH,
    "recurrent_gemma": ONE_LENGTH,
    "baichuan_m1": ONE_LENGTH,
    "olmo_hybrid": ONE_LENGTH,
    "jamba": ONE_LENGTH,
    "bailing_moe_linear": ONE_LENGTH,
    "deepseek_v32": "in mlx-lm's batches: it reads the arrays of its caches itself",
    "llama4": "one at a time: slots have no form for chunks",
    "afm7": "one at a time: some layers take their positions from how much a cache holds",
    "gpt_bigcode": "one at a time: it computes with the position of one row only",
}
"""How an architecture runs if not in slots, with prompts of all lengths together."""

ALIKE = {
    "afm7",
    "baichuan_m1",
    "gemma2",
    "gemma3n",
    "gpt_bigcode",
    "kimi_linear",
    "mamba2",
    "qwen3_next",
    "nanbeige",
    "exaone",
    "iquestloopcoder",
    "rwkv7",
    "olmo_hybrid",
    "deepseek_v32",
    "longcat_flash",
    "gemma4_text",
    "plamo2",
    "gear",
    "mimo_v2_flash",
    "phi",
    "Klear",
    "nanochat",
    "youtu_llm",
    "mellum",
    "spark2_5",
    "muse_glimmer",
    "laguna",
    "kimi_k3",
    "gemma",
    "olmo2",
    "cohere",
    "phimoe",
    "minimax",
    "glm4_moe_lite",
    "bailing_moe_v3",
    "bailing_hybrid",
    "mixtral",
    "olmo3",
    "ministral3",
    "qwen2",
    "qwen2_moe",
    "glm4",
    "granite",
    "olmoe",
    "smollm3",
    "starcoder2",
    "stablelm",
    "seed_oss",
    "apertus",
    "internlm3",
    "hunyuan_v1_dense",
    "ernie4_5_moe",
    "dots1",
    "bailing_moe",
    "nemotron",
    "gpt_neox",
    "deepseek_v3",
    "minicpm3",
    "exaone_moe",
    "afmoe",
    "gemma4",
    "qwen3_5_moe",
    "lfm2_moe",
    "bailing_moe_linear",
    "jamba",
    "phi3",
    "glm4_moe",
    "llama4_text",
    "cohere2",
    "exaone4",
    "step3p5",
    "plamo3",
    "granitemoehybrid",
}
"""Those that differ from another one in what does not matter to slots."""
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in ARCHITECTURES
]

ROWS = uneven_rows(VOCAB)


def how(runner: Runner) -> str:
    if isinstance(runner, SlotRunner):
        return "in slots" if runner._pads else ONE_LENGTH
    return "in mlx-lm's batches" if isinstance(runner, UpstreamRunner) else "one at a time"


def memory(model: object) -> str:
    try:
        layout = Layout.of(make_prompt_cache(model))
    except UnsuitableCacheError as error:
        return str(error).removeprefix("slots have no form for its ")
    names = {"a state": layout.has_states} | {
        "keys and values" if window is None else "a window": True for window in layout.windows
    }
    return ", ".join(sorted(name for name, is_there in names.items() if is_there))


@pytest.mark.parametrize("name", NAMES)
def test_batched_equals_sequential(name, caplog):
    model = new_model(name)
    undo_dispatch()
    alone = [sequential(model, row.prompt, row.limit) for row in ROWS]
    accelerate(model)
    parted = []
    for width in (1, 7):
        scheduler = new_scheduler(
            model, vocab_size=VOCAB, max_num_seqs=width, max_num_batched_tokens=80
        )
        found = play(scheduler, ROWS)
        parted += ties(model, ROWS, found, alone)
    assert "failed" not in caplog.text
    assert how(scheduler._runner) == EXCEPTIONS.get(name, "in slots").partition(":")[0]
    shares = isinstance(scheduler._runner, SlotRunner)
    assert bool(scheduler.stats.cached_tokens) == shares
    cells = [f"`{name}`", memory(model), EXCEPTIONS.get(name, "in slots")]
    documented(name, "| " + " | ".join(cells), parted)


def documented(name: str, line: str, parted: list[str]) -> None:
    """Hold docs/models.md to what was found, or write it there."""
    equal = f"{len(ROWS)}, {len(parted)} of them to a tie" if parted else len(ROWS)
    if os.environ.get("UPDATE_DOCS"):
        rows = table() | {name: f"{line} | {equal} |"}
        body = "".join(f"{rows[each]}\n" for each in ARCHITECTURES if each in rows)
        DOCS.write_text(TABLE.sub(lambda _: HEAD + body, DOCS.read_text()))
    written, _, count = table()[name].removesuffix(" |").rpartition(" | ")
    assert written == line, "UPDATE_DOCS=1 pytest on this file rewrites it"
    assert int(count.partition(",")[0]) == len(ROWS)


def table() -> dict[str, str]:
    """The lines of the table, by architecture."""
    found = TABLE.search(DOCS.read_text())
    assert found
    lines = found[0].splitlines()[2:]
    return {line.split("`")[1]: line for line in lines}


def test_the_documentation_lists_them():
    assert list(table()) == list(ARCHITECTURES)


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "mamba", "llama4"])
async def test_a_folder_is_answered_as_by_mlx_lm_and_the_log_says_how(tmp_path, caplog, name):
    folder = str(write_folder(tmp_path, name))
    prompts = ["a", "of a length beyond windows and chunks, and", "some words", "the last of four"]
    options = {"max_tokens": 9, "temperature": 0, "logprobs": 0}
    with caplog.at_level(logging.INFO):
        async with BatchedEngine(folder, max_num_seqs=3) as engine:
            outputs = await asyncio.gather(
                *(engine.generate(prompt, **options) for prompt in prompts)
            )
    undo_dispatch()
    model, tokenizer = mlx_lm.load(folder)
    alone = [sequential(model, tokenizer.encode(prompt), 9) for prompt in prompts]
    assert [[each.token_id for each in output.logprobs] for output in outputs] == alone
    said = [each.getMessage() for each in caplog.records if "make_runner" in each.name]
    runs = {"llama4": "one row at a time", "mamba": "prompts of one length"}.get(name, "in slots")
    assert any(runs in each and name in each for each in said)


@pytest.mark.parametrize("name", NAMES)
def test_order_windows_and_states_matter(name):
    """What a fault of a position, a mask or a state would change."""
    model = new_model(name)
    prompts = [row.prompt for row in ROWS if 3 <= len(row.prompt) <= 60]
    given = next_tokens(model, prompts)
    assert len(set(given)) > 1
    swapped = [[prompt[-2], *prompt[1:-2], prompt[0], prompt[-1]] for prompt in prompts]
    assert next_tokens(model, swapped) != given
    kinds = memory(model)
    if "a window" in kinds:
        assert next_tokens(model, prompts, first=without_window) != given
    if "a state" in kinds:
        assert next_tokens(model, prompts, then=without_state) != given
