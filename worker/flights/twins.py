"""`Twins`: gives rows that ask the same as an earlier one of their run the answer of that one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, cast

from redis import Redis

from jobs.errors import LedgerError
from jobs.ledger import read_row
from jobs.ledger.keys import answers_key
from jobs.result_row import ResultRow
from worker.flights.shard_flight import ShardFlight

logger = logging.getLogger("mlx_batch.worker")


class Twins:
    """Keeps answers in Redis that other rows wait for, across the shards and workers of a run.

    A row never waits for what this worker has not in hand: where its first one is neither answered
    nor here, with another worker or in a shard that failed, it is answered like any other.
    """

    def __init__(self, connection: Redis) -> None:
        self._redis = connection

    def keep(self, flight: ShardFlight) -> None:
        """Keep the answers of a flight that were just recorded, and that others wait for."""
        if flight.to_keep:
            said: dict[Any, Any] = {key: row.encode() for key, row in flight.to_keep.items()}
            self._redis.hset(answers_key(flight.spec.run_id), mapping=said)
            flight.to_keep.clear()

    def hand_out(self, waiting: Iterable[ShardFlight], all: Iterable[ShardFlight]) -> None:
        """Give rows that wait what there is, and the engine those that would wait in vain.

        Args:
            all: the flights of this worker.
        """
        in_hand = {(each.spec.run_id, key) for each in all for key in each.kept_later}
        for flight in waiting:
            answers = self._answers(flight.spec.run_id, set(flight.waiting.values()))
            alone = []
            for place, key in list(flight.waiting.items()):
                if answer := answers.get(key):
                    flight.copy(place, answer)
                elif (flight.spec.run_id, key) not in in_hand:
                    alone.append(place)
            flight.ask(alone)

    def _answers(self, run_id: str, keys: set[str]) -> dict[str, ResultRow]:
        ordered = sorted(keys)
        found = cast(list[bytes | None], self._redis.hmget(answers_key(run_id), ordered))
        answers = {}
        for key, raw in zip(ordered, found, strict=True):
            try:
                if raw is not None:
                    answers[key] = read_row(raw)
            except LedgerError as error:
                logger.warning("a row is answered again: %s", error)
        return answers
