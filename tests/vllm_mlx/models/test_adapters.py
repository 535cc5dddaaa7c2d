"""A model with an adapter answers what mlx-lm's model with this adapter does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm import utils as mlx_lm_utils
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers

from tests.helpers.adapters import write_adapter
from tests.helpers.decoding import new_scheduler, run, sequence, sequential
from tests.helpers.text_folders import write_folder
from tests.helpers.text_model import write_text_model
from vllm_mlx import platform
from vllm_mlx.engine import BatchedEngine, SimpleEngine
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.model_files import local_path
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.models.adapters import KeptDoRA, merge_adapters
from vllm_mlx.models.gguf import load_gguf
from vllm_mlx.models.loading import load_model
from vllm_mlx.models.projections import Part

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1], [2, 7, 1, 8, 2, 8] * 5]
TOKENS = 12
EVERY_LAYER = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("plain"), "llama")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(write_folder(tmp_path_factory.mktemp("quantized"), "llama"))


def quantize(folder: Path) -> Path:
    """Have all layers of a model in 4 bits whose rows can be cut into groups."""

    def can_be(_: str, layer: nn.Module) -> bool:
        return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % 32 == 0

    model, config = mlx_lm_utils.load_model(folder)
    nn.quantize(model, group_size=32, bits=4, class_predicate=can_be)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    config["quantization"] = {"group_size": 32, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def as_on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantized weights stay, layers given the same array are joined."""
    monkeypatch.setattr(platform, "dequantizes", lambda _: False)
    monkeypatch.setattr(platform, "fuses_projections", lambda: True)


def theirs(base: str | Path, adapter: Path) -> Any:
    return mlx_lm_utils.load(str(base), adapter_path=str(adapter))[0]


def answers(loaded: Any) -> list[list[int]]:
    scheduler = new_scheduler(loaded.model, vocab_size=loaded.vocab_size, max_num_seqs=2)
    assert scheduler._runner.way.startswith("in slots")
    return run(scheduler, [sequence(str(at), each, TOKENS) for at, each in enumerate(PROMPTS)])


def kinds_of(model: nn.Module) -> set[str]:
    return {type(each).__name__ for each in model.modules()}


def assert_answers_as_mlx_lm(base: str | Path, adapter: Path) -> Any:
    loaded = load_model(str(base), adapter_path=adapter)
    model = theirs(base, adapter)
    found = answers(loaded)
    assert found == [sequential(model, prompt, TOKENS) for prompt in PROMPTS]
    assert found != answers(load_model(str(base)))
    return loaded.model


@pytest.mark.parametrize("keys", [None, EVERY_LAYER, ["model.embed_tokens"]])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_plain_weights_are_merged(
    tmp_path: Path, plain: Path, kind: str, keys: list[str] | None
) -> None:
    adapter = write_adapter(tmp_path / "adapter", plain, kind=kind, keys=keys)

    model = assert_answers_as_mlx_lm(plain, adapter)

    assert not {"LoRALinear", "DoRALinear", "LoRAEmbedding", "DoRAEmbedding"} & kinds_of(model)


def test_so_are_those_that_this_backend_dequantizes(tmp_path: Path, quantized: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", quantized)

    model = assert_answers_as_mlx_lm(quantized, adapter)

    assert "LoRALinear" not in kinds_of(model)


@pytest.mark.usefixtures("as_on_metal")
@pytest.mark.parametrize(
    ("kind", "layer"), [("lora", LoRALinear), ("dora", KeptDoRA)], ids=["lora", "dora"]
)
def test_quantized_weights_keep_it_beside_them(
    tmp_path: Path, quantized: Path, kind: str, layer: type
) -> None:
    adapter = write_adapter(tmp_path / "adapter", quantized, kind=kind, keys=EVERY_LAYER)

    model = assert_answers_as_mlx_lm(quantized, adapter)

    attention = model.layers[0].self_attn
    assert isinstance(attention.q_proj, layer)
    assert type(attention.q_proj.linear) is nn.QuantizedLinear
    assert type(attention.k_proj) is nn.QuantizedLinear


@pytest.mark.usefixtures("as_on_metal")
def test_merged_layers_are_joined_as_others_are(tmp_path: Path, plain: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", plain, keys=["self_attn.v_proj"])

    model = assert_answers_as_mlx_lm(plain, adapter)

    assert type(model.layers[0].self_attn.v_proj) is Part


def test_kept_dora_has_a_bias_that_is_not_scaled() -> None:
    linear = nn.Linear(64, 8)
    linear.bias = mx.arange(8.0)
    dora = DoRALinear.from_base(linear.to_quantized(32, 4), r=2)
    dora.lora_b = mx.random.normal(dora.lora_b.shape, key=mx.random.key(1))
    dora.eval()
    x = mx.random.normal((2, 3, 64), key=mx.random.key(2))
    expected = dora(x)

    assert mx.allclose(KeptDoRA(dora)(x), expected, atol=1e-4)


@pytest.mark.parametrize("keeps", [False, True], ids=["merged", "kept"])
def test_layers_of_experts(tmp_path: Path, keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if keeps:
        monkeypatch.setattr(platform, "dequantizes", lambda _: False)
    base = write_folder(tmp_path, "mixtral")
    if keeps:
        quantize(base)
    adapter = write_adapter(tmp_path / "adapter", base, noise=0.1)

    assert_answers_as_mlx_lm(base, adapter)


def test_an_adapter_of_another_type_of_numbers_is_rounded_once(tmp_path: Path) -> None:
    """In bfloat16, where a merged weight is the sum and not a sum of what was rounded."""
    base = write_text_model(tmp_path / "model", dtype=mx.bfloat16)
    model = mlx_lm_utils.load_model(Path(base))[0]
    linear_to_lora_layers(model, -1, {"rank": 4, "scale": 2.0, "dropout": 0.0}, use_dora=True)
    layer = model.layers[0].self_attn.q_proj
    layer.lora_b = mx.random.normal(layer.lora_b.shape, key=mx.random.key(1))
    weight = layer.linear.weight.astype(mx.float32)
    whole = weight + (2.0 * layer.lora_b.T) @ layer.lora_a.T
    expected = (layer.m / mx.linalg.norm(whole, axis=1))[:, None] * whole

    merge_adapters(model)

    merged = model.layers[0].self_attn.q_proj.weight
    assert merged.dtype == mx.bfloat16
    assert mx.array_equal(merged, expected.astype(mx.bfloat16))


def test_weights_that_were_trained_as_a_whole(tmp_path: Path, plain: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", plain, kind="full")

    assert_answers_as_mlx_lm(plain, adapter)


def test_a_gguf_file_takes_one(tmp_path: Path) -> None:
    base = load_gguf(local_path("smollm2-135m"))[0]
    layer = base.layers[3].self_attn.q_proj
    layer.set_dtype(mx.float32)
    plain = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    adapter = write_adapter(tmp_path / "adapter", base, keys=["self_attn.q_proj"])
    learned: Any = mx.load(str(adapter / "adapters.safetensors"))
    a, b = (learned[f"model.layers.3.self_attn.q_proj.lora_{each}"] for each in "ab")

    loaded = load_model("smollm2-135m", adapter_path=adapter)

    merged = loaded.model.layers[3].self_attn.q_proj.weight
    assert mx.allclose(merged, plain + 2.0 * (a @ b).T, atol=1e-4)


async def _first(engine: Any) -> str:
    async with engine:
        return (await engine.generate("Hello", max_tokens=6, temperature=0)).text


@pytest.mark.parametrize("kind", [SimpleEngine, BatchedEngine])
def test_engines_and_models_take_the_path(tmp_path: Path, plain: Path, kind: Any) -> None:
    adapter = write_adapter(tmp_path / "adapter", plain)
    with MLXLanguageModel(plain, adapter_path=str(adapter)) as model:
        expected = model.generate("Hello", max_tokens=6, temperature=0).text

    assert repr(model) == f"<MLXLanguageModel {plain} with {adapter}: not loaded>"
    assert f"{plain} with {adapter}: " in repr(kind(plain, adapter_path=adapter))
    for each in (kind, MLXLanguageModel):
        with pytest.raises(ModelLoadError, match="is no adapter: there is no such folder"):
            each(plain, adapter_path=tmp_path / "nowhere")
    assert asyncio.run(_first(kind(plain, adapter_path=adapter))) == expected
    assert asyncio.run(_first(kind(plain))) != expected


def test_a_model_that_sees_takes_one_of_its_text_part(tmp_path: Path, vision_folder: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", vision_folder)

    assert_answers_as_mlx_lm(vision_folder, adapter)


def test_one_of_another_model_is_refused(tmp_path: Path, plain: Path) -> None:
    other = write_folder(tmp_path, "qwen3")
    adapter = write_adapter(tmp_path / "adapter", other)

    with pytest.raises(ModelLoadError) as refused:
        load_model(plain, adapter_path=adapter)

    message = str(refused.value)
    assert f"{str(adapter)!r} does not fit this model, only {other}" in message
    assert "does not match model parameter shape" in message
    assert message.count("\n") < 6


def test_one_that_lacks_a_layer_is_refused(tmp_path: Path, plain: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", plain)
    weights: Any = dict(mx.load(str(adapter / "adapters.safetensors")))
    weights.pop("model.layers.0.self_attn.q_proj.lora_b")
    mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)

    with pytest.raises(ModelLoadError, match=r"0\.self_attn\.q_proj\.lora_b: not in the file"):
        load_model(plain, adapter_path=adapter)
