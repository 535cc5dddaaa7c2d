"""Clips that several tests read, and servers that they fetch from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from tests.helpers.clips import make_clip
from tests.helpers.kinds import COUNT, FPS, KINDS, Make
from tests.helpers.web import Web


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The clip of a name in `KINDS`, made once."""
    folder = tmp_path_factory.mktemp("clips")

    def made(name: str) -> Path:
        path = folder / name
        if not path.exists():
            codec = KINDS[name].get("codec", "libx264")
            if codec not in av.codecs_available:
                pytest.skip(f"PyAV's FFmpeg was built without the encoder {codec}")
            make_clip(path, **{"frames": COUNT, "fps": FPS, **KINDS[name]})
        return path

    return made


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


@pytest.fixture
def encrypted_web() -> Iterator[Web]:
    server = Web(encrypted=True)
    yield server
    server.close()
