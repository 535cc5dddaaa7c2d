"""Our attention and MLP compute what mlx-lm's do."""

from __future__ import annotations

import importlib

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache

from tests.helpers.decoding import CONFIG, new_scheduler, randomize, run, sequence, sequential
from vllm_mlx import platform
from vllm_mlx.models.accelerated import Attention, accelerate
from vllm_mlx.models.projections import Part
from vllm_mlx.platform import cpu

EXTRA = {"rope_theta": 10_000.0, "max_position_embeddings": 512, "tie_word_embeddings": True}
LLAMA3 = {
    "type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def build(kind: str, **config):
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    config = {**CONFIG, **EXTRA, **config, "model_type": kind}
    return randomize(module.Model(module.ModelArgs.from_dict(config)))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_same_logits_and_tokens(kind, fused, monkeypatch):
    monkeypatch.setattr(platform, "fuses_projections", lambda: fused)
    config = {"head_dim": 16} if kind == "qwen3" else {}
    plain, model = build(kind, **config), accelerate(build(kind, **config))
    layer = model.layers[0]
    assert type(layer.self_attn) is Attention
    for joined in (layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
        assert isinstance(joined, Part) == fused
    assert mx.allclose(model(TOKENS), plain(TOKENS), atol=1e-4)
    caches = [KVCache() for _ in model.layers]
    assert mx.allclose(model(TOKENS, cache=caches), plain(TOKENS), atol=1e-4)
    prompts = [TOKENS[0].tolist(), TOKENS[1, :3].tolist(), TOKENS[1].tolist() * 20]
    tokens = run(
        new_scheduler(model, max_num_seqs=2),
        [sequence(str(i), prompt, 12) for i, prompt in enumerate(prompts)],
    )
    assert tokens == [sequential(plain, prompt, 12) for prompt in prompts]


@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 2.0}, LLAMA3])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_heads_rotated_in_one_launch(kind, scaling, monkeypatch):
    """What surrounds CUDA's kernel, which is done here in MLX's operations."""
    monkeypatch.setattr(platform, "fuses_projections", lambda: True)
    monkeypatch.setattr(platform, "make_rotate_heads", rotate_heads_in_mlx)
    config = {"head_dim": 16} if kind == "qwen3" else {}
    plain = build(kind, **config, rope_scaling=scaling)
    model = accelerate(build(kind, **config, rope_scaling=scaling))
    assert model.layers[0].self_attn._rotate_heads is not None
    prompts = [TOKENS[0].tolist(), TOKENS[1, :3].tolist()]
    tokens = run(
        new_scheduler(model, max_num_seqs=2),
        [sequence(str(i), prompt, 12) for i, prompt in enumerate(prompts)],
    )
    assert tokens == [sequential(plain, prompt, 12) for prompt in prompts]


def rotate_heads_in_mlx(Hq, Hk, wavelengths, norms):
    half = wavelengths.size

    def rotate(joined, positions):
        S = joined.shape[0]
        heads = joined.reshape(S, Hq + 2 * Hk, 2 * half)
        queries, keys = heads[:, :Hq], heads[:, Hq : Hq + Hk]
        if norms:
            queries, keys = norms[0](queries), norms[1](keys)
        angles = positions[:, None, None] / wavelengths
        cosine, sine = mx.cos(angles), mx.sin(angles)

        def turned(x):
            low, high = x[..., :half], x[..., half:]
            return mx.concatenate([low * cosine - high * sine, high * cosine + low * sine], axis=-1)

        return turned(queries)[:, :, None], turned(keys)[:, :, None]

    return rotate


def test_other_ropes_are_left_to_mlx(monkeypatch):
    monkeypatch.setattr(platform, "fuses_projections", lambda: True)
    monkeypatch.setattr(platform, "make_rotate_heads", rotate_heads_in_mlx)
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    model = accelerate(build("qwen3", head_dim=16, rope_scaling=yarn))
    assert model.layers[0].self_attn._rotate_heads is None


def test_quantized_and_unlike_layers_are_not_fused(monkeypatch):
    monkeypatch.setattr(platform, "fuses_projections", lambda: True)
    model = build("llama", hidden_size=64, intermediate_size=64)
    nn.quantize(model, group_size=32, bits=4)
    expected = model(TOKENS)
    assert mx.allclose(accelerate(model)(TOKENS), expected, atol=1e-4)
    assert not isinstance(model.layers[0].mlp.gate_proj, Part)


def test_other_architectures_stay_as_they_are():
    model = build("gemma", head_dim=8)
    kind = type(model.layers[0].self_attn)
    accelerate(model)
    assert type(model.layers[0].self_attn) is kind


def test_exp_is_exact_to_a_few_ulp():
    x = np.concatenate([np.linspace(-87, 88, 20_001), [0.0, -0.0, 1e-8, -1e-8]])
    x = x.astype(np.float32)
    true = np.exp(x.astype(np.float64))
    assert np.abs(np.array(cpu.exp(mx.array(x))) / true - 1).max() < 2e-7  # mx.exp: 4e-6
    assert cpu.exp(mx.array([-1000.0, -mx.inf])).max().item() < 2e-38
    assert mx.isfinite(cpu.exp(mx.array([89.1, 1e30, mx.inf]))).all()
    x = np.concatenate([x, [-88.5, -89.2, -200.0, -1e6, 200.0]]).astype(np.float32)
    with np.errstate(over="ignore"):
        silu = x / (1 + np.exp(-x.astype(np.float64)))
    assert np.allclose(
        np.array(cpu.swiglu(mx.array(x), mx.ones(x.shape))), silu, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("L", "K"), [(1, 1), (1, 9), (5, 5), (64, 64), (65, 65), (70, 200)])
def test_causal_attention(L, K):
    keys = [mx.random.key(i) for i in range(3)]
    queries = mx.random.normal((2, 6, L, 8), key=keys[0])
    k, v = (mx.random.normal((2, 3, K, 8), key=key) for key in keys[1:])
    expected = mx.fast.scaled_dot_product_attention(queries, k, v, scale=0.3, mask="causal")
    assert mx.allclose(cpu.attend_causal(queries, k, v, 0.3), expected, atol=1e-5)
    explicit = platform.cuda.attend_causal(queries, k, v, 0.3)
    assert mx.allclose(explicit, expected, atol=1e-5)
