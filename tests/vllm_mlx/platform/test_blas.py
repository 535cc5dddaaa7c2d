"""The fast BLAS for MLX on a Linux CPU: it is fast, right, can be turned off, and never crashes."""

from __future__ import annotations

import ctypes
import json
import logging
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import vllm_mlx
from vllm_mlx import platform
from vllm_mlx.platform import blas

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.backend() != "cpu", reason="needs MLX on a Linux CPU"
)

# MLX computes once before `prepare`, as it does in a process that imported MLX for itself.
_MEASURE = """
import json, time
import mlx.core as mx
a, b = mx.random.normal((512, 512)), mx.random.normal((512, 512))
mx.eval(a @ b)
from vllm_mlx import platform
platform.prepare()
best = float("inf")
for _ in range(5):
    start = time.perf_counter()
    mx.eval(a @ b)
    best = min(best, time.perf_counter() - start)
print(json.dumps({"library": platform.blas.use_openblas(), "gflops": 2 * 512**3 / best / 1e9}))
"""


def measure(**environment: str) -> dict[str, Any]:
    env = {
        **{key: value for key, value in os.environ.items() if key != "MLX_BATCH_BLAS"},
        "PYTHONPATH": str(Path(vllm_mlx.__file__).parents[1]),
        "OPENBLAS_NUM_THREADS": "1",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_float32_matmul_is_several_times_faster_than_with_the_switch_off() -> None:
    slow, fast = measure(MLX_BATCH_BLAS="0"), measure()
    assert slow["library"] is None
    assert "openblas" in fast["library"]
    assert fast["gflops"] >= 3 * slow["gflops"]


@pytest.mark.parametrize(
    ("kind", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12), (np.complex64, 1e-5)]
)
@pytest.mark.parametrize("shape", [(1, 64, 1), (7, 33, 130), (256, 512, 64)])
@pytest.mark.parametrize("transposed", [False, True])
def test_results_are_those_of_numpy_in_double_precision(
    kind: Any, tolerance: float, shape: tuple[int, int, int], transposed: bool
) -> None:
    platform.prepare()
    rows, inner, columns = shape
    random = np.random.default_rng(3)
    left = random.standard_normal((rows, inner)).astype(kind)
    right = random.standard_normal((columns, inner) if transposed else (inner, columns))
    right = right.astype(kind)
    wide = np.complex128 if kind is np.complex64 else np.float64
    second = (right.T if transposed else right).astype(wide)
    expected = left.astype(wide) @ second
    bound = np.abs(left).astype(np.float64) @ np.abs(second)

    mlx_type = {np.float32: mx.float32, np.float64: mx.float64, np.complex64: mx.complex64}[kind]
    with mx.stream(mx.cpu):
        a, b = mx.array(left, dtype=mlx_type), mx.array(right, dtype=mlx_type)
        product = np.array(a @ (b.T if transposed else b))

    assert (np.abs(product - expected) <= tolerance * bound).all()


def test_prepare_and_use_openblas_may_be_called_again() -> None:
    platform.prepare()
    platform.prepare()
    assert blas.use_openblas() == blas.use_openblas()
    assert platform.weight_dtype() == mx.float32


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLX_BATCH_BLAS", raising=False)
    blas._redirect.cache_clear()
    yield
    blas._redirect.cache_clear()


@pytest.mark.usefixtures("untried")
def test_without_openblas_one_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ctypes.CDLL

    def load(name: Any, *args: Any, **kwargs: Any) -> ctypes.CDLL:
        if name == "libopenblas.so.0":
            raise OSError("not found")
        return real(name, *args, **kwargs)

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(ctypes, "CDLL", load)

    with caplog.at_level(logging.WARNING):
        assert blas.use_openblas() is None
        assert blas.use_openblas() is None

    (record,) = caplog.records
    assert "pip install scipy-openblas32" in record.getMessage()


@pytest.mark.usefixtures("untried")
def test_an_unknown_machine_is_a_warning_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert blas.use_openblas() is None
    assert "riscv64" in caplog.text


def test_a_read_only_slot_is_written_and_closed_again() -> None:
    libc = ctypes.CDLL(None)
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ)

        blas._write(address + 16, 0x1234_5678_9ABC_DEF0)

        assert ctypes.c_uint64.from_address(address + 16).value == 0x1234_5678_9ABC_DEF0
        assert not blas._writable(address)
