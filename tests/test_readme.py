"""The documents' code runs as written, in order, in a copy of the clone's examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (page.name, number, language, code)
    for page in PAGES
    for number, (language, code) in enumerate(BLOCK.findall(page.read_text()))
    if language in ("sh", "python")
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    from worker.embedded_redis import EmbeddedRedis

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("hf"))}
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield {**os.environ, **offline, "PATH": path, "RQ_REDIS_URL": server.url}


def test_the_readme_has_the_three_things_people_come_for():
    codes = [code for page, _, _, code in BLOCKS if page == "README.md"]
    code = "\n".join(codes)
    for word in ("mlx-batch enqueue", "rq info", "polars", "duckdb", "load_dataset", "vllm_mlx"):
        assert word in code
    assert all(len(code.splitlines()) <= 10 for code in codes)


@pytest.mark.parametrize(
    ("language", "code"),
    [block[2:] for block in BLOCKS],
    ids=[f"{page}-{number}" for page, number, _, _ in BLOCKS],
)
def test_block(language, code, clone, environment):
    command = ["bash", "-euo", "pipefail"] if language == "sh" else [sys.executable]
    ran = subprocess.run(
        [*command, "-c", code],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, f"{code}\n{ran.stdout}\n{ran.stderr}"
    assert ran.stdout.strip()
