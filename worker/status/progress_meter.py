"""`ProgressMeter`: makes `RunProgress` of what the ledger and the workers say."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress

from redis import Redis

from jobs.errors import LedgerError
from jobs.ledger import Counts, read_row
from jobs.ledger.keys import rows_channel
from jobs.result_row import ResultRow
from jobs.run_spec import RunSpec
from worker.status.forecast import Forecast
from worker.status.live import Live
from worker.status.phase import Phase
from worker.status.progress import RunProgress
from worker.status.status import RunStatus
from worker.status.work import Work

SPEED_OVER = 5.0  # seconds that the speeds of now are taken over
_AT_WORK = (Phase.PREFILL, Phase.ANSWERING)


class ProgressMeter:
    """Watches one run from now on.

    Args:
        own: names of the workers that work for this run only; what others had done before is none
            of it.
        began: when the run began, by `time.monotonic()`.
    """

    def __init__(self, spec: RunSpec, own: Collection[str], began: float) -> None:
        self._spec = spec
        self._began = began
        self._phase = Phase.STARTING
        self._at_work_since: float | None = None
        self._fraction = 0.0
        self._before: Counts | None = None
        self._first = dict.fromkeys(own, Work())
        self._last: dict[str, Work] = {}
        self._recent: deque[tuple[float, Work]] = deque()

    @property
    def work(self) -> Work:
        """What all workers have done for the run, or since it is watched."""
        return sum_of(self._of_each())

    def read(
        self, status: RunStatus, *, sample: ResultRow | None = None, grace: float | None = None
    ) -> RunProgress:
        """Return where the run stands.

        Args:
            sample: a row of it.
            grace: seconds that rows may go on, if it is being ended.
        """
        now = time.monotonic()
        self.listen(status.workers)
        self._phase = _phase(status) or self._phase
        halt = status.halt if self._phase is not Phase.FINISHED else None
        phase = self._phase if grace is None and halt is None else Phase.ENDING
        if self._phase in _AT_WORK and self._at_work_since is None:
            self._at_work_since = now
        counts = status.done + status.partial
        self._before = self._before or counts
        work = self.work
        recent = self._speeds(now, work)
        living = status.workers.values()
        running = sum(live.running for live in living)
        forecast = Forecast(
            rows=self._spec.rows,
            rows_done=counts.rows,
            rows_error=counts.error,
            running=running,
            prompt_tokens=counts.prompt_tokens,
            completion_tokens=counts.completion_tokens,
            under_way=self._under_way(work, counts),
            max_tokens=self._spec.sampling.max_tokens,
            work=work,
            workers=sum(live.phase in _AT_WORK for live in living),
            seconds=now - (self._at_work_since or now),
        )
        # A bar does not move back: not when rows end later than the first, nor when they are cut.
        self._fraction = max(self._fraction, forecast.fraction)
        return RunProgress(
            phase=phase,
            run_id=self._spec.run_id,
            rows=self._spec.rows,
            rows_done=counts.rows,
            rows_incomplete=counts.incomplete,
            error_types=_by_type(counts),
            fraction=self._fraction,
            elapsed_seconds=now - self._began,
            remaining_seconds=None if status.is_finished or halt else forecast.seconds_left,
            prompt_tokens=work.prompt_tokens,
            completion_tokens=work.completion_tokens,
            prompt_tokens_per_second=recent[0],
            completion_tokens_per_second=recent[1],
            prefill_tokens_per_second=sum(w.prefill_tokens_per_second for w in self._of_each()),
            decode_tokens_per_second=sum(w.decode_tokens_per_second for w in self._of_each()),
            workers=len(status.workers),
            running=running,
            max_num_seqs=sum(live.max_num_seqs for live in living),
            waiting=sum(live.waiting for live in living),
            slower_way=next((live.way for live in living if live.is_slower_way), ""),
            sample=sample,
            grace_seconds=grace,
            halt=halt,
            before=self._before,
        )

    def listen(self, workers: dict[str, Live]) -> None:
        """Take what workers say; what one says when it ends is its whole work."""
        for name, live in workers.items():
            self._last[name] = Work.of(live)
            self._first.setdefault(name, self._last[name])

    def _of_each(self) -> list[Work]:
        return [work.less(self._first[name]) for name, work in self._last.items()]

    def _under_way(self, work: Work, counts: Counts) -> int:
        assert self._before is not None
        ended = counts.completion_tokens - self._before.completion_tokens
        return max(0, work.completion_tokens - ended)

    def _speeds(self, now: float, work: Work) -> tuple[float, float]:
        """Return prompt and completion tokens per second of the last seconds."""
        self._recent.append((now, work))
        while len(self._recent) > 2 and self._recent[1][0] <= now - SPEED_OVER:
            self._recent.popleft()
        then, before = self._recent[0]
        done = work.less(before)
        seconds = max(now - then, 1e-9) if done.seconds else float("inf")
        return done.prompt_tokens / seconds, done.completion_tokens / seconds


class RecordedRows:
    """Listens to the rows of a run as they are recorded."""

    def __init__(self, connection: Redis, run_id: str) -> None:
        self._channel = connection.pubsub(ignore_subscribe_messages=True)
        self._channel.subscribe(rows_channel(run_id))
        self._last: ResultRow | None = None

    def last(self) -> ResultRow | None:
        """Return the last one that was recorded since the start."""
        raw = None
        while (message := self._channel.get_message()) is not None:
            raw = message["data"]
        if raw is not None:
            with suppress(LedgerError):  # others may publish there
                self._last = read_row(raw)
        return self._last

    def close(self) -> None:
        self._channel.close()


def sum_of(works: Iterable[Work]) -> Work:
    total = Work()
    for work in works:
        total = total.plus(work)
    return total


def _phase(status: RunStatus) -> Phase | None:
    """Return what a run does; None if nobody says: it does what it did."""
    if status.is_finished:
        return Phase.FINISHED
    if status.rows_done >= status.spec.rows:
        return Phase.VERIFYING
    said = {live.phase for live in status.workers.values()}
    for phase in (Phase.ANSWERING, Phase.PREFILL, Phase.LOADING):
        if phase in said:
            return phase
    return None


def _by_type(counts: Counts) -> dict[str, int]:
    """Return rows in error by type; those that no type was counted of are of none."""
    types = dict(counts.error_types)
    if untold := counts.error - sum(types.values()):
        types[""] = types.get("", 0) + untold
    return types
