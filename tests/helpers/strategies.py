"""How the fuzz tests draw: bytes, JSON, and files of ours with some bytes changed.

`FUZZ_CASES` says how many cases there are in all; without it there are few, always the same ones.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from vllm_mlx.errors import MLXBatchError

F = TypeVar("F", bound=Callable[..., Any])

FEW = 1000
SECONDS = 5.0  # that no case may take
_CASES = int(os.environ.get("FUZZ_CASES", FEW))


def cases(share: float) -> Callable[[F], F]:
    """Run a test this share of all cases."""
    return settings(
        max_examples=max(1, round(share * _CASES)),
        deadline=timedelta(seconds=SECONDS),
        derandomize=_CASES == FEW,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def only(kind: type[MLXBatchError], says: str = "") -> Iterator[None]:
    """Let what is in it end with such an error, whose message begins like this, and in time."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not done within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except kind as error:
        if not str(error).startswith(says) or not str(error):
            raise AssertionError(f"unclear: {error}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [-1, 0, 1, 2**31, 2**63, 2**64, 1e308, "", "\0", "\ud800", "../..", "a" * 999]
    )
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, base: bytes) -> bytes:
    """`base` with some bytes replaced, put in, doubled or cut off."""
    data = bytearray(base)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        some = draw(st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 4, b"\0" * 4]))
        match draw(st.sampled_from(["replace", "replace", "insert", "cut", "double", "remove"])):
            case "replace":
                data[at : at + len(some)] = some
            case "insert":
                data[at:at] = some
            case "cut":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case "remove":
                del data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


def any_of(values: dict[str, Any], rest: st.SearchStrategy[Any] = JSON) -> st.SearchStrategy[Any]:
    """A JSON object with these fields, of which some are missing or hold anything else."""
    fields = {name: st.just(value) | st.just(value) | rest for name, value in values.items()}
    return st.fixed_dictionaries({}, optional=fields)
