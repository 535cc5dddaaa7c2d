"""Errors of jobs and datasets; they hang in the tree that `vllm_mlx.errors` draws.

MLXBatchError
├── InputFileError              the prompt file can't be read, or holds bad rows
├── RunExistsError              this very run was enqueued before
├── RunNotFoundError            the server knows no such run
├── RunStateError               the run is not where this can be done with it
├── JobPayloadError             a job's payload is not one this version writes
│   ├── ModelMismatchError          its run is of another model than the worker's
│   └── OutputNotAllowedError       its run's folder is outside what the worker's owner allows
├── LedgerError                 the ledger in Redis holds what this version does not write
├── LeaseLostError              another worker has claimed the shard meanwhile
├── ServerVersionError          the Redis is older than what this version needs
└── DatasetError                the output folder holds another run, or fails verification
"""

from __future__ import annotations

from vllm_mlx.errors import MLXBatchError


class InputFileError(MLXBatchError):
    """The prompt file can't be read, is empty, or holds rows that can't become requests."""


class RunExistsError(MLXBatchError):
    """This very run (same input, model, settings and output) was enqueued before."""


class RunNotFoundError(MLXBatchError):
    """The server knows no run of this name."""


class RunStateError(MLXBatchError):
    """What was asked for can't be done with a run that is still at work."""


class JobPayloadError(MLXBatchError):
    """A job in the queue was not written by this version's producer."""


class ModelMismatchError(JobPayloadError):
    """A run's model is not the one that the worker has."""


class OutputNotAllowedError(JobPayloadError):
    """A run's output folder is not below the worker's `--output-root`."""


class LedgerError(MLXBatchError):
    """Somebody else, or another version, wrote into the ledger."""


class LeaseLostError(MLXBatchError):
    """A worker that slept, or whose Redis was away, came back after its shard was claimed."""


class ServerVersionError(MLXBatchError):
    """The Redis server lacks commands that jobs and workers need."""


class DatasetError(MLXBatchError):
    """The output folder holds another run, can't be written, or does not verify."""
