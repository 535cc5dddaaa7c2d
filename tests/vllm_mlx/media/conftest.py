from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vllm_mlx.media.web import Web


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
