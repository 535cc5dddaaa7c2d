"""MLX, its device, its BLAS and our kernels, looked at in a process that may die.

`python -m worker.doctor.computing` writes a finding a line, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from worker.doctor.finding import Finding
from worker.doctor.packages import backend_extra

SIZE = 1024
"""Of the matrices of which a product is timed."""
SLOW = 4e9
"""Operations per second of a float32 product below which a CPU has no fast BLAS."""
PATIENCE = 120.0
"""Seconds for all of it; on a GPU kernels are compiled."""


def examine_computing() -> Iterator[Finding]:
    """Look at what computes, in a process of its own: a broken MLX ends the one that imports it."""
    command = [sys.executable, "-P", "-m", "worker.doctor.computing"]
    try:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired:
        advice = "see whether another program keeps it busy, and update its driver"
        found = f"MLX has not answered within {PATIENCE:.0f} s"
        yield Finding.of("mlx", found, advice, fails=True)
        return
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError, TypeError):  # what a library prints
            yield Finding(**json.loads(line))
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        found = f"its process ended with code {done.returncode}: {last}"
        advice = f"pip install --force-reinstall 'mlx-batch[{backend_extra()}]'"
        yield Finding.of("mlx", found, advice, fails=True)


def _examine() -> Iterator[Finding]:
    try:
        import mlx.core as mx

        from vllm_mlx import platform
    except ImportError as error:
        advice = f"pip install 'mlx-batch[{backend_extra()}]': see docs/install.md"
        yield Finding.of("mlx", f"can't be imported: {error}", advice, fails=True)
        return
    backend = platform.backend()
    info = mx.device_info()
    device = info.get("device_name") or info.get("architecture") or "no GPU"
    yield Finding.ok("mlx", f"{metadata.version('mlx')}, computes on {backend} ({device})")
    platform.prepare()
    yield _products(backend)
    yield from _kernels()


def _products(backend: str) -> Finding:
    """Say how fast matrices are multiplied, and by what on a CPU."""
    import mlx.core as mx

    from vllm_mlx.platform.blas import use_openblas

    a = mx.random.normal((SIZE, SIZE))
    mx.eval(a, a @ a)
    started = time.perf_counter()
    mx.eval(a @ a)
    rate = 2 * SIZE**3 / (time.perf_counter() - started)
    library = use_openblas() if backend == "cpu" else None
    speed = f"{rate / 1e9:,.0f} GFLOP/s of float32"
    if backend != "cpu":
        return Finding.ok("products", speed)
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "all")
    found = f"{library or 'what MLX was built with'}, threads: {threads}, {speed}"
    if library is None and sys.platform == "linux" and rate < SLOW:
        advice = "pip install scipy-openblas32, without MLX_BATCH_BLAS=0: 20 times faster and more"
        return Finding.of("blas", found, advice, fails=False)
    return Finding.ok("blas", found)


def _kernels() -> Iterator[Finding]:
    from worker.doctor.kernels import compare_kernels

    found = list(compare_kernels())
    for each in found:
        if not each.is_right:
            text = f"{each.name} is off by {each.gap:.2g} (at most {each.tolerance:g})"
            advice = "update the driver and MLX; if it stays so, report it as a bug with this line"
            yield Finding.of("kernels", text, advice, fails=True)
    right = [each for each in found if each.is_right]
    worst = max((each.gap for each in right), default=0.0)
    names = dict.fromkeys(each.name.partition(" (")[0] for each in right)
    yield Finding.ok("kernels", f"as the plain forms to {worst:.1g}: {', '.join(names)}")


if __name__ == "__main__":
    for finding in _examine():
        print(json.dumps(finding.as_dict()), flush=True)
