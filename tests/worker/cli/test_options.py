"""Flags of the command line as the objects they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.parameters import Parameters, settings_of
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.structured_outputs import StructuredOutputs
from vllm_mlx.video_params import VideoParams
from worker.cli.app import main, run, worker
from worker.cli.options import (
    media_options,
    scheduler_options,
    setting_option,
    structured_options,
)
from worker.local.local_workers import media_flags, scheduler_flags
from worker.local.run_settings import media_policy_from, settings_from, structured_outputs_from

FULL = SchedulerConfig.of(max_num_seqs=7, max_num_batched_tokens=512, kv_cache_bytes=8 * 2**30)


def config_of(*flags: str) -> SchedulerConfig:
    found: list[SchedulerConfig] = []

    @click.command()
    @scheduler_options
    def command(**options: Any) -> None:
        found.append(settings_from(SchedulerConfig, options))
        assert not options

    result = CliRunner().invoke(command, flags)
    assert result.exit_code == 0, result.output
    return found[0]


def test_an_engine_is_bounded_by_flags() -> None:
    flags = ["--max-num-seqs", "7", "--max-num-batched-tokens", "512", "--kv-cache-bytes", "8GiB"]
    assert config_of(*flags) == FULL


def test_what_is_not_said_is_left_to_the_backend() -> None:
    assert config_of() == SchedulerConfig()


@pytest.mark.parametrize("config", [SchedulerConfig(), FULL, SchedulerConfig(kv_cache_bytes=1)])
def test_a_config_survives_the_command_line(config: SchedulerConfig) -> None:
    assert config_of(*scheduler_flags(config)) == config


@pytest.mark.parametrize(
    ("command", "classes"),
    [(run, [SamplingParams, VideoParams, SchedulerConfig]), (worker, [SchedulerConfig])],
    ids=["run", "worker"],
)
def test_every_setting_is_a_flag_with_its_description(
    command: click.Command, classes: list[type[Parameters]]
) -> None:
    options = {option.name: option for option in command.params}

    for setting in (each for parameters in classes for each in settings_of(parameters).values()):
        option = options[setting.name]
        assert isinstance(option, click.Option)
        told = str(option.help)
        assert told.startswith(setting.help)
        assert setting.range in told
        assert setting.type == "boolean" or setting.default in told


def policy_of(*flags: str) -> MediaPolicy:
    found: list[MediaPolicy] = []

    @click.command()
    @media_options
    def command(**options: Any) -> None:
        found.append(media_policy_from(options))
        assert not options

    result = CliRunner().invoke(command, flags)
    if result.exception:
        raise result.exception
    return found[0]


def test_nothing_is_allowed_that_was_not_named() -> None:
    assert policy_of() == MediaPolicy()
    assert (policy_of().allowed_paths, policy_of().allowed_domains) == ((), ())


def test_folders_are_allowed_by_what_they_really_are(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    policy = policy_of(
        *("--allowed-media-path", str(tmp_path / "link")),
        *("--allowed-media-path", str(tmp_path / "real" / "..")),
        *("--allowed-media-domain", "example.com", "--allowed-media-domain", "*"),
    )
    assert policy.allowed_paths == (tmp_path / "real", tmp_path)
    assert policy.allowed_domains == ("example.com", "*")
    assert MediaPolicy.of([tmp_path / "link"], []).allowed_paths == (tmp_path / "real",)


def test_a_policy_survives_the_command_line(tmp_path: Path) -> None:
    full = MediaPolicy.of([tmp_path, Path("/")], [".example.com", "*"], "decord")
    for policy in (MediaPolicy(), full):
        assert policy_of(*media_flags(policy)) == policy


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--allowed-media-path", "/no/such/folder"),
        ("--allowed-media-path", "/etc/passwd"),
        ("--allowed-media-domain", ""),
        ("--allowed-media-domain", "https://example.com"),
        ("--allowed-media-domain", "example.com/videos"),
        ("--allowed-media-domain", "example.com:8080"),
    ],
)
def test_what_could_never_match_is_bad_usage(flag: str, value: str) -> None:
    with pytest.raises(InvalidRequestError, match=repr(value)):
        policy_of(flag, value)


def test_no_summary_of_a_command_is_cut() -> None:
    told = CliRunner().invoke(main, ["--help"]).output

    assert "verify" in told
    assert not [line for line in told.splitlines()[1:] if line.endswith("...")]


@pytest.mark.parametrize("seconds", ["-1", "inf", "nan", "soon"])
def test_seconds_are_a_number_that_a_clock_can_hold(seconds: str) -> None:
    words = ["worker", "--model", "m", "-u", "redis://nowhere", f"--grace={seconds}"]
    result = CliRunner().invoke(main, words)

    assert result.exit_code == 2
    assert "Invalid value for '--grace'" in result.output
    assert "x<=" not in CliRunner().invoke(main, ["worker", "--help"]).output


def outputs_of(*flags: str) -> StructuredOutputs | None:
    found: list[StructuredOutputs | None] = []

    @click.command()
    @setting_option(settings_of(SamplingParams)["structured_outputs"])
    @structured_options
    def command(**options: Any) -> None:
        found.append(structured_outputs_from(options))
        assert not options

    result = CliRunner().invoke(command, flags)
    if result.exception:
        raise result.exception
    return found[0]


def test_flags_of_constraints(tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "a.lark"
    schema.write_text('{"type": "object"}')
    grammar.write_text('start: "a"')
    assert outputs_of() is None
    for flag, value, given in [
        ("--json-schema", str(schema), {"json": {"type": "object"}}),
        ("--grammar", str(grammar), {"grammar": 'start: "a"'}),
        ("--regex", "a,b", {"regex": "a,b"}),
        ("--structured-outputs", '{"json_object": true}', {"json_object": True}),
        ("--response-format", '{"type": "json_object"}', {"json_object": True}),
        ("--choices", "pos, neg,neutral", {"choice": ["pos", "neg", "neutral"]}),
    ]:
        assert outputs_of(flag, value) == StructuredOutputs.of(given)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--choices", "a,,b"], "--choices: choice: ''"),
        (["--choices", "a,a"], "--choices: choice: 'a' stands there twice"),
        (["--regex", "("], "--regex: .*unclosed"),
        (["--regex", "a", "--choices", "b"], "--choices and --regex: give one of them"),
        (["--response-format", '{"type": "x"}'], "--response-format: type should be text, json"),
        (["--structured-outputs", '{"a": 1}'], "--structured-outputs: a: unknown field"),
    ],
)
def test_flags_of_constraints_that_are_refused(flags: list[str], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        outputs_of(*flags)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "--json-schema: not JSON"),
        (b'{"typ": "object"}', "did you mean type"),
        (b"\xff", "--json-schema: .*utf-8"),
    ],
)
def test_a_schema_file_that_is_refused(text: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(text)
    with pytest.raises(InvalidRequestError, match=words):
        outputs_of("--json-schema", str(tmp_path / "s.json"))
