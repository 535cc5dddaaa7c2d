"""Records cross pipes and Redis unchanged, whatever a model put into them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.json_record import JSONRecord
from vllm_mlx.outputs import GenerationOutput, MediaInfo, TokenLogprob


@dataclass(frozen=True, slots=True)
class Said(JSONRecord):
    output: GenerationOutput
    tries: int = 1


WHOLE = GenerationOutput(
    "two\nlines, é, 🙂 and \x00",
    7,
    2,
    "length",
    "some/model",
    seed=2**63 - 1,
    cached_tokens=3,
    latency_s=0.1 + 0.2,
    logprobs=(
        TokenLogprob(1, "\ufffd", -0.1, (TokenLogprob(2, "b", -2.5), TokenLogprob(3, "c", -3.0))),
        TokenLogprob(2, "b", -math.inf),
    ),
    media=(
        MediaInfo("image", "ab12", 64, 48),
        MediaInfo("video", "cd34", 1920, 1080, 2.5, (0.0, 0.5), truncated=True),
    ),
)


@pytest.mark.parametrize(
    "output",
    [
        WHOLE,
        GenerationOutput(""),
        GenerationOutput("", finish_reason="stop", logprobs=(), media=()),
        GenerationOutput.from_error(ValueError("bad"), "m"),
    ],
)
def test_what_comes_back_is_what_went_in(output: GenerationOutput) -> None:
    raw = Said(output).encode()

    assert Said.decode(raw) == Said(output)
    assert Said.decode(raw.decode()) == Said(output)
    assert b"\n" not in raw, "a line is a frame"
    assert b"tries" not in raw, "defaults go without saying"


def test_a_logprob_that_is_no_number_stays_so() -> None:
    output = GenerationOutput("x", logprobs=(TokenLogprob(1, "x", math.nan),))

    (back,) = Said.decode(Said(output).encode()).output.logprobs or ()

    assert math.isnan(back.logprob)


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    tokens = (TokenLogprob(1, "\udc00", 0), TokenLogprob(2, "b", -math.inf))
    halves = GenerationOutput("a\ud800b 🙂", error="\udfff", logprobs=tokens)

    back = Said.decode(Said(halves, 3).encode())

    assert (back.output.text, back.output.error, back.tries) == ("a\ufffdb 🙂", "\ufffd", 3)
    assert back.output.logprobs == (TokenLogprob(1, "\ufffd", 0.0), tokens[1])


def test_a_field_from_a_later_version_is_left_out() -> None:
    said = Said.decode('{"output": {"text": "x", "mood": "good"}, "loud": true}')

    assert said == Said(GenerationOutput("x"))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("", "EOF"),
        ("nothing", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        ("[]", "should be a dictionary or an instance|object"),
        ("{}", "output: Field required|Missing required"),
        ('{"output": {}}', "output.text: Field required|Missing required"),
        ('{"output": {"text": 3}}', "output.text: Input should be a valid string"),
        ('{"output": {"text": "", "prompt_tokens": "3"}}', "output.prompt_tokens: "),
        ('{"output": {"text": "", "finish_reason": "bored"}}', "output.finish_reason: "),
        ('{"output": {"text": 3, "model": 3}}', "and 1 more"),
        ('{"output": {"text": "", "logprobs":' + "[" * 100_000, "Invalid JSON"),
    ],
)
def test_anything_else_is_refused_with_a_reason(raw: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"no Said: .*({said})"):
        Said.decode(raw)


@given(st.binary() | st.text())
def test_no_bytes_do_more_than_be_refused(raw: bytes | str) -> None:
    with pytest.raises(ValueError, match="no Said"):
        Said.decode(raw)
