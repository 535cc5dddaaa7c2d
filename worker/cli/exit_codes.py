"""`ExitCode`: how a command ended, for the shell."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from redis.exceptions import RedisError

from jobs.errors import (
    DatasetError,
    InputFileError,
    OutputTakenError,
    RunExistsError,
    RunHaltedError,
    RunNotFoundError,
    RunStateError,
    ServerVersionError,
    UnsuitableServerError,
)
from vllm_mlx.errors import InvalidRequestError, ModelLoadError
from worker.local.embedded_redis import FolderLockedError, RedisServerError

_CONFLICT = (FolderLockedError, OutputTakenError, RunExistsError, RunStateError)
_SERVER = (RedisError, RedisServerError, ServerVersionError, UnsuitableServerError)
_BAD_INPUT = (
    DatasetError,
    InputFileError,
    InvalidRequestError,
    ModelLoadError,
    RunNotFoundError,
)


class ExitCode(IntEnum):
    """The exit codes of all commands; docs/workers.md has them as a table.

    Attributes:
        description: what has happened.
    """

    description: str

    def __new__(cls, value: int, description: str) -> Self:
        code = int.__new__(cls, value)
        code._value_ = value
        code.description = description
        return code

    OK = 0, "all went well; rows may be in error, unless all of them are"
    ROWS_IN_ERROR = 1, "rows ended in error, and `--strict` was given; or `plan` says they would"
    BAD_INPUT = 2, "bad usage or bad input: an option, the prompts, the model; nothing was begun"
    SERVER = (
        3,
        "no Redis: none can be reached or started, or it is full or unsuitable; what is done stays",
    )
    NOTHING_SUCCEEDED = 4, "the run has ended, and every row of it is in error"
    HALTED = (
        5,
        "the run was ended early, by a bound that it was given or by hand; `mlx-batch resume` goes "
        "on",
    )
    CONFLICT = 6, "the output folder or the run is taken: the message says by what"
    NOT_WHOLE = 7, "the dataset does not verify: rows are missing, stand twice or are damaged"
    FAILED = (
        8,
        "a worker, a job or the installation failed; `mlx-batch resume` goes on once it is mended",
    )
    HANGUP = 129, "the terminal was closed; `mlx-batch resume` goes on"
    INTERRUPTED = 130, "ended by Ctrl-C; `mlx-batch resume` goes on"
    TERMINATED = 143, "ended by SIGTERM; `mlx-batch resume` goes on"

    @classmethod
    def of_error(cls, error: Exception) -> ExitCode:
        """Return what an error that a command ends with comes to."""
        if isinstance(error, RunHaltedError):
            return cls.HALTED
        if isinstance(error, _CONFLICT):
            return cls.CONFLICT
        if isinstance(error, _SERVER):
            return cls.SERVER
        return cls.BAD_INPUT if isinstance(error, _BAD_INPUT) else cls.FAILED

    @classmethod
    def of_rows(cls, ok: int, error: int, *, strict: bool) -> ExitCode:
        """Return what the rows of a finished run come to."""
        if error and not ok:
            return cls.NOTHING_SUCCEEDED
        return cls.ROWS_IN_ERROR if error and strict else cls.OK
