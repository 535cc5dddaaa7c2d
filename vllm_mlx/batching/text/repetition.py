"""`repeats`: whether a text repeats itself without end."""

from __future__ import annotations

MIN_REPEATED = 64
"""Tokens that the repeated tail must have in all."""
MIN_CYCLES = 4
"""Times that the cycle must stand there."""
MAX_CYCLE = 64
"""The longest cycle that is looked for."""
CHECK_EVERY = 16
"""Tokens between two looks."""


def repeats(tokens: list[int]) -> bool:
    """Whether the tail is one cycle of 1 to 64 tokens, standing there at least four times and over
    at least 64 tokens.

    Looked for after every 16th token only, so it costs nothing that could be measured.
    """
    if len(tokens) < MIN_REPEATED or len(tokens) % CHECK_EVERY:
        return False
    tail = tokens[-MAX_CYCLE * MIN_CYCLES :]
    longest = min(MAX_CYCLE, len(tail) // MIN_CYCLES)
    return any(_is_cycle(tail, cycle) for cycle in range(1, longest + 1))


def _is_cycle(tokens: list[int], cycle: int) -> bool:
    length = max(MIN_REPEATED, cycle * MIN_CYCLES)
    return tokens[-1] == tokens[-1 - cycle] and tokens[-length:-cycle] == tokens[-length + cycle :]
