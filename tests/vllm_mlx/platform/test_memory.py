"""How memory is divided, on a machine that says it is a Mac; nothing here ran on one."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import mlx.core as mx
import pytest

from tests.helpers.decoding import new_scheduler, sequence, step, tiny_llama
from tests.helpers.metal import M4_MAX, Mac
from vllm_mlx import platform
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.model_files import local_path
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.models.loading import load_model
from vllm_mlx.platform import memory
from vllm_mlx.scheduler_config import SchedulerConfig

GiB = 1 << 30
WORKING_SET = M4_MAX["max_recommended_working_set_size"]


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Mac:
    monkeypatch.setattr(mx, "get_active_memory", lambda: 6 * GiB)
    return Mac(monkeypatch)


@pytest.mark.usefixtures("mac")
def test_half_of_what_is_left_is_for_keys_and_values() -> None:
    assert platform.backend() == "metal"
    assert platform.resolve(SchedulerConfig()).kv_cache_bytes == (WORKING_SET - 6 * GiB) // 2
    assert platform.cache_limit() == (WORKING_SET - 6 * GiB) // 8
    assert platform.media_bytes() == 4 * GiB


def test_freed_memory_is_kept_within_bounds(mac: Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    mac.info["max_recommended_working_set_size"] = 12 * GiB  # an eighth of what is left: 0.75 GiB
    limits: list[int] = []
    monkeypatch.setattr(mx, "set_cache_limit", limits.append)
    made = SimpleNamespace()

    class Own:
        def new_runner(self, **_: object) -> object:
            return made

    assert make_runner(Own(), vocab_size=8) is made
    assert limits == [GiB]


def test_a_ring_that_is_resized_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = new_scheduler(tiny_llama(), max_num_seqs=8)
    sizes, cleared = [(1, 256)], []

    def clear() -> None:
        cleared.append(runner._rings.slots)
        forget()

    runner, forget = scheduler._runner, mx.clear_cache
    assert isinstance(runner, SlotRunner)
    monkeypatch.setattr(mx, "clear_cache", clear)
    for i in range(8):
        scheduler.add(sequence(str(i), [3, 5, i], 4 + 5 * i))
    while scheduler.has_unfinished:
        step(scheduler)
        if (size := (runner._rings.slots, runner._rings.columns)) != sizes[-1]:
            sizes.append(size)

    assert len(sizes) > 3
    assert cleared == [slots for slots, _ in sizes[1:]]


def test_the_weights_are_wired_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, text_folder: str
) -> None:
    mac = Mac(monkeypatch)
    wired_at_load = []

    class StopError(Exception):
        pass

    def load(*_: object, **__: object) -> None:
        wired_at_load.append(list(mac.wired))
        raise StopError

    monkeypatch.setattr("mlx_lm.utils.load", load)
    with pytest.raises(ModelLoadError), MLXLanguageModel(text_folder):
        pass
    assert wired_at_load == [[WORKING_SET]]


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_weights_that_leave_no_room_are_refused_with_their_numbers(
    monkeypatch: pytest.MonkeyPatch, text_folder: str, kind: str
) -> None:
    """Before they take any memory."""
    path = local_path(text_folder if kind == "folder" else "smollm2-135m")
    assert path is not None
    file = path / "model.safetensors" if kind == "folder" else path
    monkeypatch.setattr(memory, "_memory", lambda: file.stat().st_size)
    mx.synchronize()
    held = mx.get_active_memory()

    with pytest.raises(ModelLoadError, match="one part in 10 is for the rest") as caught:
        load_model(str(path))

    assert mx.get_active_memory() <= held + 1000
    assert f" {file.stat().st_size:,} that may be used here" in str(caught.value)
    assert "iogpu" not in str(caught.value)


def test_on_a_mac_the_refusal_says_what_lends_more(mac: Mac) -> None:
    with pytest.raises(ModelLoadError) as caught:
        platform.require_room(40 * GiB)

    said = str(caught.value)
    for number in (40 * GiB, 6 * GiB, WORKING_SET, M4_MAX["memory_size"]):
        assert f"{number:,}" in said
    assert "iogpu.wired_limit_mb" in said
    platform.require_room(26 * GiB)


@pytest.mark.parametrize(("given", "expected"), [(None, "2000"), ("77", "77")])
def test_metal_is_handed_many_operations_at_once(given: str | None, expected: str) -> None:
    code = "import sys; sys.platform = 'darwin'; import vllm_mlx, os; print(os.environ[%r])"
    name = "MLX_MAX_OPS_PER_BUFFER"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {} if given is None else {name: given}
    done = subprocess.run(
        [sys.executable, "-c", code % name], env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"{expected}\n", done.stderr
