"""Sizes on the command line and on the screen."""

from __future__ import annotations

import click
import pytest

from worker.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("1", 1),
        ("8000000000", 8 * 10**9),
        (str(2**62 + 1), 2**62 + 1),
        ("512B", 512),
        ("64k", 64_000),
        ("512MB", 512 * 10**6),
        ("8GB", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("8 gib", 8 * 2**30),
        ("1.5GB", 1_500_000_000),
        ("2Ti", 2 * 2**40),
    ],
)
def test_sizes_are_read(given: str, size: int) -> None:
    assert parse_bytes(given) == size


@pytest.mark.parametrize("given", ["", "GB", "8 gigabytes", "-8GB", "8EB", "0", "0.1", "1e9", "iB"])
def test_what_is_no_size_is_bad_usage(given: str) -> None:
    with pytest.raises(click.BadParameter, match=r"size|byte"):
        parse_bytes(given)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (1_250_000_000, "1.25 GB"),
        (123_456_789_000, "123 GB"),
        (5 * 10**15, "5e+03 TB"),
    ],
)
def test_sizes_are_shown_with_three_digits(size: int, said: str) -> None:
    assert format_bytes(size) == said
