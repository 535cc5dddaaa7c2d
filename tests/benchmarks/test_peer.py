"""Random models in a known shape: their cost, and the peer on them."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import base, llama

from benchmarks.matrices import Matrices
from benchmarks.models import ModelPair, random_models
from benchmarks.peer import published, run_peer
from benchmarks.workloads import mixed
from vllm_mlx.batching.slots.layout import Footprint


@pytest.fixture(scope="module")
def models() -> ModelPair:
    return random_models("tiny", None, 0)


def test_costs_of_a_known_shape(models: ModelPair) -> None:
    costs = Matrices(models.peers).costs()
    attention, mlp = 2 * 64 * 64 + 2 * 64 * 32, 3 * 64 * 128
    assert costs.body_parameters == 2 * (attention + mlp)
    assert costs.head_parameters == 512 * 64
    assert costs.weight_bytes == 4 * (costs.body_parameters + costs.head_parameters)
    assert costs.footprint == Footprint(per_token=2 * 2 * 2 * 16 * 4)
    pairs = 10**2 / 2
    assert costs.attention(10) == 2 * 2 * 2 * 4 * 16 * pairs


def test_quantized_weights_count_all_their_elements_and_the_bytes_as_stored() -> None:
    plain = Matrices(random_models("tiny", None, 0).peers).costs()
    quantized = Matrices(random_models("tiny", 4, 0).peers).costs()
    assert quantized.body_parameters == plain.body_parameters
    assert quantized.head_parameters == plain.head_parameters
    parameters = plain.body_parameters + plain.head_parameters
    assert quantized.weight_bytes == parameters // 2 + 2 * 4 * parameters // 64


def test_layers_beyond_the_asked_ones_are_left_out() -> None:
    whole = Matrices(random_models("tiny", None, 0).peers).costs()
    cut = Matrices(random_models("tiny", None, 0, layers=1).peers).costs()
    assert 2 * cut.body_parameters == whole.body_parameters
    assert cut.head_parameters == whole.head_parameters


def test_both_hold_the_same_seeded_weights(models: ModelPair) -> None:
    assert models.ours is not models.peers
    again = random_models("tiny", None, 0)
    for (_, one), (_, other) in zip(
        tree_flatten(models.peers.parameters()), tree_flatten(again.peers.parameters()), strict=True
    ):
        assert mx.array_equal(one, other)
    # Ours are in modules of our own: what they compute tells that the weights are the same.
    tokens = mx.array([[3, 1, 4, 1, 5]])
    for model in (models.ours, again.ours):
        assert mx.allclose(model(tokens), models.peers(tokens), atol=1e-5)


def test_the_peer_runs_what_mlx_lm_published(models: ModelPair) -> None:
    name = "scaled_dot_product_attention"
    ours = vars(llama)[name]
    assert models.peers
    assert ours.__globals__["__name__"].startswith("vllm_mlx.")
    with published():
        assert vars(llama)[name] is vars(base)[name]
        assert vars(base)[name].__globals__["__name__"] == "mlx_lm.models.base"
    assert vars(llama)[name] is ours


def test_the_peer_makes_every_token(models: ModelPair) -> None:
    workload = mixed(6, models.vocab_size, 0)
    run = run_peer(models.peers, workload, 8)
    assert run.tokens == workload.output_tokens
    done = run.stats
    assert min(done.prefill_tokens_per_second, done.decode_tokens_per_second) > 0
    assert done.prefill_seconds + done.decode_seconds < run.seconds


def test_the_peer_is_cut_off_at_its_limit(models: ModelPair) -> None:
    workload = mixed(6, models.vocab_size, 0)
    assert run_peer(models.peers, workload, 8, limit=0.0).tokens < workload.output_tokens
