"""`require_kv_cache`: a budget for key-value caches holds one row, before a run is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vllm_mlx.errors import KVCacheBudgetError
from vllm_mlx.model_files import cached_path, local_path


def require_kv_cache(model: str, kv_cache_bytes: int | None) -> None:
    """Look whether a model can answer one token within a budget that is given.

    Its configuration is asked, in a process of its own, as that takes MLX. A worker looks at the
    model itself; so where the configuration does not tell, nothing is refused here.

    Raises:
        KVCacheBudgetError: it can't.
        ModelLoadError: the name is that of no model.
    """
    if kv_cache_bytes is None or (path := local_path(model) or cached_path(model)) is None:
        return
    search = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "vllm_mlx.models.skeleton", str(path)],
        env={**os.environ, "PYTHONPATH": search},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    said = asked.stdout.strip()
    if asked.returncode or not said.isdigit() or (least := int(said)) <= kv_cache_bytes:
        return
    raise KVCacheBudgetError(
        f"kv_cache_bytes={kv_cache_bytes:,}: {model} needs {least:,} bytes of key-value cache for "
        "a row of a single token: raise it, or leave it away for half of the memory that is free"
    )
