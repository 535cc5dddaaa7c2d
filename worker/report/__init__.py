"""`write_report`: a dataset as one HTML file, to look at what a run has made."""

from __future__ import annotations

from worker.report.writing import write_report

__all__ = ["write_report"]
