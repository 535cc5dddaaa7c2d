"""`Vocabulary`: the tokens as grammars see them: no text of an answer is a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from llguidance import LLTokenizer
from transformers import PreTrainedTokenizerFast

from vllm_mlx.batching.prompts.control_tokens import control_tokens
from vllm_mlx.batching.text.thinking import ThinkingMarkers

_NO_TEXT = "\U0010ffff"  # a character that Unicode has for no text
# What stands in Lark's grammars: strings, expressions, remarks, and names of control tokens.
_LARK = re.compile(r'"(?:\\.|[^"\\\n])*"|//.*|#.*|/(?:\\.|[^/\\\n])+/|<[^<>\s]+>')


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens of one model, for llguidance.

    Attributes:
        tokens: as wide as the model's logits at least; the end tokens are among them.
        control: control tokens by name, which grammars of Lark may ask for.
    """

    tokens: LLTokenizer
    control: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Any, vocab_size: int) -> Vocabulary:
        """Return that of a tokenizer of mlx-lm's.

        llguidance has a tokenizer encode what a grammar leaves no choice about, and that one finds
        control tokens in it. So they bear other names here, as do those around thoughts.

        Args:
            vocab_size: how wide the model's logits are.

        Raises:
            ValueError: it is no fast one.
        """
        inner = tokenizer._tokenizer
        if not isinstance(inner, PreTrainedTokenizerFast):
            raise ValueError("only fast tokenizers are supported")
        backend = copy(inner.backend_tokenizer)
        backend.no_padding()
        backend.no_truncation()
        added = inner.added_tokens_decoder
        control = {at: added[at].content for at in _markers(tokenizer) & added.keys()}
        control |= control_tokens(inner)
        names = {name: f"{_NO_TEXT}{at}{_NO_TEXT}" for at, name in control.items()}
        tokens = LLTokenizer(
            json.dumps(_renamed(json.loads(backend.to_str()), names)),
            n_vocab=max(vocab_size, len(tokenizer)),
            eos_token=sorted(tokenizer.eos_token_ids),
        )
        return cls(tokens, {name: at for at, name in control.items()})

    def numbered(self, grammar: str) -> str:
        """Return a grammar of Lark's with the control tokens that it names by their numbers."""

        def number(found: re.Match[str]) -> str:
            at = self.control.get(found[0])
            return found[0] if at is None else f"<[{at}]>"

        return _LARK.sub(number, grammar)


def _renamed(tokenizer: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a tokenizer, as its file has it, whose control tokens have other names."""
    for token in tokenizer["added_tokens"]:
        if new := names.get(token["content"]):
            token |= {"content": new, "special": True}
    model = tokenizer["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(piece, piece): at for piece, at in vocab.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    if (unknown := model.get("unk_token")) in names:
        model["unk_token"] = names[unknown]
    if merges := model.get("merges"):
        model["merges"] = [pair for pair in merges if names.keys().isdisjoint(_pieces(pair))]
    return tokenizer


def _pieces(pair: Any) -> tuple[str, str, str]:
    """Return what a rule merges, and what it makes of it."""
    first, second = pair.split(" ") if isinstance(pair, str) else pair
    return first, second, first + second


def _markers(tokenizer: Any) -> set[int]:
    """Return the tokens that part a thought from an answer by themselves."""
    markers = ThinkingMarkers.of(tokenizer)
    each = (markers.start, markers.end, *markers.around) if markers else ()
    return {marker[0] for marker in each if len(marker) == 1}
