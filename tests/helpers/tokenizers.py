"""Small tokenizers of each family, with a vocabulary below `text_folders.VOCAB`."""

from __future__ import annotations

import string
from collections.abc import Callable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

SPACE = "▁"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_MERGES = [(SPACE, "t"), (f"{SPACE}t", "h"), ("a", "n")]


def byte_level() -> Tokenizer:
    """As GPT-2's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: at for at, letter in enumerate([*alphabet, "an", "Ġt", "Ġth"])}
    made = Tokenizer(models.BPE(vocab, [("a", "n"), ("Ġ", "t"), ("Ġt", "h")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def llama() -> Tokenizer:
    """As Llama's and Mistral's SentencePiece: a space before the text, which decoding strips."""
    made = _sentence_piece()
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    made.decoder = decoders.Sequence([*_unpieced(), decoders.Strip(" ", 1, 0)])
    return made


def gemma() -> Tokenizer:
    """As Gemma's SentencePiece: no space before the text, two spaces are an added token."""
    made = _sentence_piece()
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.decoder = decoders.Sequence(_unpieced())
    made.add_tokens([AddedToken(2 * SPACE, normalized=True)])
    return made


def metaspace() -> Tokenizer:
    """As SentencePiece was converted once, which mlx-lm does not know."""
    made = _sentence_piece()
    made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE)
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(SPACE)])
    return made


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    each.__name__: each for each in (byte_level, llama, gemma, metaspace)
}


def _sentence_piece() -> Tokenizer:
    pieces = [*_BYTES, SPACE, *string.ascii_lowercase, ".", "".join(_MERGES[0])]
    pieces += ["".join(merge) for merge in _MERGES[1:]]
    vocab = {piece: at for at, piece in enumerate(pieces)}
    return Tokenizer(models.BPE(vocab, _MERGES, byte_fallback=True, unk_token=None, fuse_unk=True))


def _unpieced() -> list[decoders.Decoder]:
    return [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
