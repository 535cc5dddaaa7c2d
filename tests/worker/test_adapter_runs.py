"""Adapters of one base: each has its own queue and workers, and its rows say whose they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from jobs.dataset import Dataset, verify
from jobs.model_identity import identify
from tests.helpers.adapters import write_adapter
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.text_folders import write_folder
from vllm_mlx.errors import InvalidRequestError, ModelLoadError
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.models.loading import load_model
from worker.engine.supervisor import SupervisedEngine

ASK = {"max_tokens": 5, "temperature": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture(scope="module")
def adapters(base: Path) -> list[Path]:
    return [write_adapter(base.parent / name, base, seed=at) for at, name in enumerate("ab")]


def texts(out: Path | str) -> list[Any]:
    table = pyarrow.dataset.dataset(f"{out}/data", format="parquet").to_table()
    return [row["text"] for row in sorted(table.to_pylist(), key=lambda row: row["row"])]


def expected(base: Path, adapter: Path, prompts: list[str]) -> list[str]:
    with MLXLanguageModel(str(base), adapter_path=adapter) as model:
        return [model.generate(each, **ASK).text for each in prompts]


def test_several_share_a_server_as_workers_of_their_own(
    bench: Bench, base: Path, adapters: list[Path]
) -> None:
    names = [identify(str(base), each).name for each in adapters]
    specs = [
        bench.enqueue(rows=2, shard_size=2, say=f"for {name}", model=str(base), adapter=each)
        for name, each in zip("ab", adapters, strict=True)
    ]

    for each in adapters:
        bench.burst(SupervisedEngine(str(base), adapter=each), str(base), adapter=each)

    assert len({spec.queue for spec in specs}) == 2
    for spec, name in zip(specs, names, strict=True):
        assert verify(Path(spec.out)).complete
        assert Dataset(Path(spec.out)).manifest()["model"] == name == spec.model


def test_run_answers_with_it(tmp_path: Path, base: Path, adapters: list[Path]) -> None:
    prompts = ["one", "and two", "three"]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": each, **ASK}) + "\n" for each in prompts))

    ran = cli("run", path, "--model", base, "--adapter", adapters[0], "--out", tmp_path / "out")

    assert ran.exit_code == 0, ran.output
    assert texts(tmp_path / "out") == expected(base, adapters[0], prompts)
    assert texts(tmp_path / "out") != expected(base, adapters[1], prompts)


def test_one_that_is_none_is_refused_before_anything_is_enqueued(bench: Bench, base: Path) -> None:
    words = r"there is no such folder.*as the model, and no adapter, .* model\+adapter@0123"
    with pytest.raises(InvalidRequestError, match=words):
        bench.enqueue(rows=2, shard_size=2, model=str(base), adapter=base / "nowhere")
    with pytest.raises(ModelLoadError, match=r"no adapters\.safetensors\. Give .*safetensors$"):
        bench.enqueue(rows=2, shard_size=2, model=str(base), adapter=without_weights(base))
    assert bench.redis.keys() == []


def without_weights(base: Path) -> Path:
    adapter = write_adapter(base.parent / "without", base)
    (adapter / "adapters.safetensors").unlink()
    return adapter


def test_one_of_another_name_is_told_by_producer_and_engine(
    bench: Bench, base: Path, adapters: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Of the same shape it loads, and answers as neither of the two would."""
    bench.enqueue(rows=2, shard_size=2, model=str(base), adapter=adapters[0])
    assert caplog.messages == []
    other = shutil.copytree(base, base.with_name("other"))
    bench.enqueue(rows=2, shard_size=2, say="x", model=str(other), adapter=adapters[0])
    [said] = caplog.messages
    assert (
        f"was trained on {base}, as its adapter_config.json says, and is put into {other}" in said
    )
    load_model(str(other), adapter_path=adapters[0])
    assert caplog.messages == [said, said]


def test_commands_refuse_one_that_is_none(bench: Bench, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n')
    wrong = ("--model", base, "--adapter", tmp_path, "--url", bench.url)

    for command in (("enqueue", path, "--out", tmp_path / "out"), ("worker", "--burst")):
        ran = cli(*command, *wrong)
        assert ran.exit_code == 2
        assert f"{str(tmp_path)!r} is no adapter" in ran.output
    assert not (tmp_path / "out").exists()


def test_one_that_does_not_fit_ends_the_worker(bench: Bench, base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", write_folder(tmp_path, "qwen3"))

    ran = cli("worker", "--burst", "--model", base, "--adapter", adapter, "--url", bench.url)

    assert ran.exit_code == 2
    assert "does not fit this model" in ran.output


def test_one_that_changes_under_a_worker_is_told(bench: Bench, base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    engine = SupervisedEngine(str(base), adapter=adapter)
    write_adapter(tmp_path / "other", base, seed=7)
    (tmp_path / "other" / "adapters.safetensors").rename(adapter / "adapters.safetensors")

    with pytest.raises(Exception, match="its files have changed"):
        engine.start()
