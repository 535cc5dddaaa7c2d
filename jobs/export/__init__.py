"""A finished dataset in the formats of other programs."""

from __future__ import annotations

from jobs.export.exporting import Exported, ExportFormat, export

__all__ = ["ExportFormat", "Exported", "export"]
