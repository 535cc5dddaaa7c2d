"""`Fastest` takes the form that is fastest and right."""

from __future__ import annotations

import time

import mlx.core as mx
import pytest

from tests.helpers.metal import OUT_OF_MEMORY
from vllm_mlx.platform.fastest import Fastest


def slow(x):
    time.sleep(0.01)
    return x + 1


def fast(x):
    return 1 + x


def wrong(x):
    return x + 2


def of_another_shape(x):
    return x[:1] + 1


def failing(x):
    raise RuntimeError("no kernel for this card")


def not_a_number(x):
    return x * mx.nan


def make(**forms):
    return Fastest("sum", forms, kind=lambda x: x.shape, sample=lambda x: (x,))


def chosen(fastest, x):
    fastest(x)
    return fastest._chosen[x.shape]


@pytest.mark.parametrize("other", [wrong, failing, of_another_shape, not_a_number])
def test_takes_the_fastest_that_is_right(other):
    assert chosen(make(slow=slow, fast=fast, other=other), mx.arange(3.0)) is fast


def test_stays_with_the_first_if_no_other_is_right():
    assert chosen(make(slow=slow, wrong=wrong), mx.arange(3.0)) is slow


def test_what_a_gpu_has_kept_of_before_is_not_the_fault_of_a_form():
    def raise_late(x):
        raise RuntimeError(OUT_OF_MEMORY)

    with pytest.raises(RuntimeError, match="Insufficient Memory"):
        make(slow=slow, late=raise_late)(mx.array([1, 2]))


def test_tries_once_for_each_kind():
    calls = []

    def counted(x):
        calls.append(x.shape)
        return x + 1

    fastest = make(counted=counted)
    assert fastest(mx.arange(3.0)).tolist() == [1, 2, 3]
    tried = len(calls)
    fastest(mx.arange(3.0))
    assert len(calls) == tried + 1
    fastest(mx.arange(4.0))
    assert set(calls[tried + 1 :]) == {(4,)}


def test_chooses_later_what_is_traced_at_first():
    fastest = make(slow=slow, fast=fast)
    assert mx.compile(fastest)(mx.arange(3.0)).tolist() == [1, 2, 3]
    assert not fastest._chosen
    assert chosen(fastest, mx.arange(3.0)) is fast
