"""Prompt files, read in constant memory: JSONL, OpenAI-batch JSONL, text, CSV and Parquet.

`read_requests` validates every row and never stops at a bad one. A producer takes an `Input`,
either a prompt file or media files, and walks the same rows again without validation: they can be
sent elsewhere as JSON, where the input's `Dialect` makes the same requests of them. A `Template`
makes requests of rows that are none; it is rendered here, never where they are sent.
"""

from __future__ import annotations

from jobs.sources.formats import Format, detect_format
from jobs.sources.inputs import Input, input_of, shows_files
from jobs.sources.media_files import MediaFiles
from jobs.sources.prompt_file import PromptFile
from jobs.sources.rows import RawRow, SourceRow
from jobs.sources.selection import Selected, Selection
from jobs.sources.template import Template
from jobs.sources.validation import read_requests, validated

__all__ = [
    "Format",
    "Input",
    "MediaFiles",
    "PromptFile",
    "RawRow",
    "Selected",
    "Selection",
    "SourceRow",
    "Template",
    "detect_format",
    "input_of",
    "read_requests",
    "shows_files",
    "validated",
]
