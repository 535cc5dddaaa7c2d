"""RQ as a worker uses it: every touch of RQ's internals on the worker's side."""

from rq.executions import Execution
from rq.job import Job

__all__ = ["Execution", "Job"]
