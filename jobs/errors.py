"""Errors of jobs and datasets, beside those of `vllm_mlx.errors`."""

from __future__ import annotations

from typing import Any

from vllm_mlx.errors import MLXBatchError


class InputFileError(MLXBatchError):
    """The prompt file can't be read, is empty, or holds rows that can't become requests."""


class RunExistsError(MLXBatchError):
    """This very run (same input, model, settings and output) was enqueued before."""


class RunNotFoundError(MLXBatchError):
    """The server knows no run of this name."""


class RunStateError(MLXBatchError):
    """What was asked for can't be done with a run that is still at work."""


class RunHaltedError(MLXBatchError):
    """A run was halted, in order, before it was complete; it can go on.

    Attributes:
        result: what there is of it, a `RunResult`.
    """

    result: Any = None


class JobPayloadError(MLXBatchError):
    """A job in the queue was not written by this version's producer."""


class ModelMismatchError(JobPayloadError):
    """A run's model is not the one that the worker has."""


class OutputNotAllowedError(JobPayloadError):
    """A run's output folder is not below the worker's `--output-root`."""


class LedgerError(MLXBatchError):
    """The ledger in Redis holds what this version does not write."""


class UnsuitableServerError(MLXBatchError):
    """The Redis is a cluster, or takes less than a job needs."""


class LeaseLostError(MLXBatchError):
    """A worker that was suspended, or without Redis, came back after its shard was claimed."""


class ServerVersionError(MLXBatchError):
    """The Redis server lacks commands that jobs and workers need."""


class DatasetError(MLXBatchError):
    """The output folder holds another run, can't be written, or does not verify."""


class OutputTakenError(DatasetError):
    """The output folder holds another run, or files that would be lost."""
