"""`Forecast`: how much of a run is left, from the tokens that were seen of it."""

from __future__ import annotations

from dataclasses import dataclass

from worker.status.work import Work

LEAST_LEFT = 0.5  # of the mean length is expected of a row under way, however long it is already
SURE_AFTER = 5.0  # seconds of work, after which time that engines stood still counts, too


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of a run, given what is known.

    Attributes:
        rows: of the run.
        rows_done: those that have ended.
        rows_error: those of them that are in error, and say nothing of how long an answer is.
        running: those in a batch.
        prompt_tokens, completion_tokens: of the rows that have ended.
        under_way: tokens generated for rows that have not ended.
        max_tokens: most that a row may have, unless it says so itself.
        work: what the engines did for it, since it went on.
        workers: how many engines share it.
        seconds: since the first of them was at work.
    """

    rows: int
    rows_done: int
    rows_error: int
    running: int
    prompt_tokens: int
    completion_tokens: int
    under_way: int
    max_tokens: int
    work: Work
    workers: int
    seconds: float

    @property
    def rows_answered(self) -> int:
        return self.rows_done - self.rows_error

    @property
    def tokens_per_row(self) -> float:
        """The mean length of an answer, `max_tokens` until one has ended.

        Rows that have ended are the shorter ones at first. All tokens by the number of ended rows
        is the mean without that bias where rows end with the same chance at every token.
        """
        if not self.rows_answered:
            return self.max_tokens
        seen = (self.completion_tokens + self.under_way) / self.rows_answered
        longest = max(self.max_tokens, self.completion_tokens / self.rows_answered)
        return min(seen, longest)

    @property
    def rows_left(self) -> int:
        return max(0, self.rows - self.rows_done)

    @property
    def rows_worth(self) -> float:
        """How many rows the tokens of those under way are."""
        most = min(self.running, self.rows_left) * (1 - LEAST_LEFT)
        return min(self.under_way / self.tokens_per_row, most) if self.tokens_per_row else 0.0

    @property
    def fraction(self) -> float:
        """Which part of the run is done, from 0 to 1."""
        return min(1.0, (self.rows_done + self.rows_worth) / self.rows) if self.rows else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take; None before the engines have shown their speed."""
        if not self.rows_left:
            return 0.0
        begun = self.rows_answered + self.running
        work, workers = self.work, max(1, self.workers)
        if not begun or not self._speed_is_known:
            return None
        prompt = self.prompt_tokens_seen / begun * max(0, self.rows_left - self.running)
        completion = self.tokens_per_row * (self.rows_left - self.rows_worth)
        left = _times(prompt, work.prefill_seconds, work.prompt_tokens)
        left += _times(completion, work.decode_seconds, work.completion_tokens)
        return left / workers * self._slowness(workers)

    @property
    def _speed_is_known(self) -> bool:
        if not self.rows_answered:
            return self.under_way > 2 * self.running > 0
        return bool(self.work.completion_tokens or self.work.prompt_tokens)

    @property
    def prompt_tokens_seen(self) -> int:
        """Prompt tokens of the rows that have begun."""
        return max(self.prompt_tokens, self.work.prompt_tokens)

    def _slowness(self, workers: int) -> float:
        """How many times longer the work took than the engines were at it: media are read, too."""
        at_work = self.work.seconds / workers
        return max(1.0, self.seconds / at_work) if self.seconds > SURE_AFTER and at_work else 1.0


def _times(tokens: float, seconds: float, seen: int) -> float:
    return tokens * seconds / seen if seen else 0.0
