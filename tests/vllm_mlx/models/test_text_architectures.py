"""Models of many architectures, tiny and random, answer in a batch as mlx-lm answers alone.

`UPDATE_DOCS=1 pytest` on this file rewrites the first table of docs/models.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path

import mlx_lm
import pytest

from tests.helpers.decoding import sequential
from tests.helpers.text_folders import ALONE, ARCHITECTURES, BATCHES, SLOTS, write_folder
from vllm_mlx.batching.one_by_one import OneByOneRunner
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.batching.upstream import UpstreamRunner
from vllm_mlx.engine import BatchedEngine

DOCS = Path(__file__).parents[3] / "docs" / "models.md"
TABLE = re.compile(r"(?<=<!-- text table -->\n).*?(?=<!-- end of text table -->)", re.DOTALL)
PROMPTS = ["a", "of a length beyond windows and chunks, and", "some words", "the last of four"]
LENGTHS = [12, 6, 9, 7]


@pytest.mark.parametrize("name", ARCHITECTURES)
async def test_batched_equals_sequential(tmp_path, caplog, name):
    folder = str(write_folder(tmp_path, name))
    with caplog.at_level(logging.WARNING):
        async with BatchedEngine(folder, max_num_seqs=3) as engine:
            runner = engine._core._thread.parts.runner
            outputs = await asyncio.gather(
                *(
                    engine.generate(prompt, max_tokens=length, temperature=0, logprobs=0)
                    for prompt, length in zip(PROMPTS, LENGTHS, strict=True)
                )
            )
    kind = OneByOneRunner if name in ALONE else UpstreamRunner if name in BATCHES else SlotRunner
    assert type(runner) is kind
    model, tokenizer = mlx_lm.load(folder)
    alone = [
        sequential(model, tokenizer.encode(prompt), length)
        for prompt, length in zip(PROMPTS, LENGTHS, strict=True)
    ]
    assert len({tuple(tokens[:6]) for tokens in alone}) == len(PROMPTS), "prompts matter"
    assert [[each.token_id for each in output.logprobs] for output in outputs] == alone
    ours = [each for each in caplog.records if each.name.startswith("vllm_mlx")]
    said = [record.getMessage() for record in ours]
    assert any("one row at a time" in each for each in said) == (name in ALONE)
    assert all(name in each for each in said), "the log says which"


def test_the_documentation_lists_them():
    ways = {"in slots": SLOTS, "in mlx-lm's batches": BATCHES, "one at a time": ALONE}
    rows = [
        f"| {way} | {', '.join(f'`{name}`' for name in names)} |" for way, names in ways.items()
    ]
    table = "\n".join(["| Runs | Architectures |", "|---|---|", *rows, ""])
    text = DOCS.read_text()
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(TABLE.sub(lambda _: table, text))
        return
    found = TABLE.search(text)
    assert found
    assert found[0] == table, "UPDATE_DOCS=1 pytest on this file rewrites it"
