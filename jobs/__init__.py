"""Jobs as data: requests, prompt files, the run's ledger and its dataset. Imports no MLX."""

from jobs.producer import enqueue_run
from jobs.requests import GenerationRequest
from jobs.sources import read_requests

__all__ = ["GenerationRequest", "enqueue_run", "read_requests"]
