"""`RowIds`: every row's id, and that no two rows share one."""

from __future__ import annotations

import ast
import re
from hashlib import blake2b

from vllm_mlx.errors import InvalidRequestError

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_TWICE = "an earlier row has the same id"
_POSITION = (
    "row {} counted from 0 has no id of its own and goes by this one; give every row an id, or none"
)
_TAKEN = re.compile(rf"(?:^|; )id=({_QUOTED}): (?:{_TWICE}|{_POSITION.format('[0-9]+')})$")


class RowIds:
    """Hands out ids in row order: the row's own, or its position where it has none.

    An own id costs about 100 bytes here, whatever its length, a position one byte.
    """

    def __init__(self) -> None:
        self._own: set[int] = set()
        self._by_position = bytearray()

    def claim(self, row: int, own: str | None) -> str:
        """Return the id of `row`.

        Raises:
            InvalidRequestError: it stands for an earlier row already; `substitute` has another.
        """
        if own is None:
            return self._claim_position(row)
        if self._names_position(own):
            raise InvalidRequestError(f"id={own!r}: {_POSITION.format(own)}")
        digest = _digest(own)
        if digest in self._own:
            raise InvalidRequestError(f"id={own!r}: {_TWICE}")
        self._own.add(digest)
        return own

    def substitute(self, row: int) -> str:
        """Return an id for a row whose own is taken."""
        name = str(row)
        while self._names_position(name) or _digest(name) in self._own:
            name = f"row-{name}"
        return self.claim(row, None if name == str(row) else name)

    def _claim_position(self, row: int) -> str:
        name = str(row)
        if self._own and _digest(name) in self._own:
            raise InvalidRequestError(
                f"id: missing, and an earlier row has the id {name!r} which would stand in, "
                "this row's position counted from 0; give every row an id, or none"
            )
        self._by_position.extend(bytes(row - len(self._by_position)))
        self._by_position.append(True)
        return name

    def _names_position(self, name: str) -> bool:
        if not name.isdecimal() or name != str(int(name)):
            return False
        row = int(name)
        return row < len(self._by_position) and bool(self._by_position[row])


def refused_id(error: str) -> str | None:
    """Return the id that a row brought and could not have, by what is said of it; else None."""
    found = _TAKEN.search(error)
    return None if found is None else str(ast.literal_eval(found[1]))


def _digest(name: str) -> int:
    # As an integer the digest takes 16 bytes less than as bytes.
    return int.from_bytes(blake2b(name.encode(), digest_size=16).digest())
