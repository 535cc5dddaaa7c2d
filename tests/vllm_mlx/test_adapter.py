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


_HEADER = (
    b'{"__metadata__":{"a":"b"},"x.lora_a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"x.lora_b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}'
)
WHOLE = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "adapters.safetensors").write_bytes(WHOLE)
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
        ("adapter_config.json", "it holds no adapter_config.json. Give"),
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (WHOLE[:-1], f"it has {len(WHOLE) - 1} bytes, and should have {len(WHOLE)}; copy it again"),
        (WHOLE + b"x", f"it has {len(WHOLE) + 1} bytes"),
        (WHOLE[:50], "its header is not whole"),
        (b"", "its header is not whole"),
        (b"junk", "its header is not whole"),
        ((2).to_bytes(8, "little") + b"{}", "its header is not whole"),
        ((2).to_bytes(8, "little") + b"[]", "its header is not whole"),
        ((9).to_bytes(8, "little") + b'{"a": 1}}', "its header is not whole"),
    ],
)
def test_damaged_weights(folder: Path, content: bytes, reason: str) -> None:
    (folder / "adapters.safetensors").write_bytes(content)

    with pytest.raises(ModelLoadError, match=r"adapters\.safetensors is damaged: " + reason):
        Adapter.of(folder)


@pytest.mark.parametrize(
    ("trained_on", "model", "same"),
    [
        ("Qwen/Qwen3-4B", "mlx-community/Qwen3-4B-4bit", True),
        ("Qwen/Qwen3-4B", "mlx-community/Qwen3-4B-MLX-bf16", True),
        ("/a/models--Qwen--Qwen3-4B/snapshots/0a1b", "Qwen/Qwen3-4B", True),
        ("models/tiny/", "/home/ann/models/tiny", True),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m", True),
        ("smollm2-135m", "smollm2-135m", True),
        (None, "any/model", True),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B-Base", False),
        ("Qwen/Qwen3-4B", "smollm2-135m", False),
        ("models/tiny", "models/other", False),
    ],
)
def test_one_trained_on_a_model_of_another_name_is_doubted(
    folder: Path, trained_on: str | None, model: str, same: bool
) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, "model": trained_on}))

    doubt = Adapter.of(folder).doubt(model)

    assert (doubt is None) is same
    assert doubt is None or f"trained on {trained_on}, as its" in doubt
