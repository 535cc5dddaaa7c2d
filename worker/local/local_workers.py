"""`LocalWorkers`: the worker processes of one run on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Self

from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.local.worker_settings import WorkerSettings

LOG_LINES = 12  # of a worker that has failed


class LocalWorkers:
    """Run while they are entered, each with a log of its own.

    Args:
        url: of their Redis.
        settings: what they are told.
        out: the only folder that they write.
        grace: seconds that rows may go on when they are to end.
    """

    def __init__(self, url: str, settings: WorkerSettings, out: Path, grace: float) -> None:
        count = settings.workers
        self.names = [uuid.uuid4().hex for _ in range(count)]
        self._command = [sys.executable, "-m", "worker.cli", "worker", "--burst"]
        self._command += ["--output-root", str(out), f"--grace={grace:g}", *worker_flags(settings)]
        if url.startswith("unix:"):
            # Our own server: it ends with this process, and is not started again while we run.
            self._command += ["--redis-timeout", "5"]
        # The URL may hold a password: not on a command line that others can list.
        self._environment = {**os.environ, "RQ_REDIS_URL": url}
        if count > 1:
            # Several BLAS threads on cores that others use are many times slower than one.
            self._environment.setdefault("OPENBLAS_NUM_THREADS", "1")
        self._logs = [out / "_job" / f"worker-{number}.log" for number in range(count)]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def is_any_alive(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    @property
    def log(self) -> Path:
        """The log of the first."""
        return self._logs[0]

    @property
    def last_words(self) -> str:
        """How that log ends."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self) -> None:
        """Ask all to end; asked again they do so at once."""
        for process in self._processes:
            process.terminate()

    def kill(self) -> None:
        for process in self._processes:
            process.kill()

    def wait(self) -> None:
        for process in self._processes:
            process.wait()

    def __enter__(self) -> Self:
        self._logs[0].parent.mkdir(parents=True, exist_ok=True)
        try:
            for name, log in zip(self.names, self._logs, strict=True):
                self._start(name, log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, name: str, log: Path) -> None:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self._command, "--name", name],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches us, and we stop the workers in order
            )
        self._processes.append(process)

    def __exit__(self, *_: object) -> None:
        self.stop()
        try:
            self.wait()
        except BaseException:  # Ctrl-C: one of them hangs
            self.kill()
            self.wait()
            raise


def worker_flags(settings: WorkerSettings) -> list[str]:
    """Return the flags of `mlx-batch worker` that tell it these settings."""
    flags = [f"--model={settings.model}"]
    if settings.adapter is not None:
        flags.append(f"--adapter={settings.adapter}")
    if settings.report is not None:
        flags.append("--report" if settings.report else "--no-report")
    return [*flags, *scheduler_flags(settings.scheduler), *media_flags(settings.media)]


def scheduler_flags(config: SchedulerConfig) -> list[str]:
    """Return the flags from which `settings_from` makes this config."""
    given = config.model_dump(exclude_none=True).items()
    return [f"--{name.replace('_', '-')}={int(value)}" for name, value in given]


def media_flags(policy: MediaPolicy) -> list[str]:
    """Return the flags from which `media_policy_from` makes this policy."""
    paths = [f"--allowed-media-path={path}" for path in policy.allowed_paths or ()]
    domains = [f"--allowed-media-domain={host}" for host in policy.allowed_domains or ()]
    return [*paths, *domains, f"--video-reader={policy.video_reader}"]


def report_media_flags(policy: MediaPolicy) -> list[str]:
    """Return flags of `report` that let it read what a worker may, but fetch nothing again."""
    return media_flags(replace(policy, allowed_domains=()))
