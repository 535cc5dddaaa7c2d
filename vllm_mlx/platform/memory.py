"""How much memory there is to compute in, and what share of it is for what."""

from __future__ import annotations

import os
from typing import Any

import mlx.core as mx

from vllm_mlx.errors import ModelLoadError
from vllm_mlx.platform.device import backend

LEAST_LEFT = 10
"""One part in so many of the memory must be left when a model's weights are there."""
CACHE_SHARE = 8
"""One part in so many of what is left is for freed memory that MLX keeps."""


def wire() -> None:
    """Have macOS keep resident what MLX holds, as mlx-lm does; call it before a model is loaded.

    Weights that are not wired are paged out between steps when something else wants memory.
    """
    if backend() == "metal":
        mx.set_wired_limit(_total())


def require_room(weights: int) -> None:
    """Refuse weights of so many bytes if they leave no room for anything else.

    Raises:
        ModelLoadError: with the numbers.
    """
    held, total = mx.get_active_memory(), _total()
    if weights + held <= total - total // LEAST_LEFT:
        return
    beside = f" beside {held:,} that are held already" if held else ""
    raise ModelLoadError(
        f"the model's weights take {weights:,} bytes{beside}, and of the {total:,} that may be "
        f"used here one part in {LEAST_LEFT} is for the rest: take a smaller model, or fewer bits"
        + _more_memory()
    )


def left() -> int:
    """Bytes of memory that MLX may use here beside what it holds already."""
    total = _total()
    return max(total // (2 * LEAST_LEFT), total - mx.get_active_memory())


def cache_limit() -> int:
    """Bytes of freed memory that MLX keeps for reuse.

    By itself it keeps 32 MiB on a CPU, where a larger temporary costs its page faults anew each
    time, which makes attention over a few thousand tokens three times slower; and on a GPU all
    that it ever had, so that what a resize frees is missing elsewhere.
    """
    return 256 << 20 if backend() == "cpu" else max(1 << 30, left() // CACHE_SHARE)


def media_bytes() -> int:
    """Most of prepared images and videos that are held for prompts to come."""
    return min(4 << 30, _memory() // 8)


def _total() -> int:
    """Bytes that MLX may use here, those that it holds among them."""
    if backend() == "cpu":
        return _memory()
    info: dict[str, Any] = mx.device_info()
    # Metal recommends a working set; CUDA says what no process has taken.
    if "max_recommended_working_set_size" in info:
        return int(info["max_recommended_working_set_size"])
    return int(info["free_memory"]) + mx.get_cache_memory() + mx.get_active_memory()


def _memory() -> int:
    if backend() == "metal":
        return int(mx.device_info()["memory_size"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _more_memory() -> str:
    if backend() != "metal":
        return ""
    return f". macOS has {_memory():,} and lends more with `sudo sysctl iogpu.wired_limit_mb=...`"
