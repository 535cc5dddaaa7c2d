"""`BoundedEnvironment`: Jinja in a sandbox, where a text can't take all time or memory.

What a template may make of a row is bounded by counts, not by a clock, so that the same rows are
refused on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

from jinja2 import Template, TemplateRuntimeError, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jobs.sources.render_sizes import (
    FILTERS,
    METHODS,
    size_of,
    size_of_format,
    size_of_operator,
)

MOST_CHARACTERS = 10_000_000
"""Of one text, and of each value that a template makes on the way to it."""
MOST_ON_THE_WAY = 100_000_000
"""Characters of all these values together."""
MOST_STEPS = 200_000
"""Of the loops and macros of one text, together."""

_STEP = "\0step"
_REPEATING = (nodes.For, nodes.Macro, nodes.CallBlock)


class BoundError(TemplateRuntimeError):
    """A text is too long, or takes too long."""


class _Budget:
    """What is left of the bounds for one text."""

    def __init__(self) -> None:
        self._steps = MOST_STEPS
        self._characters = MOST_CHARACTERS
        self._on_the_way = MOST_ON_THE_WAY

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise BoundError(
                f"the template takes more than {MOST_STEPS:,} steps of its loops for one row"
            )

    def print(self, characters: int) -> None:
        self._characters -= characters
        if self._characters < 0:
            raise _too_long()

    def make(self, characters: int) -> None:
        self._on_the_way -= characters
        if self._on_the_way < 0:
            raise BoundError(
                f"the template makes more than {MOST_ON_THE_WAY:,} characters on the way to the "
                "text of one row"
            )


_CURRENT: ContextVar[_Budget | None] = ContextVar("budget", default=None)
"""Of the text that is made; there is none while a template is compiled."""


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
        for name, grown in FILTERS.items():
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
        _require_small(size_of_operator(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name in METHODS:
            args = tuple(map(_in_bounds, args))
            _require_small(size_of(METHODS[name], owner, *args, **named))
        return super().call(__context, __obj, *args, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        safe = super().wrap_str_format(value)
        return None if safe is None else _checked(safe, partial(size_of_format, value.__self__))


def render_bounded(template: Template, variables: Mapping[str, Any]) -> str:
    """Return the text that a template of a `BoundedEnvironment` makes.

    Raises:
        BoundError: it would be too long, or take too long.
    """
    token, pieces, length = _CURRENT.set(_Budget()), [], 0
    try:
        for piece in template.generate(variables):
            length += len(piece)
            if length > MOST_CHARACTERS:
                raise _too_long()
            pieces.append(piece)
    finally:
        _CURRENT.reset(token)
    return "".join(pieces)


def _too_long() -> BoundError:
    return BoundError(f"the template makes more than {MOST_CHARACTERS:,} characters of one row")


def _counting(printed: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def count(value: Any) -> Any:
        shown = printed(value)
        if isinstance(shown, str) and (budget := _CURRENT.get()):
            budget.print(len(shown))
        return shown

    return count


@pass_context  # or it would be called once, while the template is compiled
def _step(_: Context, __: None) -> None:
    if budget := _CURRENT.get():
        budget.step()


def _checked(of: Callable[..., Any], grown: Callable[..., int]) -> Callable[..., Any]:
    """Return a filter that first looks at how long its result will be."""

    @wraps(of)
    def checked(*args: Any, **named: Any) -> Any:
        passed = int(hasattr(of, "jinja_pass_arg"))
        values = tuple(map(_in_bounds, args[passed:]))
        _require_small(size_of(grown, *values, **named))
        return of(*args[:passed], *values, **named)

    return checked


def _require_small(length: int) -> None:
    if length > MOST_CHARACTERS:
        raise _too_long()
    if budget := _CURRENT.get():
        budget.make(max(length, 0))


def _in_bounds(value: Any) -> Any:
    """Return what a generator yields as a list, if it is not too long; anything else as it is."""
    if not isinstance(value, Iterator):
        return value
    found, length = [], 0
    for each in value:
        length += 1 + (len(each) if isinstance(each, str) else 0)
        if length > MOST_CHARACTERS:
            raise _too_long()
        found.append(each)
    return found
