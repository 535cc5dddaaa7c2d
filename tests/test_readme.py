"""The documents' code runs as written, in a copy of the clone's examples.

In `make test` the examples have their first prompts only, and `smollm2-135m` is a tiny model.

Blocks that use what another one made run after it, in one test; all others stand alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helpers.hub import COMMIT
from tests.helpers.thinking_folder import write_thinking_model
from tests.helpers.tiny_smollm2 import ALIAS, write_tiny_smollm2

THINKS = "mlx-community/Qwen3-4B-4bit"
ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MADE = re.compile(
    r"\b(?:answers|clips|extracted|batch_output)/?\b"
)  # folders one block makes, others read


class Block(NamedTuple):
    """A block of code, with the name of the test that runs it."""

    page: str
    language: str
    code: str
    test: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text())):
            if language in ("sh", "python"):
                made = MADE.search(code)
                test = made[0].strip("/") if made else f"{page.name}-{number}"
                yield Block(page.name, language, code, test)


BLOCKS = list(blocks())
LONG = {"README.md-2", "README.md-3", "clips", "answers"}
"""Runs that take 20 to 45 s on a tiny model, too: at full size only, which is slow."""


def cases() -> Iterator[Any]:
    """The tests, and whether each is at full size: with SmolLM2 and all 64 of its prompts."""
    for test in dict.fromkeys(block.test for block in BLOCKS):
        ours = [block for block in BLOCKS if block.test == test]
        if test not in LONG and {block.page for block in ours} != {"recipes.md"}:
            yield pytest.param(test, False, id=f"{test}-tiny")
        if any(block.page == "recipes.md" or ALIAS in block.code for block in ours):
            yield pytest.param(test, True, id=f"{test}-full", marks=pytest.mark.slow)


@pytest.fixture
def clone(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    from worker.local.embedded_redis import EmbeddedRedis

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("hf"))}
    offline["HF_HUB_CACHE"] = str(cache_of_models(tmp_path_factory.mktemp("hub")))
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield {**os.environ, **offline, "PATH": path, "RQ_REDIS_URL": server.url}


def test_the_readme_has_the_three_things_people_come_for():
    codes = [block.code for block in BLOCKS if block.page == "README.md"]
    code = "\n".join(codes)
    for word in ("mlx-batch enqueue", "rq info", "polars", "duckdb", "load_dataset", "vllm_mlx"):
        assert word in code
    assert all(len(code.splitlines()) <= 10 for code in codes)


def cache_of_models(cache: Path) -> Path:
    """A cache as the hub's client keeps it, with a tiny model in the place of one that thinks."""
    kept = cache / f"models--{THINKS.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(COMMIT)
    (kept / "snapshots").mkdir()
    write_thinking_model(kept / "snapshots" / COMMIT)
    return cache


def train(adapter):
    """What a recipe expects of `mlx_lm.lora`."""
    from tests.helpers.adapters import write_adapter
    from vllm_mlx.model_files import local_path
    from vllm_mlx.models.gguf import load_gguf

    base, *_ = load_gguf(local_path("smollm2-135m"))
    write_adapter(adapter, base, keys=["self_attn.q_proj"], noise=0.02)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """What the environment has first on its path, for a tiny model."""
    return write_tiny_smollm2(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("test", "full"), list(cases()))
def test_blocks(test, full, clone, environment, tiny):
    if any("my-adapter" in block.code for block in BLOCKS if block.test == test):
        train(clone / "my-adapter")
    if not full:
        environment = {**environment, "PYTHONPATH": f"{tiny}:{environment.get('PYTHONPATH', '')}"}
        prompts = clone / "examples" / "prompts.jsonl"
        prompts.write_text("".join(prompts.read_text().splitlines(keepends=True)[:12]))
    for block in [each for each in BLOCKS if each.test == test]:
        command = ["bash", "-euo", "pipefail"] if block.language == "sh" else [sys.executable]
        ran = subprocess.run(
            [*command, "-c", block.code],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, f"{block.code}\n{ran.stdout}\n{ran.stderr}"
        assert ran.stdout.strip()
