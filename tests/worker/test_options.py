"""Flags of the command line as the objects they stand for."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from vllm_mlx.scheduler_config import SchedulerConfig
from worker.options import scheduler_config_from, scheduler_flags, scheduler_options

FULL = SchedulerConfig(max_num_seqs=7, max_num_batched_tokens=512, kv_cache_bytes=8 * 2**30)


def config_of(*flags: str) -> SchedulerConfig:
    found: list[SchedulerConfig] = []

    @click.command()
    @scheduler_options
    def command(**options: Any) -> None:
        found.append(scheduler_config_from(options))
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
