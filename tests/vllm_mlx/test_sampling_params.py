from __future__ import annotations

import pytest

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams


def test_defaults_are_the_documented_ones():
    params = SamplingParams.of()
    assert (params.max_tokens, params.temperature, params.top_p, params.stop) == (
        256,
        0.7,
        0.9,
        None,
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_tokens": 0}, ["max_tokens=0", "1"]),
        ({"max_tokens": -1}, ["max_tokens=-1", "1"]),
        ({"max_tokens": True}, ["max_tokens=True"]),
        ({"max_tokens": "5"}, ["max_tokens='5'"]),
        ({"temperature": -0.1}, ["temperature=-0.1", "0"]),
        ({"temperature": 2.1}, ["temperature=2.1", "2"]),
        ({"temperature": float("nan")}, ["temperature"]),
        ({"top_p": 0}, ["top_p=0"]),
        ({"top_p": 1.1}, ["top_p=1.1", "1"]),
        ({"top_k": -1}, ["top_k=-1"]),
        ({"top_k": 2**31}, ["top_k=2147483648"]),
        ({"min_p": 2}, ["min_p=2"]),
        ({"repetition_penalty": 0}, ["repetition_penalty=0"]),
        ({"stop": ""}, ["stop"]),
        ({"stop": ["a", 1]}, ["stop", "1"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"max_token": 5}, ["max_token", "unknown", "max_tokens"]),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(options, says):
    with pytest.raises(InvalidRequestError) as error:
        SamplingParams.of(**options)
    assert all(word in str(error.value) for word in says)


def test_one_stop_string_is_a_list_of_one():
    assert SamplingParams.of(stop="END").stop == ("END",)
    assert SamplingParams.of(stop=["END", "\n\n"]).stop == ("END", "\n\n")


def test_bounds_themselves_are_allowed():
    for options in ({"temperature": 0}, {"temperature": 2}, {"top_p": 1}, {"max_tokens": 1}):
        SamplingParams.of(**options)
