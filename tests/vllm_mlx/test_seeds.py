"""Seeds differ where texts should, and are the same for the same work."""

from __future__ import annotations

from vllm_mlx.seeds import row_seed, sample_seed


def test_the_first_sample_has_the_seed_that_was_given() -> None:
    assert sample_seed(7, 0) == 7


def test_every_sample_of_every_row_has_a_seed_of_its_own() -> None:
    seeds = {sample_seed(row_seed("run-1", row), n) for row in range(100) for n in range(100)}
    seeds |= {sample_seed(row_seed("run-2", 0), n) for n in range(100)}
    assert len(seeds) == 100 * 100 + 100
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_stay_what_they_are() -> None:
    """Else a shard done again gives other texts than the rest of its run."""
    assert row_seed("run-1", 3) == 7959355266049840753
    assert sample_seed(7, 1) == 5340892380071521105
