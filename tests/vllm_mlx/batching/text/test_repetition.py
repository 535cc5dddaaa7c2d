from __future__ import annotations

import pytest

from vllm_mlx.batching.text.repetition import MAX_CYCLE, repeats


def padded(tail: list[int], length: int) -> list[int]:
    """`tail` at the end of so many tokens that repeat nothing."""
    return [*range(1000, 1000 + length - len(tail)), *tail]


@pytest.mark.parametrize("cycle", [1, 2, 7, 16, 30, MAX_CYCLE])
def test_a_cycle_is_found(cycle):
    tail = list(range(cycle)) * (4 * MAX_CYCLE // cycle + 1)
    assert repeats(padded(tail, 320))


@pytest.mark.parametrize(
    "tail",
    [
        [1] * 63,  # not yet 64 tokens
        list(range(40)) * 3,  # three times, not four
        [*([1, 2] * 60), 3],  # it has ended
        list(range(MAX_CYCLE + 1)) * 4,  # too long a cycle
    ],
)
def test_what_is_no_cycle_goes_on(tail):
    assert not repeats(padded(tail, 320))


def test_it_looks_every_sixteen_tokens_only():
    assert not repeats([1] * 65)
    assert not repeats([1] * 48)
    assert repeats([1] * 80)
