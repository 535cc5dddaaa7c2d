from __future__ import annotations

import numpy as np
import pytest

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams


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
        ({"presence_penalty": 2.5}, ["presence_penalty=2.5", "2"]),
        ({"frequency_penalty": -3}, ["frequency_penalty=-3", "-2"]),
        ({"logit_bias": {"word": 1}}, ["logit_bias.word", "integer"]),
        ({"logit_bias": {5: 101}}, ["logit_bias[5]=101", "100"]),
        ({"logit_bias": {-5: 1}}, ["logit_bias[-5]"]),
        ({"logit_bias": [5]}, ["logit_bias=[5]"]),
        ({"stop_token_ids": ["x"]}, ["stop_token_ids", "'x'"]),
        ({"stop_token_ids": -1}, ["stop_token_ids", "-1"]),
        ({"min_tokens": -1}, ["min_tokens=-1"]),
        ({"min_tokens": 9, "max_tokens": 8}, ["min_tokens=9", "max_tokens=8"]),
        ({"ignore_eos": 1}, ["ignore_eos=1"]),
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


def test_tokens_are_named_as_json_and_python_name_them():
    given = SamplingParams.of(logit_bias={"5": -100, 6: 1.5}, stop_token_ids=7)
    assert given == SamplingParams.of(logit_bias={5: -100.0, 6: 1.5}, stop_token_ids=[7.0])
    for params in (given, SamplingParams.of()):
        assert SamplingParams.model_validate_json(params.model_dump_json()) == params


def test_tokens_that_a_model_has_not_are_named():
    params = SamplingParams.of(logit_bias={5: 1}, stop_token_ids=[9])
    assert params.within(10) is params
    for size, says in ((9, "stop_token_ids: 9 "), (5, "logit_bias: 5 .* 0 to 4")):
        with pytest.raises(InvalidRequestError, match=says):
            params.within(size)


def test_bounds_themselves_are_allowed():
    for options in ({"temperature": 0}, {"temperature": 2}, {"top_p": 1}, {"max_tokens": 1}):
        SamplingParams.of(**options)


def test_arrays_of_numpy_are_lists_of_python():
    for tokens in ([np.int64(4), 3], {np.int64(3), 4}, (np.float32(3), 4), np.array([3, 4])):
        found = SamplingParams.of(stop_token_ids=tokens).stop_token_ids
        assert sorted(found) == [3, 4]
        assert {type(each) for each in found} == {int}
    for stop in (np.array(["a", "b"]), [np.str_("a"), "b"]):
        assert SamplingParams.of(stop=stop) == SamplingParams.of(stop=["a", "b"])
    biased = SamplingParams.of(logit_bias={np.int64(3): np.float32(0.5)})
    assert biased == SamplingParams.of(logit_bias={3: 0.5})
    for wrong in ([np.bool_(True)], np.array([2.5]), np.array([[3]])):
        with pytest.raises(InvalidRequestError, match=r"stop_token_ids\[0\]=.* valid integer"):
            SamplingParams.of(stop_token_ids=wrong)


@pytest.mark.parametrize("n", ["2", 2.5, True, None])
def test_a_number_of_samples_is_an_integer(n):
    with pytest.raises(InvalidRequestError, match=f"n={n!r}: should be an integer, not"):
        SamplingParams.of().for_samples(n)


def test_scalars_of_numpy_are_those_of_python():
    params = SamplingParams.of(
        max_tokens=np.int64(5), temperature=np.float32(0.5), stop_on_repetition=np.bool_(True)
    )
    assert params == SamplingParams.of(max_tokens=5, temperature=0.5, stop_on_repetition=True)
    assert type(params.max_tokens) is int
    assert len(params.for_samples(np.int32(3))) == 3
    config = SchedulerConfig.of(max_num_seqs=np.int64(4), kv_cache_bytes=np.int64(1 << 30))
    assert config == SchedulerConfig.of(max_num_seqs=4, kv_cache_bytes="1GiB")
    for wrong in (
        {"max_tokens": np.float64(5.5)},
        {"max_tokens": np.array([5])},
        {"seed": np.bool_(1)},
    ):
        with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
            SamplingParams.of(**wrong)


def test_a_float_that_is_whole_is_an_integer():
    given = SamplingParams.of(max_tokens=8.0, seed=1e3, top_k=np.float32(3), logprobs=2.0)
    assert given == SamplingParams.of(max_tokens=8, seed=1000, top_k=3, logprobs=2)
    assert type(given.seed) is int
    assert len(given.for_samples(3.0)) == 3
    assert VideoParams.of(video_max_frames=4.0) == VideoParams.of(video_max_frames=4)
    assert SchedulerConfig.of(max_num_seqs=4.0) == SchedulerConfig.of(max_num_seqs=4)
    for wrong in ({"seed": 1.5}, {"seed": float("inf")}, {"seed": float("nan")}, {"top_k": True}):
        with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
            SamplingParams.of(**wrong)


def test_none_is_the_default():
    assert SamplingParams.of(**dict.fromkeys(SamplingParams.model_fields)) == SamplingParams.of()
    assert VideoParams.of(video_fps=None, video_max_frames=None) == VideoParams.of()


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
def test_stop_strings_come_in_any_collection(kind):
    assert set(SamplingParams.of(stop=kind(["END", "\n"])).stop) == {"END", "\n"}
