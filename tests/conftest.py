"""What all tests share: the real model, and a real Redis server per test session."""

from __future__ import annotations

import os

# Two threads on two busy cores are many times slower than one each.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from collections.abc import Iterator

import pytest

MODEL = "smollm2-135m"


@pytest.fixture(scope="session")
def language_model() -> Iterator[object]:
    from vllm_mlx.models import MLXLanguageModel

    with MLXLanguageModel(MODEL) as model:
        yield model
