"""The hub that models come from, and those of its models that this machine has."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from jobs.wording import counted
from worker.doctor.finding import Finding

PATIENCE = 5.0
"""Seconds in which the hub is to answer, its name resolved."""
_REFUSED = (403, 407)  # by a proxy on the way


def examine_hub() -> Iterator[Finding]:
    """Look at the cache of models, and ask the hub unless this machine is to be offline."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        found = f"no hub's client here ({error})"
        yield Finding.of("model cache", found, "see the line about packages", fails=False)
        return
    yield _cache(Path(constants.HF_HUB_CACHE))
    yield _hub(constants.ENDPOINT, is_offline=constants.HF_HUB_OFFLINE)


def _cache(folder: Path) -> Finding:
    models = list(folder.glob("models--*")) if folder.is_dir() else []
    found = f"{counted(len(models), 'model')} of the hub in {folder}"
    above = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if os.access(above, os.W_OK):
        return Finding.ok("model cache", found)
    advice = "set HF_HOME to a folder that you may write to, or no model can be downloaded"
    return Finding.of("model cache", found, advice, fails=False)


def _hub(endpoint: str, *, is_offline: bool) -> Finding:
    name = "model hub"
    if is_offline:
        found = "not asked (HF_HUB_OFFLINE): models come from the cache, folders and packages"
        return Finding.ok(name, found)
    if not (trouble := _trouble(endpoint)):
        return Finding.ok(name, f"{endpoint} answers")
    advice = (
        "only models of the cache, of folders and of packages can be loaded: mend the network "
        "(HTTPS_PROXY, HF_ENDPOINT), or set HF_HUB_OFFLINE=1 to have nothing wait for it"
    )
    return Finding.of(name, f"{endpoint}: {trouble}", advice, fails=False)


def _trouble(endpoint: str) -> str:
    """Return why the hub can't be asked; nothing if it answers."""
    said: list[str] = []

    def ask() -> None:
        try:
            from huggingface_hub import get_session

            code = get_session().head(endpoint, timeout=PATIENCE).status_code
            said.append(f"HTTP {code}" if code in _REFUSED or code >= 500 else "")
        except Exception as error:  # of whatever library the client speaks with
            said.append(f"{type(error).__name__}: {error}")

    # Names are resolved for as long as the system likes.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return said[0] if said else f"no answer within {PATIENCE:.0f} s"
