"""`BoundedEnvironment`: Jinja in a sandbox, where a text can't take all time or memory.

What a template may make of a row is bounded by counts, not by a clock, so that the same rows are
refused on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any

from jinja2 import Template, TemplateRuntimeError, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_CHARACTERS = 10_000_000
"""Of one text, and of each value that a template makes on the way to it."""
MOST_STEPS = 200_000
"""Of the loops and macros of one text, together."""

_BUDGET = "\0budget"  # no column's name has a NUL
_STEP = "\0step"
_REPEATING = (nodes.For, nodes.Macro, nodes.CallBlock)
_SIZED = (str, bytes, list, tuple)
_NUMBER = re.compile(r"\d+")
_MOST_BITS = 4096


class BoundError(TemplateRuntimeError):
    """A text is too long, or takes too long."""


class _Budget:
    """What is left of the bounds for one text."""

    def __init__(self) -> None:
        self._steps = MOST_STEPS
        self._characters = MOST_CHARACTERS

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise BoundError(
                f"the template takes more than {MOST_STEPS:,} steps of its loops for one row"
            )

    def take(self, characters: int) -> None:
        self._characters -= characters
        if self._characters < 0:
            raise _too_long()


class _Generator(CodeGenerator):
    """Has what `~` joins be looked at."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """An environment whose texts `render_bounded` makes.

    Args:
        printed: returns a value as it is printed.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, printed: Callable[[Any], Any], **options: Any) -> None:
        super().__init__(finalize=_counting(printed), **options)
        self.filters[_STEP] = _step
        for name, grown in _FILTERS.items():
            self.filters[name] = _checked(self.filters[name], grown)
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        repeated: list[Any] = list(tree.find_all(_REPEATING))
        for repeating in repeated:
            at = repeating.lineno
            step = nodes.Filter(nodes.Const(None), _STEP, [], [], None, None, lineno=at)
            repeating.body.insert(0, nodes.ExprStmt(step, lineno=at))
        tree.set_environment(self)
        return tree

    def joined(self, values: Sequence[Any]) -> str:
        """Return what `~` makes."""
        texts = list(map(str, values))
        _require_small(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _require_small(_of_operator(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name in _METHODS:
            _require_small(_size(_METHODS[name], owner, *args, **named))
        return super().call(__context, __obj, *args, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        safe = super().wrap_str_format(value)
        return None if safe is None else _checked(safe, partial(_formatted, value.__self__))


def render_bounded(template: Template, variables: Mapping[str, Any]) -> str:
    """Return the text that a template of a `BoundedEnvironment` makes.

    Raises:
        BoundError: it would be too long, or take too long.
    """
    budget, pieces, length = _Budget(), [], 0
    for piece in template.generate({**variables, _BUDGET: budget}):
        length += len(piece)
        if length > MOST_CHARACTERS:
            raise _too_long()
        pieces.append(piece)
    return "".join(pieces)


def _too_long() -> BoundError:
    return BoundError(f"the template makes more than {MOST_CHARACTERS:,} characters of one row")


def _counting(printed: Callable[[Any], Any]) -> Callable[[Context, Any], Any]:
    @pass_context
    def count(context: Context, value: Any) -> Any:
        shown = printed(value)
        if isinstance(shown, str):
            context[_BUDGET].take(len(shown))
        return shown

    return count


@pass_context
def _step(context: Context, _: None) -> None:
    context[_BUDGET].step()


def _checked(of: Callable[..., Any], grown: Callable[..., int]) -> Callable[..., Any]:
    """Return a filter that first looks at how long its result will be."""

    @wraps(of)
    def checked(*args: Any, **named: Any) -> Any:
        values = args[1:] if hasattr(of, "jinja_pass_arg") else args
        _require_small(_size(grown, *values, **named))
        return of(*args, **named)

    return checked


def _require_small(length: int) -> None:
    if length > MOST_CHARACTERS:
        raise _too_long()


def _size(grown: Callable[..., int], *args: Any, **named: Any) -> int:
    try:
        return grown(*args, **named)
    except (TypeError, ValueError, AttributeError):
        return 0  # the call itself will say what is wrong


def _of_operator(operator: str, left: Any, right: Any) -> int:
    """Return how long a result is; that of numbers counts where it is beyond all use."""
    match operator:
        case "+" if isinstance(left, _SIZED) and isinstance(right, _SIZED):
            return len(left) + len(right)
        case "*" if isinstance(left, _SIZED) and isinstance(right, int):
            return len(left) * right
        case "*" if isinstance(right, _SIZED) and isinstance(left, int):
            return len(right) * left
        case "**" if isinstance(left, int) and isinstance(right, int):
            is_huge = left.bit_length() * right > _MOST_BITS
            return MOST_CHARACTERS + 1 if is_huge and abs(left) > 1 else 0
        case "%" if isinstance(left, str):
            return _formatted(left, *(right if isinstance(right, tuple) else (right,)))
        case _:
            return 0


def _formatted(text: str, *values: Any, **named: Any) -> int:
    """Return how long a text is at least: a width stands in it, or among the values."""
    widths = [int(each) for each in _NUMBER.findall(text) if len(each) < 20]
    has_given = "*" in text or re.search(r":[^}]*\{", text)
    given = [each for each in (*values, *named.values()) if has_given and isinstance(each, int)]
    return max([*widths, *given], default=0)


def _replaced(text: Any, old: str, new: str, count: int | None = -1) -> int:
    found = str(text).count(old)
    times = found if count in (None, -1) else min(found, int(count or 0))
    return len(str(text)) + times * (len(new) - len(old))


def _padded(_: Any, width: int = 80, *__: Any) -> int:
    return width


def _indented(text: Any, width: int | str = 4, *_: Any, **__: Any) -> int:
    each = width if isinstance(width, int) else len(width)
    return len(str(text)) + each * (str(text).count("\n") + 1)


def _joined(values: Any, separator: str = "", *_: Any, **__: Any) -> int:
    if not isinstance(values, list | tuple):
        return 0
    return sum(len(str(each)) for each in values) + len(separator) * len(values)


_METHODS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    "expandtabs": lambda text, size=8: len(text) + text.count("\t") * size,
    "replace": _replaced,
    "join": lambda separator, values: _joined(values, separator),
}
"""How long what a string's method makes is."""

_FILTERS: dict[str, Callable[..., int]] = {
    "center": _padded,
    "replace": _replaced,
    "indent": _indented,
    "join": _joined,
    "format": _formatted,
    **dict.fromkeys(("batch", "slice"), _padded),
}
