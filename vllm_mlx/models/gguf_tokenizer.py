"""The byte-level BPE tokenizer inside a GGUF file.

A GGUF names its rules (`tokenizer.ggml.pre`) but does not carry them; they follow llama.cpp's
`llama-vocab.cpp`. (The reader of `transformers` needs torch and ignores some of these names.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vllm_mlx.models.gguf_metadata import Metadata

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Pre(NamedTuple):
    """How text is cut before the merges: each expression splits what the one before left."""

    splits: tuple[str, ...]
    ignore_merges: bool = False  # a piece that is a token as it stands is not built from merges
    add_bos: bool = False  # where the file does not say


_LLAMA3 = _Pre((_WORDS % "{1,3}",), ignore_merges=True, add_bos=True)
_PRE = {
    "default": _Pre((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": _Pre((_GPT2,)),
    "smollm": _Pre((r"\p{N}", _GPT2)),
    "qwen2": _Pre((_WORDS % "",)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}
# Values of tokenizer.ggml.token_type that text is searched for before it is split: unknown and
# control, which are special, and user-defined.
_SPECIAL, _WHOLE = (2, 3), (2, 3, 4)


def make_tokenizer(meta: Metadata, config: Mapping[str, Any]) -> TokenizerWrapper:
    """The tokenizer of a file, in mlx-lm's wrapper; `config` as `load_gguf` returns it.

    Raises:
        ModelLoadError: a kind of tokenizer that is not supported, or a damaged vocabulary.
    """
    meta.choice("tokenizer.ggml.model", ("gpt2",))
    pre = _PRE[meta.choice("tokenizer.ggml.pre", _PRE)]
    tokens = meta.get("tokenizer.ggml.tokens")
    fast = _byte_level_bpe(meta, tokens, pre)
    names = {
        f"{kind}_token": tokens[token_id]
        for kind, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (token_id := meta.token_id(key)) is not None
    }
    if meta.get("tokenizer.ggml.add_bos_token", pre.add_bos) and "bos_token" in names:
        bos = names["bos_token"]
        fast.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, config["bos_token_id"])]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        clean_up_tokenization_spaces=False,
        model_max_length=config["max_position_embeddings"],
        chat_template=meta.values.get("tokenizer.chat_template"),
        **names,
    )
    return TokenizerWrapper(wrapped, BPEStreamingDetokenizer, eos_token_ids=config["eos_token_id"])


def _byte_level_bpe(meta: Metadata, tokens: list[str], pre: _Pre) -> Tokenizer:
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in meta.get("tokenizer.ggml.merges")]
    try:
        model = models.BPE(vocab=vocab, merges=merges, ignore_merges=pre.ignore_merges)
    except Exception as error:  # what tokenizers raises for a bad merge is a bare Exception
        raise meta.error(f"vocabulary and merges do not fit together: {error}") from error
    fast = Tokenizer(model)
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in pre.splits]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    fast.decoder = decoders.ByteLevel()
    kinds = meta.get("tokenizer.ggml.token_type", [])
    whole = [(token, kind) for token, kind in zip(tokens, kinds, strict=False) if kind in _WHOLE]
    fast.add_tokens(
        [AddedToken(token, normalized=False, special=kind in _SPECIAL) for token, kind in whole]
    )
    return fast
