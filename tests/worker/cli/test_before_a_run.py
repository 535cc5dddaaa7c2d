"""What is found before a run is made, and that nothing is left where one fails to start."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.ledger import Ledger
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, DoubleEngine, write_prompts
from vllm_mlx.errors import KVCacheBudgetError, ModelLoadError
from vllm_mlx.model_files import local_path
from worker.cli.exit_codes import ExitCode
from worker.local.kv_cache_check import require_kv_cache


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["SmolLM2-135M", "smolm2-135m", "smolm2"])
def test_a_typo_of_the_alias_is_told_at_once_and_offline(tmp_path: Path, name: str) -> None:
    from vllm_mlx import engine, models

    prompts, started = write_prompts(tmp_path / "p.jsonl", 1), time.process_time()

    run = cli("run", prompts, "--model", name, "--out", tmp_path / "new" / "out")
    worker = cli("worker", "--model", name, "-u", "redis://127.0.0.1:1")
    plan = cli("plan", prompts, "--model", name)

    for said in (run, worker, plan):
        assert said.exit_code == ExitCode.BAD_INPUT
        assert f"there is no model {name!r}: did you mean smollm2-135m?" in said.stderr
    for make in (
        models.MLXLanguageModel,
        models.MLXMultimodalLM,
        engine.BatchedEngine,
        engine.SimpleEngine,
    ):
        with pytest.raises(ModelLoadError, match="did you mean smollm2-135m"):
            make(name)
    assert time.process_time() - started < 1.0
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["smol", "SmolLM2-135M-Instruct", "135m", "smollm2_135"])
def test_part_of_an_alias_tells_it(name: str) -> None:
    with pytest.raises(ModelLoadError, match="did you mean smollm2-135m"):
        local_path(name)


@pytest.mark.parametrize(
    "name", ["gpt2", "stablelm2", "olmo2", "smo", "HuggingFaceTB/SmolLM2-135M"]
)
def test_another_name_is_a_hubs(name: str) -> None:
    assert local_path(name) is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no configuration, no weights"),
        ({"model.safetensors": ""}, "it has no config.json"),
        ({"config.json": '{"model_type": "llama"}'}, "it has no *.safetensors"),
        ({"config.json": "{", "model.safetensors": ""}, "config.json can't be read"),
        ({"config.json": "{}", "model.safetensors": ""}, "names no model_type"),
        ({"tiny.gguf": "GG"}, "is no GGUF file"),
    ],
)
@pytest.mark.parametrize("command", ["run", "enqueue"])
def test_what_is_no_model_is_refused(
    bench: Bench, command: str, files: dict[str, str], said: str
) -> None:
    model = bench.folder / "model"
    model.mkdir()
    for name, content in files.items():
        (model / name).write_text(content)
    prompts = write_prompts(bench.folder / "p.jsonl", 1)
    named = model / "tiny.gguf" if "tiny.gguf" in files else model
    server = [] if command == "run" else ["-u", bench.url]

    result = cli(command, prompts, "--model", named, "--out", bench.folder / "out", *server)

    assert result.exit_code == ExitCode.BAD_INPUT
    assert said in result.stderr
    assert not (bench.folder / "out").exists()
    assert bench.redis.keys("*") == []


@pytest.mark.parametrize("words", [["--images", "a.png"], ["p.jsonl", "--image-column", "pic"]])
def test_a_model_that_does_not_see_is_shown_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(bench.folder)
    Path("a.png").touch()
    Path("p.jsonl").write_text('{"prompt": "?", "pic": "a.png"}\n')

    for command in (["run"], ["enqueue", "-u", bench.url]):
        result = cli(*command, *words, "--prompt", "?", "--model", MODEL, "--out", "out")
        assert result.exit_code == ExitCode.BAD_INPUT
        assert f"{MODEL} sees no images and videos" in result.stderr
    assert not Path("out").exists()


_SHOWS = {"prompt": "?", "images": ["a.png"]}
_CHAT = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}]
_OF_BATCH = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": _CHAT},
}
_LINES = f"{MODEL} sees no images and videos: take a vision model (docs/models.md lists some)"


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        (
            "p.jsonl",
            [_SHOWS, {"videos": ["b.mp4"], "prompt": "?"}],
            f"2 rows: {_LINES}, lines 1, 2",
        ),
        ("p.jsonl", [_OF_BATCH], f"line 1, row 0: {_LINES}"),
        ("p.csv", "image,prompt\na.png,What?\nb.png,Why?\n", f"2 rows: {_LINES}, lines 2, 3"),
    ],
)
def test_rows_that_all_show_something_need_a_model_that_sees(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, content: Any, where: str
) -> None:
    monkeypatch.chdir(bench.folder)
    lines = content if isinstance(content, str) else "\n".join(map(json.dumps, content))
    Path(name).write_text(lines)
    out = ["--skip-bad-rows", "--out", "out"]

    for command in (["run", *out], ["enqueue", "-u", bench.url, *out], ["plan"]):
        result = cli(*command, name, "--model", MODEL)
        assert result.exit_code == ExitCode.BAD_INPUT
        assert f"{name}: {where}" in result.stderr
    assert not Path("out").exists()
    assert bench.redis.keys("*") == []


def test_some_rows_that_show_something_are_bad_rows(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    rows = [{"prompt": "a"}, _SHOWS, {"prompt": 1}, _SHOWS]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["enqueue", "p.jsonl", "--model", MODEL, "--out", "out", "-u", bench.url]

    refused, let_through = cli(*words), cli(*words, "--skip-bad-rows")

    assert refused.exit_code == ExitCode.BAD_INPUT
    assert "3 bad rows of 4; nothing was enqueued" in refused.stderr
    assert f"2 rows: {_LINES}, lines 2, 4" in refused.stderr
    assert let_through.exit_code == ExitCode.OK
    assert "3 bad rows will be in error in the dataset" in let_through.stderr
    assert f"2 rows: {_LINES}, lines 2, 4" in let_through.stderr


def test_a_budget_that_holds_no_row_ends_before_a_run_begins(
    tmp_path: Path, text_folder: str
) -> None:
    from vllm_mlx.engine import BatchedEngine
    from vllm_mlx.models.skeleton import least_cache_bytes, skeleton_of

    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    words = ["run", prompts, "--model", text_folder, "--out", tmp_path / "new" / "out"]

    least = least_cache_bytes(skeleton_of(Path(text_folder)))
    assert least is not None

    result = cli(*words, "--kv-cache-bytes", least - 1)

    assert result.exit_code == ExitCode.BAD_INPUT
    said = f"kv_cache_bytes={least - 1:,}: {text_folder} needs {least:,} bytes of key-value cache"
    assert said in result.stderr
    assert "raise it" in result.stderr
    assert not (tmp_path / "new").exists(), "nothing is left of it"

    require_kv_cache(text_folder, least)
    import asyncio

    with pytest.raises(KVCacheBudgetError, match=f"need {least:,} bytes.*kv_cache_bytes is 100"):
        asyncio.run(BatchedEngine(text_folder, kv_cache_bytes=100).start())


@pytest.mark.parametrize("command", ["run", "enqueue"])
def test_an_address_is_no_output_folder_and_no_model(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(bench.folder)
    prompts = write_prompts(bench.folder / "p.jsonl", 1)
    server = [] if command == "run" else ["-u", bench.url]

    result = cli(command, prompts, "--model", MODEL, "--out", "s3://bucket/out", *server)

    assert result.exit_code == ExitCode.BAD_INPUT
    assert "out='s3://bucket/out': should be a path on this machine" in result.stderr
    for words in (["verify", "s3://b"], ["tail", "s3://b"], ["plan", "s3://b", "--model", MODEL]):
        assert "='s3://b': should be a path on this machine" in cli(*words).stderr
    for words in ([command, prompts, "--out", "out", *server], ["plan", prompts]):
        said = cli(*words, "--model", "s3://b/m")
        assert said.exit_code == ExitCode.BAD_INPUT
        assert said.stderr.endswith(
            "mlx-batch: the model s3://b/m is a URL: should be a folder or a .gguf file on this "
            "machine, or an id of the Hugging Face hub such as owner/name\n"
        )
    assert sorted(path.name for path in bench.folder.iterdir()) == ["p.jsonl"]


@pytest.mark.parametrize("name", ["notes.txt", "data/mine.csv"])
def test_a_folder_with_files_of_no_run_is_refused(bench: Bench, name: str) -> None:
    prompts, out = write_prompts(bench.folder / "p.jsonl", 1), bench.folder / "out"
    (out / name).parent.mkdir(parents=True)
    (out / ".gitkeep").touch()
    words = ("enqueue", prompts, "--model", MODEL, "--out", out, "-u", bench.url)
    (out / name).write_text("mine")

    refused = cli(*words)
    assert refused.exit_code == ExitCode.CONFLICT
    assert f"{out} holds {name}, written by no run: choose another --out" in refused.stderr

    (out / name).unlink()
    assert cli(*words).exit_code == 0


def test_a_bad_file_leaves_no_folder(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": ""}\n')

    assert cli("run", prompts, "--model", MODEL, "--out", tmp_path / "a" / "out").exit_code == 2
    assert not (tmp_path / "a").exists()


# Folders that are taken.


@pytest.fixture
def taken(bench: Bench) -> list[object]:
    """Words that enqueue the run whose dataset is finished already."""
    prompts = write_prompts(bench.folder / "p.jsonl", 2)
    words = ["enqueue", prompts, "--model", MODEL, "--out", bench.folder / "out", "-u", bench.url]
    assert cli(*words, "--prompt", "Say {{ id }}").exit_code == 0
    bench.burst(DoubleEngine())
    return words


def test_another_run_is_told_what_differs(bench: Bench, taken: list[object]) -> None:
    write_prompts(bench.folder / "p.jsonl", 3)
    before = set(bench.redis.keys("*"))

    words = [*taken, "--prompt", "Name {{ id }}", "--temperature", 0.5, "--max-tokens", 7]
    result = cli(*words)

    assert result.exit_code == ExitCode.CONFLICT
    for line in (
        f"input: {bench.folder}/p.jsonl, with other content",
        "prompt: 'Say {{ id }}', not 'Name {{ id }}'",
        "temperature: 0.7, not 0.5",
        "max_tokens: 256, not 7",
    ):
        assert f"\n  {line}\n" in result.stderr
    assert "(finished), which differs in" in result.stderr
    assert "another --out, or give --overwrite, which moves that run to out.old-" in result.stderr
    assert set(bench.redis.keys("*")) == before


def test_run_finds_the_conflict_before_it_starts_a_server(
    bench: Bench, taken: list[object]
) -> None:
    words = ["run", *taken[1:-2], "--prompt", "Say {{ id }}"]

    again, other = cli(*words), cli(*words, "--seed", 5)

    assert (again.exit_code, other.exit_code) == (ExitCode.CONFLICT, ExitCode.CONFLICT)
    assert "holds this very run" in again.stderr
    assert "--overwrite" in again.stderr
    assert "  seed: None, not 5\n" in other.stderr
    assert not (bench.folder / "out" / "_job" / "redis").exists()


def test_overwriting_moves_the_old_folder_aside(bench: Bench, taken: list[object]) -> None:
    part = next((bench.folder / "out" / "data").iterdir())
    old = part.read_bytes()
    words = [*taken, "--prompt", "Say {{ id }}", "--overwrite"]

    result = cli(*words)

    assert result.exit_code == ExitCode.OK, result.stderr
    (aside,) = bench.folder.glob("out.old-*")
    assert f"what {bench.folder}/out held is now in {aside}" in result.stderr
    assert (aside / "data" / part.name).read_bytes() == old
    assert not (bench.folder / "out").exists()
    bench.burst(DoubleEngine())
    assert (bench.folder / "out" / "_SUCCESS").exists()
    assert len(Ledger(bench.redis).runs()) == 1


def test_a_run_at_work_is_not_overwritten(bench: Bench) -> None:
    spec = bench.enqueue(rows=2, shard_size=1)
    words = ["enqueue", bench.folder / "prompt.jsonl", "--model", MODEL, "--out", spec.out]

    result = cli(*words, "-u", bench.url, "--overwrite")
    other = cli(*words, "-u", bench.url, "--shard-size", 1, "--max-tokens", 6)

    for refused in (result, other):
        assert refused.exit_code == ExitCode.CONFLICT
        assert f"{spec.out} is the folder of {spec.run_id} on this server" in refused.stderr
        assert f"`mlx-batch forget {spec.out}`" in refused.stderr
        assert f"`mlx-batch status {spec.out}`" in refused.stderr
    assert "which has not ended, and --overwrite takes the place of none" in result.stderr
    assert "(not finished), which differs in\n  max_tokens: 256, not 6\nCho" in other.stderr
    assert Ledger(bench.redis).runs() == [spec.run_id]
    assert cli("forget", spec.out, "-u", bench.url).exit_code == ExitCode.OK
    assert cli(*words, "-u", bench.url, "--overwrite").exit_code == ExitCode.OK


def test_run_overwrites_and_answers(tmp_path: Path, text_folder: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine")
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    words = ["run", prompts, "--model", text_folder, "--out", out, "--max-tokens", 2]

    refused = cli(*words)
    assert refused.exit_code == ExitCode.CONFLICT
    assert "holds README.md but no manifest of a run" in refused.stderr

    assert cli(*words, "--overwrite").exit_code == ExitCode.OK
    (aside,) = tmp_path.glob("out.old-*")
    assert (aside / "README.md").read_text() == "mine"
    assert json.loads((out / "_job" / "manifest.json").read_text())["result"]["ok"] == 1


def test_resume_and_overwrite_exclude_each_other(bench: Bench, taken: list[object]) -> None:
    result = cli(*taken, "--resume", "--overwrite")

    assert result.exit_code == ExitCode.BAD_INPUT
    assert "give one of" in result.stderr
