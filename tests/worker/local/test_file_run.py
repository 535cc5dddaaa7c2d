"""`run_file`: the whole of `mlx-batch run` as a function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import worker
from jobs.errors import InputFileError, RunExistsError
from tests.helpers.command_line import cli
from tests.helpers.engines import write_prompts
from vllm_mlx.errors import InvalidRequestError
from worker.cli.app import run
from worker.cli.exit_codes import ExitCode
from worker.local.file_run import setting_names
from worker.status.phase import Phase
from worker.status.progress import RunProgress

OWN = {"prompts", "model", "out", "url", "report", "workers", "on_finish"}
OF_THE_COMMAND = {"strict", "yes"}  # are about its exit code, and its questions


def test_every_option_of_the_command_is_a_setting() -> None:
    options = {option.name for option in run.params}
    assert options - OF_THE_COMMAND == setting_names() | OWN


def test_a_file_becomes_a_dataset(
    tmp_path: Path, text_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 4)
    with prompts.open("a") as file:
        file.write(json.dumps({"id": "hot", "prompt": "a", "temperature": 7}) + "\n")
    told: list[RunProgress] = []
    given: dict[str, Any] = {"model": text_folder, "out": tmp_path / "out", "shard_size": 2}
    given |= {"max_tokens": 6, "choices": ["yes", "no"], "skip_bad_rows": True}

    result = worker.run_file(str(prompts), progress=told.append, max_num_seqs=2, **given)

    assert (result.rows, result.ok, result.error) == (5, 4, 1)
    assert {kind: found.count for kind, found in result.errors.items()} == {
        "InvalidRequestError": 1
    }
    assert result.out == tmp_path / "out"
    assert result.decode_tokens_per_second
    assert result.seconds > 0
    rows = list(result.read())
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3", "hot"]
    assert {row["text"] for row in rows[:4]} <= {"yes", "no"}
    assert result.completion_tokens == sum(row["completion_tokens"] for row in rows)

    phases = list(dict.fromkeys(progress.phase for progress in told))
    assert phases[:3] == [Phase.READING, Phase.STARTING, Phase.LOADING]
    read = [progress.rows_read for progress in told if progress.phase is Phase.READING]
    assert (read[0], read[-1]) == (0, 5)
    last = told[-1]
    assert (last.phase, last.rows_done, last.fraction) == (Phase.FINISHED, 5, 1.0)
    assert last.error_types == {"InvalidRequestError": 1}
    assert capsys.readouterr().out == "", "a callback is all that is told"

    with pytest.raises(RunExistsError):
        worker.run_file(prompts, **given)
    again = worker.run_file(prompts, resume=True, progress=True, **given)
    assert (again.run_id, again.ok, again.decode_tokens_per_second) == (result.run_id, 4, None)
    assert "finished, 5/5 rows" in capsys.readouterr().out

    # Its folder is enough to go on: model and bounds are as before.
    before = {row["id"]: row["finished_at"] for row in result.read()}
    retried = cli("retry", tmp_path / "out", "--errors", "--type", "InvalidRequestError")
    assert retried.exit_code == ExitCode.OK, retried.output
    assert retried.stderr == "1 row to be tried again\n"
    assert "finished, 5/5 rows, 1 in error" in retried.stdout
    assert "mlx-batch retry" not in retried.stdout, "it would end so again"
    after = {row["id"]: row["finished_at"] for row in result.read()}
    assert [each for each in after if after[each] != before[each]] == ["hot"]
    assert not (tmp_path / "out" / "_job" / "redis").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_token": 5}, TypeError, "no setting 'max_token'; did you mean 'max_tokens'?"),
        ({"strict": True}, TypeError, "no setting 'strict'"),
        ({"guided_choice": ["a"]}, InvalidRequestError, "guided_choice: not supported; use struct"),
        ({"max_completion_tokens": 5}, InvalidRequestError, "not supported; use max_tokens"),
        ({"response_format": "json_object"}, InvalidRequestError, "response-format: should be an"),
        (
            {"retry_incomplete": True, "guided_json": {}},
            InvalidRequestError,
            "retry_incomplete: is for constrained answers, and no row's is",
        ),
        ({"max_tokens": -1}, InvalidRequestError, "max_tokens"),
        ({"workers": 0}, InvalidRequestError, "workers=0: should be 1 or more"),
        ({"choices": "a,b", "regex": "a"}, InvalidRequestError, "give one of them"),
        ({"allowed_media_path": "/no/such"}, InvalidRequestError, "/no/such"),
        ({"prompts": "/no/such.jsonl"}, InputFileError, "/no/such.jsonl"),
        ({"prompts": ["a", "b"]}, InvalidRequestError, "prompts is a list: should be the path of"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 1)
    given: dict[str, Any] = {"prompts": prompts, "model": "smollm2-135m", "out": tmp_path / "out"}

    with pytest.raises(error, match=message.replace("?", r"\?")):
        worker.run_file(**given | settings)

    assert not (tmp_path / "out" / "data").exists()


def test_the_package_exports_nothing_else() -> None:
    with pytest.raises(AttributeError, match="run_files"):
        worker.run_files  # noqa: B018
