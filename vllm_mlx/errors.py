"""Every error the library raises on purpose.

An error row of a dataset carries the class name in `error_type`, so the names are stable.
"""

from __future__ import annotations

from collections.abc import Iterable


class MLXBatchError(Exception):
    """Base of all errors raised by mlx-batch."""


class ModelLoadError(MLXBatchError):
    """The model could not be found, read or understood."""


class InvalidRequestError(MLXBatchError, ValueError):
    """A request is outside what is allowed; the message names field, value and range."""


class ContextLengthError(InvalidRequestError):
    """The prompt leaves no room for even one token in the model's context."""


class ChatTemplateError(InvalidRequestError):
    """The model has no chat template, or its template rejects these messages."""


class KVCacheBudgetError(InvalidRequestError):
    """The request could not run even alone within the memory for key-value caches."""


class MediaError(InvalidRequestError):
    """An image or a video can't be used; the message says which, why, and what to do."""


class MediaNotAllowedError(MediaError):
    """The path or host of an image or a video is outside what the engine's owner allows."""


class EngineError(MLXBatchError):
    """The model raised while stepping this request."""


class NonFiniteLogitsError(EngineError):
    """The model computed NaN or infinity for this request."""


class ConstraintError(EngineError):
    """The answer left its constraint, or the constraint is too complex to go on."""


class WorkerKilled(EngineError):
    """The process that ran this request ended abnormally, twice, or with worker after worker."""


class EngineStoppedError(MLXBatchError):
    """The engine was stopped before this request finished."""


class RequestAbortedError(MLXBatchError):
    """The request was aborted by its caller."""


def path_of(parts: Iterable[str | int]) -> str:
    """Return where a value stands in nested ones: `messages[0].content`."""
    path = ""
    for part in map(str, parts):
        if path:
            path += f"[{part}]" if part.lstrip("-").isdecimal() else f".{part}"
        else:
            path = part
    return path


def shown(value: object) -> str:
    """Return `repr(value)` for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
