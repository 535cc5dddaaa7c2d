"""Token ids to text as they come, for byte-level BPE.

mlx-lm's own (0.32) drops a leading space, so that a continued prompt loses a word boundary, writes
NUL as `Ā`, and fails on half a character before a special token.
"""

from __future__ import annotations

import codecs
import copy
from typing import Any

from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    StreamingDetokenizer,
    TokenizerWrapper,
)


class ByteLevelDetokenizer(StreamingDetokenizer):
    """Exactly the bytes of the tokens; a character appears when its last byte is in."""

    def __init__(self, tokenizer: Any) -> None:
        byte_of = _byte_of_character()
        self._bytes = [
            b"".join(byte_of.get(character) or character.encode() for character in token or "")
            for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        ]
        self.reset()

    def reset(self) -> None:
        self.text = ""
        self.tokens: list[int] = []
        self.offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add_token(self, token: int) -> None:
        self.tokens.append(token)
        if token < len(self._bytes):  # a padded vocabulary has ids that stand for nothing
            self.text += self._decoder.decode(self._bytes[token])

    def finalize(self) -> None:
        self.text += self._decoder.decode(b"", final=True)


def detokenizer_of(tokenizer: TokenizerWrapper) -> StreamingDetokenizer:
    """A detokenizer to copy for each sequence: building its table is expensive."""
    detokenizer: StreamingDetokenizer = copy.copy(tokenizer.detokenizer)
    if isinstance(detokenizer, BPEStreamingDetokenizer):
        return ByteLevelDetokenizer(tokenizer)
    return detokenizer


def _byte_of_character() -> dict[str, bytes]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from 256 on.

    See `bytes_to_unicode` in https://github.com/openai/gpt-2/blob/master/src/encoder.py.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(256 + at): bytes([byte]) for at, byte in enumerate(others)}
