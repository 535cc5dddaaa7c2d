"""Models that are called alike are told apart, and one model is the same wherever it lies."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import model_identity
from jobs.model_identity import ModelIdentity, identify
from jobs.run_spec import queue_name
from vllm_mlx.errors import ModelLoadError

WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with what a model has, and with what none needs."""
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(bytes(3000))
    (folder / "README.md").write_text("nothing")
    (folder / "trainer_log.txt").write_text("nothing")
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_a_folder_has_its_last_part_and_a_hash(tiny: Path) -> None:
    identity = identify(str(tiny))

    assert re.fullmatch(r"tiny@[0-9a-f]{12}", identity.name)
    assert identity.revision is None


def test_it_is_the_same_wherever_it_lies(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(tiny, tmp_path / "elsewhere" / "tiny")
    monkeypatch.chdir(tmp_path / "models")
    monkeypatch.setenv("HOME", str(tmp_path / "models"))
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "tiny").symlink_to(tiny)

    spellings = [copy, f"{tiny}/", "tiny", "./tiny", "~/tiny", tmp_path / "link" / "tiny"]

    assert {identify(str(each)) for each in spellings} == {identify(str(tiny))}
    monkeypatch.chdir(tiny)
    assert identify(".") == identify(str(tiny))


def test_what_no_model_is_made_of_changes_nothing(tiny: Path) -> None:
    before = identify(str(tiny))

    for name in ("README.md", "trainer_log.txt", "trainer_state.json", "all_results.json"):
        (tiny / name).write_text("another")

    assert identify(str(tiny)) == before


def test_a_folder_without_a_model_is_refused(tiny: Path) -> None:
    with pytest.raises(ModelLoadError, match="holds no model"):
        identify(str(tiny.parent))


def write_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"x")


CHANGES: dict[str, Callable[[Path], object]] = {
    "configuration": lambda folder: (folder / "config.json").write_text('{"model_type": "qwen2"}'),
    "tokenizer": lambda folder: (folder / "tokenizer.json").write_text("[]"),
    "template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    "weights of the same size": lambda folder: write_byte(folder / WEIGHTS, 2000),
    "size of weights": lambda folder: write_byte(folder / WEIGHTS, 3000),
    "name of weights": lambda folder: (folder / WEIGHTS).rename(folder / "model.safetensors"),
    "more weights": lambda folder: (folder / "adapters.safetensors").touch(),
    "a tokenizer less": lambda folder: (folder / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_makes_it_another_model(tiny: Path, change: Callable[[Path], object]) -> None:
    before = identify(str(tiny))

    change(tiny)

    assert identify(str(tiny)) != before


@pytest.fixture
def terse(tmp_path: Path) -> Path:
    """A folder as mlx-lm's trainer leaves it, with a checkpoint."""
    folder = tmp_path / "adapters" / "terse"
    folder.mkdir(parents=True)
    parameters = '{"rank": 8, "scale": 20.0, "dropout": 0.0}'
    config = f'{{"num_layers": 2, "lora_parameters": {parameters}}}'
    (folder / "adapter_config.json").write_text(config)
    header = b'{"a": {"dtype": "U8", "shape": [300], "data_offsets": [0, 300]}}'
    weights = len(header).to_bytes(8, "little") + header + bytes(300)
    (folder / "adapters.safetensors").write_bytes(weights)
    (folder / "0000100_adapters.safetensors").write_bytes(bytes(300))
    return folder


def test_an_adapter_is_part_of_it(tiny: Path, terse: Path) -> None:
    base = identify(str(tiny))
    adapted = identify(str(tiny), terse)

    assert re.fullmatch(re.escape(base.name) + r"\+terse@[0-9a-f]{12}", adapted.name)
    assert identify("smollm2-135m", terse).revision == identify("smollm2-135m").revision
    assert queue_name(adapted.name) == f"mlx-{adapted.name}"


def test_an_adapter_is_told_by_what_is_used_of_it(tiny: Path, terse: Path, tmp_path: Path) -> None:
    before = identify(str(tiny), terse)
    copy = shutil.copytree(terse, tmp_path / "elsewhere" / "terse")

    write_byte(terse / "0000100_adapters.safetensors", 7)
    assert identify(str(tiny), terse) == before
    write_byte(terse / "adapters.safetensors", 200)
    assert identify(str(tiny), terse) != before
    assert identify(str(tiny), str(copy)) == before
    config = (copy / "adapter_config.json").read_text()
    (copy / "adapter_config.json").write_text(config.replace("20.0", "10.0"))
    assert identify(str(tiny), copy) != before


def test_a_folder_that_is_no_adapter_is_refused(tiny: Path) -> None:
    with pytest.raises(ModelLoadError, match="is no adapter"):
        identify(str(tiny), tiny)


def test_what_does_not(tiny: Path) -> None:
    before = identify(str(tiny))
    (tiny / "README.md").write_text("something")
    (tiny / ".cache").mkdir()
    (tiny / "original").mkdir()
    (tiny / "original" / "config.json").write_text("{}")

    assert identify(str(tiny)) == before


def test_of_large_weights_samples_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_identity, "_WHOLE", 1 << 20)
    path = tmp_path / "large.gguf"
    path.write_bytes(bytes(3 << 20))
    seen = {identify(str(path)).name}

    for at in (0, 1 << 16, (3 << 20) - 1):  # the second one lies between two samples
        write_byte(path, at)
        seen.add(identify(str(path)).name)

    assert len(seen) == 3
    assert all(name.startswith("large.gguf@") for name in seen)


def test_a_file_is_told_by_its_content(tmp_path: Path) -> None:
    for folder, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.gguf").write_bytes(content)
    a, b, c = (identify(str(tmp_path / folder / "m.gguf")) for folder in "abc")

    assert a == c != b


@pytest.mark.parametrize("name", ["/nonexistent/model", "./m", "~/none", "~nobody/m", "m.gguf", ""])
def test_a_path_that_is_not_there_has_none(name: str) -> None:
    with pytest.raises(ModelLoadError, match=r"no file or folder|name is empty"):
        identify(name)


@pytest.mark.parametrize("name", ["some/model", "gpt2", "tiny@0123456789ab", "a\0b", "a" * 5000])
def test_any_other_name_is_that_of_a_hub_or_of_another_machine(name: str) -> None:
    assert identify(name) == ModelIdentity(name)


def test_a_hub_id_has_the_commit_that_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ref = tmp_path / "models--some--model" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("5f1c0de")

    assert identify("some/model") == ModelIdentity("some/model", "5f1c0de")
    assert identify("some/other") == ModelIdentity("some/other")


def test_an_alias_has_the_version_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    known = identify("smollm2-135m")
    assert known.revision
    assert re.fullmatch(r"[\d.]+", known.revision)

    monkeypatch.setitem(model_identity.ALIASES, "missing", ("no_such_package", "m.gguf"))
    assert identify("missing") == ModelIdentity("missing")
