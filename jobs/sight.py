"""`Sight`: what a model that sees no images and videos makes of rows that show some."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.bad_rows import BadRows
from jobs.sources import SourceRow
from vllm_mlx.errors import InvalidRequestError, MediaError
from vllm_mlx.model_files import is_blind, sees_nothing


@dataclass(frozen=True, slots=True)
class Sight:
    """Whether a model sees, as far as this machine knows: what it doesn't know may see.

    Attributes:
        blind: the name of a model that does not.
    """

    blind: str | None = None

    @classmethod
    def of(cls, model: str) -> Sight:
        """Look at a model's configuration; raises what `require_model` raises."""
        return cls(model if is_blind(model) else None)

    def tried(self, row: SourceRow) -> SourceRow:
        """Return a row, as a bad one if it shows what the model does not see."""
        if self.blind is None or not shows_media(row):
            return row
        return replace(row, request=None, error=MediaError(sees_nothing(self.blind)))

    def require(self, path: Path, rows: Iterable[SourceRow]) -> None:
        """Refuse an input of whose rows, bad ones aside, the model can answer none.

        No more rows are read than the first that shows nothing.

        Raises:
            InvalidRequestError: with the lines.
        """
        if self.blind is None:
            return
        unseen = BadRows()
        for row in rows:
            if row.request and not shows_media(row):
                return
            if row.request:
                unseen.add(self.tried(row))
        if unseen:
            raise InvalidRequestError(f"{path}: {'; '.join(unseen.described())}")


ANY_SIGHT = Sight()


def shows_media(row: SourceRow) -> bool:
    """Whether a row's request has images or videos."""
    return row.request is not None and bool(row.request.media)
