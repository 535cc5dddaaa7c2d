"""The machine itself: its system, processors, memory, disks and the models of packages."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vllm_mlx.errors import ModelLoadError
from vllm_mlx.model_files import ALIASES, local_path
from worker.doctor.finding import Finding

LITTLE_DISK = 1 << 30
"""Bytes of a disk under which parts and temporary files may not fit."""
LITTLE_MEMORY = 2 << 30
"""Bytes under which no useful model has room beside its key-value caches."""


def examine_machine(folder: Path) -> Iterator[Finding]:
    """Look at the machine, with the disk of `folder`, where datasets are to be written."""
    cores = f"{_cores()} of {os.cpu_count()} cores usable"
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Finding.ok("machine", f"{system}, {cores}, Python {platform.python_version()}")
    yield _memory()
    yield _disk("disk", folder)
    yield _disk("temporary files", Path(tempfile.gettempdir()))


def examine_models() -> Iterator[Finding]:
    """Look at the models that come in packages."""
    yield from map(_alias, ALIASES)


def size_of(nbytes: float) -> str:
    """Return a number of bytes as people read it: 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit in ("bytes", "kB") else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> Finding:
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    if sys.platform == "linux":
        free = page * os.sysconf("SC_AVPHYS_PAGES") + _reclaimable()
        found = f"{size_of(total)}, {size_of(free)} of them free"
    else:
        free, found = total, size_of(total)
    if free >= LITTLE_MEMORY:
        return Finding.ok("memory", found)
    advice = f"end other programs, until {size_of(LITTLE_MEMORY)} are free, or take a smaller model"
    return Finding.of("memory", found, advice, fails=False)


def _reclaimable() -> int:
    """Bytes that Linux keeps of files, and gives back when a program asks for memory."""
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(1024 * int(words[1]) for words in fields if words[0] == "Cached:")


def _disk(name: str, folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "run it in a folder that you may write to"
        return Finding.of(name, f"{folder}: {error.strerror or error}", advice, fails=True)
    found = f"{size_of(free)} free in {folder}"
    if free >= LITTLE_DISK:
        return Finding.ok(name, found)
    advice = f"make room there: a run that finds less than {size_of(LITTLE_DISK)} may not end"
    return Finding.of(name, found, advice, fails=False)


def _alias(alias: str) -> Finding:
    name = "demo model"
    try:
        path = local_path(alias)
    except ModelLoadError as error:
        return Finding.of(name, f"{alias} is not installed", str(error), fails=False)
    assert path is not None
    if path.exists():
        return Finding.ok(name, f"{alias}, {size_of(path.stat().st_size)}")
    advice = "install its package again"
    return Finding.of(name, f"{alias}: there is no {path}", advice, fails=False)
