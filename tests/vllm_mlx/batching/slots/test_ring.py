"""Where tokens lie in the ring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.batching.slots.ring import SlotRing, columns_for, width_for


def columns(spans: list[tuple[int, int]]) -> list[int]:
    return [column for start, stop in spans for column in range(start, stop)]


@given(step=st.integers(0, 100), size=st.integers(1, 20), data=st.data())
def test_a_row_owns_the_columns_behind_the_present_one(step, size, data):
    ring = SlotRing(1, size)
    ring.step = step
    length = data.draw(st.integers(0, size - 1))
    expected = [(step - length + i) % size for i in range(length)]
    assert columns(ring.spans(length)) == expected
    ring.occupy(0, length)
    seen = [c for c, sees in enumerate(ring.mask[0, 0, 0].tolist()) if sees]
    assert sorted([*expected, ring.column]) == seen
    assert [value == 0 for value in ring.added_mask[0, 0, 0].tolist()] == [
        column in seen for column in range(size)
    ]


@given(step=st.integers(0, 60), old=st.integers(2, 20), new=st.integers(2, 20), data=st.data())
def test_what_a_row_holds_moves_with_it(step, old, new, data):
    ring = SlotRing(2, old)
    ring.step = step
    lengths = [data.draw(st.integers(0, min(old, new) - 1)) for _ in range(2)]
    for slot, length in enumerate(lengths):
        ring.occupy(slot, length)
    wider = ring.resized({}, 2, new)
    moved = {}
    for start, to, count in ring.pieces(wider):
        assert start + count <= old
        assert to + count <= new
        moved.update({start + i: to + i for i in range(count)})
    assert wider.lengths == lengths
    for length in lengths:
        was, now = columns(ring.spans(length)), columns(wider.spans(length))
        assert [moved[column] for column in was] == now


def test_rows_joined_at_once_go_where_they_would_go_alone():
    ring = SlotRing(3, 8)
    ring.step = 11
    for row, length in zip(ring.columns_behind([5, 2], 5).tolist(), (5, 2), strict=True):
        assert row[:length] == columns(ring.spans(length))
        assert len(set(row)) == 5  # padding overwrites nothing of the row's own


def test_a_free_slot_sees_one_column():
    ring = SlotRing(3, 8)
    assert ring.mask.sum(axis=-1).flatten().tolist() == [1, 1, 1]


def test_only_occupied_slots_grow():
    ring = SlotRing(3, 8)
    ring.occupy(1, 4)
    ring.advance([1])
    assert ring.lengths == [0, 5, 0]
    assert ring.offsets.tolist() == [0, 5, 0]
    ring.occupy(1, 0)
    assert ring.lengths == [0, 0, 0]


@pytest.mark.parametrize("most", [1, 5, 32, 256])
def test_widths_are_few_and_wide_enough(most):
    widths = {width_for(count, most) for count in range(1, most + 1)}
    assert all(count <= width_for(count, most) <= most for count in range(1, most + 1))
    assert len(widths) <= 17


def test_widths_follow_the_tiles_of_a_gpu():
    widths = [width_for(count, 64, 32) for count in range(1, 65)]
    assert widths[:8] == [width_for(count, 64) for count in range(1, 9)]
    assert widths[8:] == [16] * 8 + [32] * 16 + [64] * 32
    assert [width_for(count, 300, 32) for count in (65, 97, 129, 290)] == [96, 128, 160, 300]
    assert width_for(33, 40, 32) == 40


def test_columns_come_in_steps():
    assert [columns_for(n) for n in (1, 256, 257, 1000)] == [256, 256, 512, 1024]
