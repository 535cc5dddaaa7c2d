"""Workers as the tests of `worker/` have them."""

from tests.worker.conftest import signal_handlers, start_worker

__all__ = ["signal_handlers", "start_worker"]
