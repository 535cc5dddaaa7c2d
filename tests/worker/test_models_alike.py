"""A worker answers the jobs of its own model, and of no other one that is called alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset import Dataset, verify
from jobs.errors import DatasetError, RunExistsError
from jobs.ledger import Ledger
from jobs.model_identity import identify
from jobs.run_spec import RunSpec
from tests.helpers.bench import Bench
from tests.helpers.engines import DoubleEngine, echo
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.outputs import GenerationOutput


def make_model(folder: Path, n: int = 0) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "n": n}))
    (folder / "model.safetensors").write_bytes(b"some")
    return str(folder)


def as_model(name: str) -> Callable[[Any], GenerationOutput]:
    """What an engine says that has loaded a model."""
    return lambda prompt: replace(echo(prompt), model=name)


def reason(bench: Bench, spec: RunSpec) -> str:
    result = bench.job(spec, 0).latest_result()
    assert result is not None
    return str(result.exc_string)


def test_a_model_that_is_not_there_is_not_enqueued(bench: Bench) -> None:
    with pytest.raises(InvalidRequestError, match=r"no file or folder /nonexistent/model\. Where"):
        bench.enqueue(rows=2, shard_size=2, model="/nonexistent/model")
    assert bench.redis.keys() == []


def test_a_job_for_it_is_not_answered(bench: Bench) -> None:
    """It may be written into the queue by hand."""
    mine = make_model(bench.folder / "mine" / "model")
    spec = bench.enqueue(rows=2, shard_size=2, model=mine)
    forged = spec.model_copy(update={"model": "/nonexistent/model"})
    bench.redis.hset(f"mlx-batch:run:{spec.run_id}", "spec", forged.model_dump_json())
    engine = DoubleEngine()
    worker = bench.worker(engine, mine)

    worker.admit(wait=False)

    assert engine.asked == []
    assert reason(bench, spec) == (
        f"ModelMismatchError: {spec.run_id} wants /nonexistent/model, "
        f"this worker has {identify(mine).name}"
    )


def test_models_that_are_called_alike_do_not_meet(bench: Bench) -> None:
    models = [make_model(bench.folder / str(n) / "model", n) for n in range(2)]
    specs = [
        bench.enqueue(rows=2, shard_size=2, say=f"say{n}", model=m) for n, m in enumerate(models)
    ]
    engines = [DoubleEngine(say=as_model(identify(model).name)) for model in models]

    for model, engine in zip(models, engines, strict=True):
        bench.burst(engine, model)

    assert [engine.prompts for engine in engines] == [[f"say{n} 0", f"say{n} 1"] for n in range(2)]
    for spec, model in zip(specs, models, strict=True):
        assert verify(Path(spec.out)).complete
        assert Dataset(Path(spec.out)).manifest()["model"] == identify(model).name


def test_a_producer_without_the_folder_names_it_as_the_worker_does(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model(bench.folder / "model")
    name = identify(model).name
    caplog.set_level("INFO", "mlx_batch.worker")
    spec = bench.enqueue(rows=2, shard_size=2, model=name)

    bench.burst(DoubleEngine(say=as_model(name)), model)

    assert f"{name} is loaded" in caplog.text
    assert verify(Path(spec.out)).complete


def test_changed_weights_make_another_run(bench: Bench) -> None:
    model = make_model(bench.folder / "model")
    before = bench.enqueue(rows=2, shard_size=2, model=model)
    (bench.folder / "model" / "model.safetensors").write_bytes(b"weights")

    with pytest.raises(RunExistsError, match=f"is the folder of {before.run_id}"):
        bench.enqueue(rows=2, shard_size=2, model=model, resume=True)


@pytest.fixture
def commit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Puts a commit of `some/model` into the hub's cache."""
    cache = bench.folder / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    ref = cache / "models--some--model" / "refs" / "main"
    ref.parent.mkdir(parents=True)

    def put(said: str | None) -> None:
        ref.unlink(missing_ok=True)
        if said:
            ref.write_text(said)

    return put


SAYS = as_model("some/model")


def test_a_worker_with_another_revision_refuses_and_one_with_the_right_one_goes_on(
    bench: Bench, commit: Callable[[str | None], None]
) -> None:
    commit("aaaa")
    spec = bench.enqueue(rows=2, shard_size=2, model="some/model")
    commit("bbbb")
    engine = DoubleEngine(say=SAYS)
    bench.burst(engine, "some/model")

    assert engine.asked == []
    assert bench.status(spec, 0) == "failed"
    for told in ("ModelMismatchError", "some/model", "aaaa", "bbbb", f"resume {spec.run_id}"):
        assert told in reason(bench, spec)

    commit("aaaa")
    bench.enqueue(rows=2, shard_size=2, model="some/model", resume=True)
    bench.burst(engine, "some/model")

    assert verify(Path(spec.out)).complete
    assert Dataset(Path(spec.out)).manifest()["revision"] == "aaaa"


def test_the_first_worker_fills_in_what_the_producer_does_not_know(
    bench: Bench, commit: Callable[[str | None], None]
) -> None:
    spec = bench.enqueue(rows=4, shard_size=2, model="some/model")
    assert spec.revision is None
    commit("aaaa")
    engine = DoubleEngine(max_num_seqs=1, say=SAYS)
    first = bench.worker(engine, "some/model")
    first.flights.revision = "aaaa"  # as `work` has it once the engine has loaded
    first.admit(wait=False)
    first.settle()
    second = bench.worker(DoubleEngine(say=SAYS), "some/model")
    second.flights.revision = "bbbb"

    with pytest.raises(Exception, match="at aaaa, and this worker has it at bbbb"):
        second.flights._spec(spec.run_id)

    assert first.flights._spec(spec.run_id).revision == "aaaa"
    assert Ledger(bench.redis).spec(spec.run_id).run_id == spec.run_id


def test_after_the_worker_has_fetched_the_model_the_same_command_goes_on(
    bench: Bench, commit: Callable[[str | None], None]
) -> None:
    spec = bench.enqueue(rows=2, shard_size=2, model="some/model")
    commit("aaaa")

    again = bench.enqueue(rows=2, shard_size=2, model="some/model", resume=True)

    assert again.run_id == spec.run_id
    assert again.revision == "aaaa"


def test_rows_by_another_model_do_not_finish_a_run(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=2, model="some/model")
    worker = bench.worker(DoubleEngine(say=as_model("some/other")), "some/model")
    worker.admit(wait=False)
    worker.settle()

    assert not Dataset(Path(spec.out)).is_finished
    assert verify(Path(spec.out)).problems == ["2 rows by some/other, not by some/model"]
    with pytest.raises(DatasetError, match="not by some/model"):
        Dataset(Path(spec.out)).finalize()
