"""`Phase`: what a run does now, in the words that a screen shows."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What a worker says of itself (from LOADING to IDLE), and what a run is in besides."""

    READING = "reading the input"
    STARTING = "starting"
    LOADING = "loading the model"
    PREFILL = "prefill"
    ANSWERING = "answering"
    IDLE = "idle"
    VERIFYING = "verifying"
    REPORTING = "writing the report"
    ENDING = "ending"
    FINISHED = "finished"
    STOPPED = "stopped"
