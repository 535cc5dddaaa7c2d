"""Folders that are no adapters are refused with what is wrong and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_mlx.adapter import Adapter
from vllm_mlx.errors import ModelLoadError

CONFIG: dict[str, Any] = {
    "model": "some/model",
    "fine_tune_type": "lora",
    "num_layers": 4,
    "lora_parameters": {"rank": 8, "scale": 20, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
    "learning_rate": 1e-5,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "adapters.safetensors").write_bytes(b"weights")
    return tmp_path


def test_what_a_trainer_writes_is_read(folder: Path) -> None:
    adapter = Adapter.of(str(folder))

    assert adapter.folder == folder
    assert adapter.config.model == "some/model"
    assert adapter.config.lora_parameters
    assert adapter.config.lora_parameters.scale == 20


def with_parameters(**changes: Any) -> dict[str, Any]:
    return {"lora_parameters": {**CONFIG["lora_parameters"], **changes}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_layers": None}, "num_layers and lora_parameters should both be given"),
        ({"num_layers": "all"}, "num_layers='all': should be a valid integer"),
        ({"fine_tune_type": "ia3"}, "fine_tune_type='ia3': should be 'lora', 'dora' or 'full'"),
        ({"lora_parameters": {"rank": 8, "alpha": 16}}, "lora_parameters.scale: missing"),
        (with_parameters(rank=0), "lora_parameters.rank=0: should be greater than or equal to 1"),
        (with_parameters(scale=float("nan")), "lora_parameters.scale=nan: should be a finite"),
        (with_parameters(keys="q_proj"), "lora_parameters.keys='q_proj'"),
    ],
)
def test_a_configuration_that_mlx_lm_does_not_write(
    folder: Path, change: dict[str, Any], reason: str
) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **change}))

    with pytest.raises(ModelLoadError) as refused:
        Adapter.of(folder)

    assert f"{str(folder)!r} is no adapter: adapter_config.json: " in str(refused.value)
    assert reason in str(refused.value)
    assert "Give a folder that mlx_lm.lora has written" in str(refused.value)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("adapter_config.json", "adapter_config.json"),
        ("adapters.safetensors", "it holds no adapters.safetensors"),
    ],
)
def test_a_file_that_is_missing(folder: Path, file: str, reason: str) -> None:
    (folder / file).unlink()

    with pytest.raises(ModelLoadError, match=f"is no adapter: .*{reason}"):
        Adapter.of(folder)


def test_one_of_pefts(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    (folder / "adapters.safetensors").rename(folder / "adapter_model.safetensors")

    with pytest.raises(ModelLoadError, match=r"it is PEFT's.*merge_and_unload"):
        Adapter.of(folder)


@pytest.mark.parametrize(
    "path", ["/nonexistent/adapter", "~nobody/adapter", "a\0b", "", "x" * 5000]
)
def test_no_folder(path: str) -> None:
    with pytest.raises(ModelLoadError, match="is no adapter"):
        Adapter.of(path)


def test_no_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_bytes(b"\xff{")

    with pytest.raises(ModelLoadError, match=r"adapter_config\.json: "):
        Adapter.of(folder)
