"""The packages that a worker needs, and whether their versions are those we are tested with."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from worker.doctor.finding import Finding

PROJECT = "mlx-batch"
SHOWN = ("mlx", "mlx-lm", "mlx-vlm", "redis", "rq", "pyarrow", "pydantic", "llguidance", "av")
"""Those whose versions are told when nothing is wrong with them."""
CUDA = ("mlx-cuda-13", "mlx-cuda-12")
"""Packages that MLX comes in for an NVIDIA card."""


def examine_packages() -> Iterator[Finding]:
    """Compare what is installed with what our own wheel asks for on this machine."""
    try:
        asked = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        advice = "install its wheel: see docs/install.md"
        yield Finding.of("packages", f"{PROJECT} itself is not installed", advice, fails=True)
        return
    wrong = list(_wrong(asked))
    for found, requirement in wrong:
        wanted = f"{requirement.name}{_extras(requirement)}{requirement.specifier}"
        yield Finding.of("packages", found, f"pip install {shlex.quote(wanted)}", fails=True)
    if not wrong:
        versions = ((name, _version(name)) for name in (PROJECT, *SHOWN))
        yield Finding.ok("packages", ", ".join(f"{name} {v}" for name, v in versions if v))


def _wrong(asked: list[str]) -> Iterator[tuple[str, Requirement]]:
    extras = ("", "vision", backend_extra())
    for requirement in map(Requirement, asked):
        if not any(_applies(requirement, extra) for extra in extras):
            continue
        version = _version(requirement.name)
        if version is None:
            yield f"{requirement.name} is not installed", requirement
        elif not requirement.specifier.contains(version, prereleases=True):
            wanted = f"{requirement.name} {version} is here, and {requirement.specifier} is needed"
            yield wanted, requirement


def _applies(requirement: Requirement, extra: str) -> bool:
    if canonicalize_name(requirement.name) == PROJECT:  # one of our extras, which has its own lines
        return False
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def backend_extra() -> str:
    """Return the extra of our wheel that brings MLX for this machine."""
    if sys.platform == "darwin":
        return "metal"
    return "cuda13" if any(map(_version, CUDA)) else "cpu"


def _extras(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
