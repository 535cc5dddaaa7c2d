"""The command line: what it prints, and the exit codes that scripts depend on.

Rows are answered by the double, where any are: the commands here only enqueue and look.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset import Dataset
from jobs.ledger import Ledger
from tests.helpers.bench import Bench
from tests.helpers.command_line import cli
from tests.helpers.engines import MODEL, SEEING, DoubleEngine, write_prompts
from tests.helpers.shell import Shell
from vllm_mlx.errors import KVCacheBudgetError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.video_params import VideoParams
from worker.cli.command_group import STOPPED
from worker.cli.exit_codes import ExitCode
from worker.status.status import run_status

NOWHERE = "redis://user:hunter2@127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def no_redis_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RQ_REDIS_URL", raising=False)


def enqueue_words(prompts: Path, url: str, *more: object) -> list[object]:
    out = prompts.parent / "out"
    return ["enqueue", prompts, "--model", MODEL, "--out", out, "-u", url, *more]


# enqueue


def test_enqueue_prints_the_run_id_on_the_last_line(bench: Bench) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 5)

    result = cli(*enqueue_words(prompts, bench.url, "--shard-size", "2.0"))

    assert result.exit_code == 0
    (run_id,) = Ledger(bench.redis).runs()
    assert result.stdout.splitlines()[-1] == run_id
    assert "5 rows; 3 of 3 shards enqueued" in result.stderr


def test_ctrl_c_of_enqueue_says_whether_anything_is_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    given = enqueue_words(write_prompts(bench.folder / "p.jsonl", 1), bench.url)
    for name, said in [
        ("enqueue_prepared", f"{STOPPED}\n"),
        ("prepare_run", "mlx-batch: stopped\n"),
    ]:
        monkeypatch.setattr(f"worker.cli.app.{name}", press)
        ended = cli(*given)
        assert (ended.exit_code, ended.stderr) == (130, said)


def test_enqueue_warns_where_no_worker_will_do_the_jobs(bench: Bench, shell: Shell) -> None:
    other = write_prompts(bench.folder / "other.jsonl", 1)
    _, said = shell.run(*enqueue_words(other, bench.url))
    assert f"warning: no worker listens for {MODEL}" in said
    assert "no worker is there" in said

    root = bench.folder / "root"
    root.mkdir()
    for name in ("w1", "w2"):
        bench.worker(DoubleEngine(), name=name, output_root=root).tend()
    words = enqueue_words(write_prompts(bench.folder / "p.jsonl", 2), bench.url)
    words[words.index("--out") + 1] = bench.folder / "elsewhere"
    _, said = shell.run(*words)
    told = f"{root.resolve()}, the --output-root of the workers w1, w2: they will refuse the jobs"
    assert said.count("warning") == 1
    assert f"warning: {bench.folder / 'elsewhere'} is not below {told}\n" in said

    words[words.index("--out") + 1] = root / "inside"
    code, said = shell.run(*words)
    assert code == 0
    assert "warning" not in said


def test_the_url_comes_from_the_environment_as_in_rq(bench: Bench) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 1)
    words = enqueue_words(prompts, bench.url)[:-2]

    refused = cli(*words)
    assert refused.exit_code == 2
    assert "Missing option '-u' / '--url' (env var: 'RQ_REDIS_URL')" in refused.stderr
    assert cli(*words, env={"RQ_REDIS_URL": bench.url}).exit_code == 0
    assert len(Ledger(bench.redis).runs()) == 1


def test_sampling_flags_reach_the_run(bench: Bench) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 1)
    flags = [
        "--max-tokens",
        "9.0",
        "--temperature",
        0,
        "--top-p",
        0.5,
        "--top-k",
        3,
        "--min-p",
        0.1,
    ]
    flags += ["--repetition-penalty", 1.1, "--stop", "END", "--stop", "\n", "--seed", 4, "--chat"]
    flags += ["--logprobs", 2, "--prompt-logprobs", 1, "--stop-on-repetition", "--ignore-eos"]
    flags += ["--presence-penalty", 0.5]
    flags += ["--frequency-penalty", -1, "--logit-bias", '{"5": -100, "6": 2}', "--min-tokens", 3]
    flags += ["--stop-token-ids", 7, "--stop-token-ids", 8, "--allow-special-tokens"]
    flags += ["--no-add-generation-prompt"]

    run_id = cli(*enqueue_words(prompts, bench.url, *flags)).stdout.strip()

    spec = Ledger(bench.redis).spec(run_id)
    assert spec.chat
    assert spec.sampling.model_dump(exclude_none=True) == {
        "max_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -1.0,
        "logit_bias": {5: -100.0, 6: 2.0},
        "stop": ("END", "\n"),
        "stop_token_ids": (7, 8),
        "min_tokens": 3,
        "ignore_eos": True,
        "seed": 4,
        "logprobs": 2,
        "prompt_logprobs": 1,
        "stop_on_repetition": True,
        "allow_special_tokens": True,
        "parallel_tool_calls": True,
        "continue_final_message": False,
        "add_generation_prompt": False,
        "score_choices": False,
        "normalize_scores": False,
    }


def test_video_flags_reach_the_run(bench: Bench) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 1)
    flags = ["--video-fps", 0.5, "--video-max-frames", 9]

    run_id = cli(*enqueue_words(prompts, bench.url, *flags)).stdout.strip()

    frames = VideoParams.of(video_fps=0.5, video_max_frames=9)
    assert Ledger(bench.redis).spec(run_id).video_params == frames


def test_videos_in_place_of_a_prompt_file(bench: Bench) -> None:
    for name in ("a.mp4", "b.mp4", "c.png"):
        (bench.folder / name).touch()
    words = ["enqueue", "--model", SEEING, "-u", bench.url]
    words += ["--prompt", "What is it?"]

    videos = cli(*words, "--videos", bench.folder / "*.mp4", "--out", bench.folder / "of-videos")
    images = cli(*words, "--images", bench.folder, "--out", bench.folder / "of-images")

    assert "2 rows; 1 of 1 shard enqueued" in videos.stderr
    assert "1 row; 1 of 1 shard enqueued" in images.stderr
    spec = Ledger(bench.redis).spec(videos.stdout.strip())
    assert spec.columns == {"prompt": "string", "video": "string"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of a prompt file, videos and images"),
        (["--videos", "a.mp4", "b.mp4", "--prompt", "?"], "stands in quotes"),
        (["--videos", "a.mp4"], "need a prompt"),
        (["--prompt", "?", "--videos", "a.mp4", "--id-column", "a"], "have no columns"),
        (["--prompt", "?", "--videos", "a.mp4", "--no-chat"], "are shown in a chat"),
        (["--videos", "*.avi", "--prompt", "?"], "*.avi: there is no such video"),
    ],
)
def test_an_input_is_named_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(bench.folder)
    for name in ("a.mp4", "b.mp4"):
        Path(name).touch()

    result = cli("enqueue", *words, "--model", MODEL, "--out", "out", "-u", bench.url)

    assert result.exit_code == 2
    assert said in result.stderr
    assert bench.redis.keys("*") == []


def test_a_bad_file_is_listed_and_nothing_is_enqueued(bench: Bench) -> None:
    prompts = bench.folder / "p.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": ""}\nnot json\n')

    result = cli(*enqueue_words(prompts, bench.url))

    assert result.exit_code == 2
    assert "line 2, row 1: prompt=''" in result.stderr
    assert "line 3, row 2: " in result.stderr
    assert result.stdout == ""
    assert bench.redis.keys("*") == []

    result = cli(*enqueue_words(prompts, bench.url, "--skip-bad-rows"))
    assert result.exit_code == 0
    assert "2 bad rows will be in error" in result.stderr
    assert "line 2, row 1: " in result.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--temperature", "3"],
        ["--max-tokens", "-1"],
        ["--max-tokens", "8.5"],
        ["--seed", "many"],
        ["--min-tokens", "300"],
        ["--logit-bias", "5=3"],
        ["--logit-bias", "[5]"],
        ["--logit-bias", '{"5": 300}'],
        ["--stop-token-ids", "-1"],
        ["--video-fps", "0"],
        ["--video-max-frames", "5000"],
        ["--stop", ""],
        ["--shard-size", "0"],
        ["--shard-size", "2.5"],
        ["--temperature", "warm"],
        ["--no-such-flag"],
    ],
    ids=" ".join,
)
def test_bad_usage(bench: Bench, flags: list[str]) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 1)

    result = cli(*enqueue_words(prompts, bench.url, *flags))

    assert result.exit_code == 2
    assert flags[0].lstrip("-").replace("-", "_") in result.stderr.replace("-", "_")
    assert bench.redis.keys("*") == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max-completion-tokens", "5"], "'--max-completion-tokens'; use max_tokens"),
        (["--guided-json", "{}"], "'--guided-json'; use structured_outputs: {"),
        (["--logprob", "5"], "'--logprob'. (Did you mean one of: '--logprobs'"),
    ],
)
def test_flags_of_other_systems_are_told_what_to_use(flags: list[str], told: str) -> None:
    result = cli("run", "p.jsonl", *flags)
    assert result.exit_code == ExitCode.BAD_INPUT
    assert f"No such option {told}" in result.stderr


def test_a_missing_file_is_bad_input(bench: Bench) -> None:
    result = cli(*enqueue_words(bench.folder / "missing.jsonl", bench.url))

    assert result.exit_code == 2
    assert "missing.jsonl" in result.stderr


def test_the_same_run_twice_is_refused_and_resumed(bench: Bench) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 2)
    words = enqueue_words(prompts, bench.url)
    run_id = cli(*words).stdout.strip()

    again = cli(*words)
    assert again.exit_code == 6
    assert "--resume" in again.stderr
    assert again.stdout == ""

    resumed = cli(*words, "--resume")
    assert resumed.exit_code == 0
    assert resumed.stdout.strip() == run_id
    assert "0 of 1 shard enqueued" in resumed.stderr


# Redis


@pytest.mark.parametrize("command", ["enqueue", "status", "worker", "run"])
def test_an_unreachable_redis_is_told_without_its_password(tmp_path: Path, command: str) -> None:
    prompts = write_prompts(tmp_path / "p.jsonl", 1)
    words: list[object] = {
        "enqueue": enqueue_words(prompts, NOWHERE),
        "status": ["status", "-u", NOWHERE],
        "worker": ["worker", "--model", MODEL, "-u", NOWHERE],
        "run": ["run", prompts, "--model", MODEL, "--out", tmp_path / "out", "-u", NOWHERE],
    }[command]

    result = cli(*words)

    assert result.exit_code == 3
    assert "mlx-batch: redis://***@127.0.0.1:1/0: ConnectionError" in result.stderr
    assert "start it, or name another by -u or RQ_REDIS_URL" in result.stderr
    assert "hunter2" not in result.output
    assert "Traceback" not in result.output


def test_a_password_among_the_options_of_a_url_is_not_shown_either(tmp_path: Path) -> None:
    result = cli("status", "-u", "unix:///nowhere/redis.sock?password=hunter2&db=1")

    assert result.exit_code == 3
    assert "/nowhere/redis.sock" in result.stderr
    assert "hunter2" not in result.output


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port"])
def test_what_is_no_url_is_bad_usage(url: str) -> None:
    result = cli("status", "-u", url)

    assert result.exit_code == 2
    assert "redis://" in result.stderr
    assert "Traceback" not in result.output


# verify


def test_verify_counts_rows(bench: Bench) -> None:
    def say(prompt: str) -> GenerationOutput:
        if prompt == "prompt 1":
            raise RuntimeError("no")
        return GenerationOutput(prompt, 1, 1, "stop", MODEL)

    spec = bench.enqueue(rows=3, shard_size=2)
    bench.burst(DoubleEngine(say=say))

    result = cli("verify", spec.out)
    assert (result.exit_code, result.stdout) == (0, "3 rows in = 2 ok + 1 error\n")
    assert cli("verify", spec.out, "--strict").exit_code == 1


def test_verify_of_a_dataset_that_lacks_rows(bench: Bench) -> None:
    spec = bench.enqueue(rows=4, shard_size=2)
    bench.burst(DoubleEngine())
    Dataset(Path(spec.out)).layout.part(1, 2).unlink()

    result = cli("verify", spec.out)

    assert result.exit_code == 7
    assert "rows missing: 2 (2, 3)" in result.stderr
    assert "is not complete" in result.stdout


def test_verify_of_what_is_no_dataset(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        result = cli("verify", folder)
        assert result.exit_code == 2
        assert "no mlx-batch dataset" in result.stderr
    assert f"there is no folder {tmp_path}/missing, so" in result.stderr


# worker


def test_a_model_that_can_not_be_loaded_is_bad_input(bench: Bench) -> None:
    result = cli("worker", "--model", "/no/such/model", "-u", bench.url)

    assert result.exit_code == 2
    assert "/no/such/model" in result.stderr
    assert bench.redis.keys("*") == []


def test_a_worker_s_engine_is_bounded_by_its_flags(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []

    def make_engine(*arguments: Any, **_: Any) -> DoubleEngine:
        made.append(arguments)
        return DoubleEngine()

    monkeypatch.setattr("worker.engine.supervisor.SupervisedEngine", make_engine)
    words = ["worker", "--model", MODEL, "-u", redis_url, "--burst"]

    assert cli(*words, "--max-num-seqs", 7, "--kv-cache-bytes", "2GB").exit_code == 0
    assert cli(*words).exit_code == 0

    (model, bounded), (_, free) = made
    assert model == MODEL
    assert bounded == SchedulerConfig(max_num_seqs=7, kv_cache_bytes=2 * 10**9)
    assert free == SchedulerConfig()

    def refuse(_: DoubleEngine) -> None:
        raise KVCacheBudgetError("kv_cache_bytes is 2: raise it")

    monkeypatch.setattr(DoubleEngine, "start", refuse)
    refused = cli(*words, "--kv-cache-bytes", 2)
    assert refused.exit_code == ExitCode.BAD_INPUT
    assert refused.stderr.splitlines()[-1] == "mlx-batch: kv_cache_bytes is 2: raise it"
    assert "Usage" not in refused.stderr


def test_a_worker_reads_and_fetches_what_its_flags_allow_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies: list[MediaPolicy] = []

    def make_engine(*_: Any, media: MediaPolicy, **__: Any) -> DoubleEngine:
        policies.append(media)
        return DoubleEngine()

    monkeypatch.setattr("worker.engine.supervisor.SupervisedEngine", make_engine)
    words = ["worker", "--model", MODEL, "-u", bench.url, "--burst"]

    assert cli(*words).exit_code == 0
    flags = ["--allowed-media-path", bench.folder, "--allowed-media-domain", "example.com"]
    assert cli(*words, *flags).exit_code == 0

    assert policies == [
        MediaPolicy(),
        MediaPolicy(allowed_paths=(bench.folder,), allowed_domains=("example.com",)),
    ]


@pytest.mark.parametrize("flags", [["--output-root", "in"], []], ids=["given", "where it starts"])
def test_a_worker_writes_below_its_output_root_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    inside, outside = bench.enqueue(2, 2, say="in"), bench.enqueue(2, 2)
    Path(inside.out).mkdir()
    monkeypatch.setattr(
        "worker.engine.supervisor.SupervisedEngine", lambda *_, **__: DoubleEngine()
    )
    monkeypatch.chdir(bench.folder if flags else inside.out)
    words = ["worker", "--model", MODEL, "-u", bench.url, "--burst"]

    assert cli(*words, *flags).exit_code == 0

    assert run_status(bench.redis, inside.run_id).is_finished
    (reason,) = set(run_status(bench.redis, outside.run_id).errors.values())
    assert reason.startswith("OutputNotAllowedError: ")
    assert not Path(outside.out).exists()


def test_an_output_root_that_is_no_folder_is_bad_usage(bench: Bench) -> None:
    result = cli(
        "worker", "--model", MODEL, "-u", bench.url, "--output-root", bench.folder / "none"
    )

    assert result.exit_code == 2
    assert "--output-root" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--max-num-seqs", "0"),
        ("--max-num-batched-tokens", "many"),
        ("--kv-cache-bytes", "8 gigabytes"),
    ],
)
def test_bounds_that_make_no_sense_are_bad_usage(flag: str, value: str) -> None:
    result = cli("worker", "--model", MODEL, "-u", NOWHERE, flag, value)

    assert result.exit_code == 2
    assert flag.lstrip("-").replace("-", "_") in result.stderr.replace("-", "_")


# run


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines of the workers that `run` starts; they end at once."""
    started: list[list[str]] = []

    class Ended(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            started.append(command)
            super().__init__([sys.executable, "-c", ""], **options)

    monkeypatch.setattr("worker.local.local_workers.subprocess.Popen", Ended)
    return started


def test_the_workers_of_a_run_may_read_its_inputs_folder(
    bench: Bench, commands: list[list[str]]
) -> None:
    (bench.folder / "in").mkdir()
    (bench.folder / "link").symlink_to("in")
    prompts = write_prompts(bench.folder / "in" / "p.jsonl", 1)
    (bench.folder / "in" / "a.mp4").touch()
    model = bench.folder / "sees"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "qwen2_vl", "vision_config": {}}')
    (model / "model.safetensors").touch()
    words = ["run", "--model", model, "-u", bench.url, "--out"]
    flags = ["--allowed-media-path", bench.folder, "--allowed-media-domain", "*"]

    cli(*words, bench.folder / "one", prompts)
    cli(
        *words,
        bench.folder / "two",
        "--videos",
        bench.folder / "link" / "*.mp4",
        "--prompt",
        "?",
        *flags,
    )

    alone, more = (" ".join(command) for command in commands)
    assert f"--output-root {bench.folder}/one " in alone
    assert f"--allowed-media-path={bench.folder}/in" in alone
    assert alone.count("--allowed-media") == 1
    assert f"--allowed-media-path={bench.folder}/in --allowed-media-path={bench.folder} " in more
    assert "--allowed-media-domain=* " in more


def test_the_workers_of_a_run_get_its_bounds(bench: Bench, commands: list[list[str]]) -> None:
    prompts = write_prompts(bench.folder / "p.jsonl", 1)
    words = ["run", prompts, "--model", MODEL, "--out", bench.folder / "out", "-u", bench.url]

    cli(*words, "--max-num-batched-tokens", 99, "--kv-cache-bytes", "1GiB")

    command = commands[-1]  # before it, the model was looked at for the budget
    assert "--max-num-batched-tokens=99 --kv-cache-bytes=1073741824" in " ".join(command)
    assert not any("--max-num-seqs" in word for word in command)


def test_an_output_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    prompts = write_prompts(tmp_path / "p.jsonl", 1)

    result = cli("run", prompts, "--model", MODEL, "--out", tmp_path / "file" / "out")

    assert result.exit_code in (2, 3)
    assert "file/out" in result.stderr
    assert "Traceback" not in result.output


def test_the_url_is_not_on_the_command_line_of_a_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others can list command lines. The worker here ends at once, for want of a model."""
    commands: list[list[str]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            commands.append(command)
            super().__init__(command, **options)

    monkeypatch.setattr("worker.local.local_workers.subprocess.Popen", Recorded)
    prompts = write_prompts(bench.folder / "p.jsonl", 1)
    (bench.folder / "config.json").write_text('{"model_type": "llama"}')
    (bench.folder / "model.safetensors").touch()
    bench.redis.execute_command("ACL", "SETUSER", "app", "on", ">hunter2", "~*", "&*", "+@all")
    url = bench.url.replace("unix://", "unix://app:hunter2@")
    try:
        words = ["run", prompts, "--model", bench.folder, "--out", bench.folder / "out"]
        result = cli(*words, "--workers", 2, env={"RQ_REDIS_URL": url})
    finally:
        bench.redis.execute_command("ACL", "DELUSER", "app")

    assert result.exit_code == 8
    assert "no worker is left" in result.stderr
    assert "Unable to read" in result.stderr, "the end of the worker's log is shown"
    assert not (bench.folder / "out").exists()
    assert Ledger(bench.redis).runs() == []
    assert bench.redis.keys("mlx-batch:out:*") == []
    assert len(commands) == 2
    assert not any("hunter2" in word for command in commands for word in command)
    assert "hunter2" not in result.output


def test_the_command_is_installed_under_its_name() -> None:
    command = [str(Path(sys.executable).with_name("mlx-batch")), "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.startswith("mlx-batch, version ")
