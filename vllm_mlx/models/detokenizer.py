"""Token ids to text as they come, so that a prompt and its answer join as they were written.

mlx-lm's own detokenizers (0.32) drop the first space, so that a continued prompt loses a word
boundary, write added tokens as if they were bytes, and fail on half a character before a special
token.
"""

from __future__ import annotations

import codecs
import re
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    SPMStreamingDetokenizer,
    TokenizerWrapper,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from vllm_mlx.batching.text.text_stream import REPLACEMENT, Detokenizer

MAX_HELD = 8  # tokens that may be a part of one character


class BytesDetokenizer:
    """Exactly the bytes of the tokens; a character appears when its last byte is in.

    Args:
        table: the bytes of each token id; a padded vocabulary has ids beyond it, without any.
    """

    def __init__(self, table: list[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(self._table[token]) if token < len(self._table) else ""

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class ContextDetokenizer:
    """What a token adds to the text of those before it, for tokenizers of any kind.

    Args:
        decode: text of token ids, which may depend on where they stand.
        context: tokens that the first one is decoded behind.
    """

    def __init__(self, decode: Callable[[list[int]], str], context: list[int]) -> None:
        self._decode = decode
        self._context = context
        self._new: list[int] = []

    def add(self, token: int) -> str:
        self._new.append(token)
        text = self._decode(self._context + self._new)
        is_cut = text.endswith(REPLACEMENT) and len(self._new) < MAX_HELD
        return "" if is_cut else self._take(text)

    def finish(self) -> str:
        return self._take(self._decode(self._context + self._new)) if self._new else ""

    def _take(self, text: str) -> str:
        before = self._decode(self._context)
        self._context, self._new = self._new, []
        return text[len(before) :]


def make_new_detokenizer(
    tokenizer: TokenizerWrapper, lock: threading.Lock
) -> Callable[[], Detokenizer]:
    """What makes a detokenizer for each sequence, by the kind that mlx-lm found.

    Args:
        lock: held while the tokenizer is used.
    """
    tokens: Any = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if isinstance(tokenizer.detokenizer, BPEStreamingDetokenizer):
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        added = tokenizer.added_tokens_decoder
        table = [
            added[at].content.encode() if at in added else _byte_level(token or "", byte_of)
            for at, token in enumerate(tokens)
        ]
        return partial(BytesDetokenizer, table)
    if isinstance(tokenizer.detokenizer, SPMStreamingDetokenizer):
        return partial(BytesDetokenizer, [_sentence_piece(token or "") for token in tokens])

    def decode(tokens: list[int]) -> str:
        with lock:
            return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))

    context = list(tokenizer.encode("a", add_special_tokens=False))
    return partial(ContextDetokenizer, decode, context)


def _byte_level(token: str, byte_of: dict[str, int]) -> bytes:
    try:
        return bytes([byte_of[character] for character in token])
    except KeyError:  # it is not written in the alphabet
        return token.encode()


def _sentence_piece(token: str) -> bytes:
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes.fromhex(token[3:5])
    return token.replace("▁", " ").encode()
