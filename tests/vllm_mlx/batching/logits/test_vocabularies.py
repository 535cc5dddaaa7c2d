"""Grammars are as wide as the model's logits, end with its end tokens, and know text as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llguidance.hf import from_tokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.helpers.tokenizers import FAMILIES
from vllm_mlx.batching.logits.constraint import Constraint, Grammars, Mask, new_grammars
from vllm_mlx.batching.logits.vocabulary import Vocabulary
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.structured_outputs import StructuredOutputs

SPARE = 77  # rows of a padded embedding, which stand for no token
ENDS = {0, 2, 17}
OUTPUTS = StructuredOutputs.of({"regex": "ab?"})


@pytest.fixture(scope="module")
def made(language_model: MLXLanguageModel) -> Grammars:
    inner = language_model.tokenizer._tokenizer
    return new_grammars(TokenizerWrapper(inner, eos_token_ids=ENDS), len(inner) + SPARE, "m")


def allowed(grammars: Grammars, said: list[int]) -> set[int]:
    matcher = grammars.matcher(OUTPUTS)
    assert matcher.consume_tokens(said)
    return set(next_of(grammars, matcher))


def next_of(grammars: Grammars, matcher: Any) -> list[int]:
    mask: Mask = grammars.new_mask(1)
    grammars.fill([(matcher, 0)], mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    found: list[int] = np.flatnonzero(bits).tolist()
    return found


def answer(grammars: Grammars, outputs: Any) -> list[int]:
    """Return an answer that a model gives who always takes the first token that it may."""
    constraint = Constraint(grammars, StructuredOutputs.of(outputs))
    said: list[int] = []
    while not constraint.is_whole:
        assert constraint.matcher
        assert len(said) < 60
        said.append(next_of(grammars, constraint.matcher)[0])
        constraint.take(len(said) - 1, said[-1])
        constraint.require()
    return said


def test_no_token_that_a_padded_model_has_besides(
    made: Grammars, language_model: MLXLanguageModel
) -> None:
    tokens = len(language_model.tokenizer)
    assert made.new_mask(1).shape == (1, -(-(tokens + SPARE) // 32))
    for said in ([], language_model.tokenizer.encode("a", add_special_tokens=False)):
        assert allowed(made, said)
        assert max(allowed(made, said)) < tokens


def test_every_end_token_ends_and_none_does_before(
    made: Grammars, language_model: MLXLanguageModel
) -> None:
    said = language_model.tokenizer.encode("a", add_special_tokens=False)
    assert not allowed(made, []) & ENDS
    assert allowed(made, said) & set(range(18)) == ENDS


WORD = "<|im_end|>"
END = "</s>"


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"choice": [f"a{WORD}", f"b{WORD}"]}, f"a{WORD}"),
        ({"regex": r"a<\|im_end\|>b"}, f"a{WORD}b"),
        ({"json": {"enum": [WORD]}}, f'"{WORD}"'),
        (
            {"json": {"type": "object", "properties": {WORD: {"const": 1}}, "required": [WORD]}},
            f'{{"{WORD}":1}}',
        ),
        ({"grammar": f'start: "a{WORD}"'}, f"a{WORD}"),
        ({"grammar": "start: /<\\|im_end\\|>/"}, WORD),
        ({"grammar": f'root ::= "{WORD}b"'}, f"{WORD}b"),
    ],
)
def test_what_reads_like_a_control_token_is_text(
    made: Grammars, language_model: MLXLanguageModel, outputs: Any, text: str
) -> None:
    tokenizer = language_model.tokenizer
    said = answer(made, outputs)
    assert not set(tokenizer.all_special_ids) & set(said)
    assert "".join(tokenizer.decode(said).split()) == text


def test_a_grammar_may_name_a_control_token(made: Grammars) -> None:
    lark = 'start: "<|im_start|>" <|im_start|> "b" // <|im_start|> "'
    said = answer(made, {"grammar": lark})
    assert said.count(1) == 1
    assert len(said) > 3


def merged() -> Tokenizer:
    """Return one with a rule that makes a control token of its letters, as some have."""
    vocab = {word: at for at, word in enumerate(["<", "/", "s", ">", "a", "n", "</", "</s", END])}
    made = Tokenizer(models.BPE(vocab, [("<", "/"), ("</", "s"), ("</s", ">")]))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return made


def unigram() -> Tokenizer:
    pieces = ["<unk>", END, "<", "/", "s", ">", "a", "n", "an"]
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0, False))
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return made


@pytest.mark.parametrize("make", [*FAMILIES.values(), merged, unigram])
def test_every_family_writes_control_tokens_as_text(make: Callable[[], Tokenizer]) -> None:
    backend = make()
    backend.add_special_tokens([AddedToken(END, normalized=False)])
    backend.add_tokens([AddedToken("<|a|>", normalized=False)])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)
    end, other = fast.convert_tokens_to_ids([END, "<|a|>"])
    vocabulary = Vocabulary.of(TokenizerWrapper(fast, eos_token_ids={end}), len(fast))
    theirs = from_tokenizer(fast)
    for text in ("an", "aan", "n</an"):
        assert vocabulary.tokens.tokenize_str(text) == theirs.tokenize_str(text)
    grammars = Grammars(vocabulary.tokens, vocabulary.numbered)
    said = answer(grammars, {"choice": [f"a{END}n"]})
    assert end not in said
    assert fast.decode(said).replace(" ", "") == f"a{END}n"
    assert answer(grammars, {"grammar": 'start: "a" <|a|> "a"'})[1] == other
