"""Prompt files, read in constant memory: JSONL, OpenAI-batch JSONL, text, CSV and Parquet.

`read_requests` validates every row and never stops at a bad one. `read_raw` walks the same rows
again without validation; what it yields can be sent elsewhere as JSON, where `parse_row`,
`sample_count` and `carried_columns` make of it what `read_requests` did. A producer takes either
a prompt file or media files with one prompt, as an `Input`.
"""

from __future__ import annotations

from jobs.sources.files import fingerprint
from jobs.sources.formats import Format, detect_format
from jobs.sources.inputs import Input, PromptFile, input_of
from jobs.sources.media_files import MediaFiles
from jobs.sources.reader import (
    carried_columns,
    parse_row,
    read_raw,
    read_requests,
    sample_count,
    validated,
)
from jobs.sources.rows import RawRow, SourceRow

__all__ = [
    "Format",
    "Input",
    "MediaFiles",
    "PromptFile",
    "RawRow",
    "SourceRow",
    "carried_columns",
    "detect_format",
    "fingerprint",
    "input_of",
    "parse_row",
    "read_raw",
    "read_requests",
    "sample_count",
    "validated",
]
