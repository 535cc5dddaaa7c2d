"""Grammars over a vocabulary of single characters, for tiny models whose words mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import cache
from types import SimpleNamespace
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

from tests.helpers.decoding import VOCAB, NullDetokenizer
from vllm_mlx.batching.logits.constraint import Constraint, Grammars
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.text.thinking import Thinking
from vllm_mlx.sampling_params import SamplingParams

ALPHABET = '{}[]":,.-0123456789abcdefghijklmnopqrstuvwxyz \n'
END = VOCAB - 1


class _Vocabulary(SimpleNamespace):
    def __call__(self, text: Any) -> list[int]:
        return [ALPHABET.index(char) for char in (text if isinstance(text, str) else text.decode())]


@cache
def grammars() -> Grammars:
    tokens = [ALPHABET[at].encode() if at < len(ALPHABET) else b"" for at in range(VOCAB)]
    vocabulary = _Vocabulary(
        eos_token_id=END, bos_token_id=None, tokens=tokens, special_token_ids=[END]
    )
    return Grammars(LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=VOCAB))


def constrained(
    name: str,
    prompt: Seq[int],
    max_tokens: int,
    new_thinking: Callable[[], Thinking | None] = lambda: None,
    **params: Any,
) -> Sequence:
    """A row held to the `structured_outputs` among its parameters."""
    params = {"temperature": 0.0, **params}
    request = Request("", SamplingParams.of(max_tokens=max_tokens, **params), name)
    outputs = request.params.structured_outputs
    assert outputs
    row = Sequence(
        request,
        list(prompt),
        max_tokens=max_tokens,
        model="tiny",
        new_detokenizer=NullDetokenizer,
        new_constraint=lambda: Constraint(grammars(), outputs, new_thinking()),
    )
    row.end_at({END})
    return row


def said(row: Sequence) -> str:
    return "".join(ALPHABET[token : token + 1] for token in row.output_tokens)
