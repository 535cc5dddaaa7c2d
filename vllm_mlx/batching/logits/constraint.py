"""`Constraint`: what a row may still say; `Grammars` makes them for one model.

It never fails open: a token that the grammar has not is an error of its row.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask_par
from numpy.typing import NDArray

from vllm_mlx.batching.logits.vocabulary import Vocabulary
from vllm_mlx.batching.text.opening import Opening
from vllm_mlx.batching.text.thinking import Thinking
from vllm_mlx.errors import ConstraintError, InvalidRequestError
from vllm_mlx.grammar_errors import in_words
from vllm_mlx.structured_outputs import LIMITS, StructuredOutputs

Mask = NDArray[np.int32]
"""A bit a token, 32 a number: `[R, W]`."""
TEMPLATES = 256
"""Grammars that are kept compiled; a job has one, or one a row."""
COPIES = 8
"""Rows that share one compiled grammar: it makes masks for one of them at a time."""
MOST_THREADS = 16


@dataclass
class _Templates:
    """One grammar, compiled once for every so many rows: what is copied shares a lock."""

    compiled: list[LLMatcher] = field(default_factory=list)
    copied: int = 0


class Grammars:
    """Compiles grammars for the tokens of one model. Thread-safe.

    Args:
        tokenizer: of llguidance, as wide as the model's logits at least.
        numbered: writes the control tokens that a grammar of Lark names as their numbers.
    """

    def __init__(self, tokenizer: LLTokenizer, numbered: Callable[[str], str] = str) -> None:
        self._tokenizer = tokenizer
        self._numbered = numbered
        self._threads = min(os.cpu_count() or 1, MOST_THREADS)
        self._executor = LLExecutor(num_threads=self._threads)
        self._words = -(-tokenizer.vocab_size // 32)
        self._templates: OrderedDict[StructuredOutputs, _Templates] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, outputs: StructuredOutputs) -> LLMatcher:
        """Return one at the start of an answer, a copy that shares what was found before.

        Raises:
            InvalidRequestError: the grammar can't be compiled for these tokens.
        """
        with self._lock:
            templates = self._templates.get(outputs) or _Templates()
            at = templates.copied // COPIES % self._threads
            if at == len(templates.compiled):
                templates.compiled.append(self._compiled(outputs))
            elif templates.compiled[at].is_error():
                templates.compiled[at] = self._compiled(outputs)
            templates.copied += 1
            self._templates[outputs] = templates  # only now: others may not be compiled
            self._templates.move_to_end(outputs)
            if len(self._templates) > TEMPLATES:
                self._templates.popitem(last=False)
            return templates.compiled[at].deep_copy()

    def fresh(self, outputs: StructuredOutputs) -> LLMatcher:
        """Return one that shares nothing, and forget what the others shared.

        The copies of a template have one lexer: once it has reached a limit, all of them fail.
        """
        with self._lock:
            self._templates.pop(outputs, None)
            return self._compiled(outputs)

    def _compiled(self, outputs: StructuredOutputs) -> LLMatcher:
        grammar = outputs.grammar
        if outputs.kind == "grammar":
            grammar = self._numbered(grammar)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            reason = in_words(matcher.get_error())
            raise InvalidRequestError(f"structured_outputs: {outputs.kind}: {reason}")
        return matcher

    def new_mask(self, rows: int) -> Mask:
        """Return a mask that allows everything."""
        return np.full((rows, self._words), -1, dtype=np.int32)

    def fill(self, rows: Seq[tuple[LLMatcher, int]], mask: Mask) -> None:
        """Write what each of these may say next into its row of a mask, on all cores."""
        fill_next_token_bitmask_par(self._executor, list(rows), mask)


class Constraint:
    """One row's place in its grammar, which begins behind its thoughts.

    Args:
        thinking: follows the thoughts; the constraint has it to itself.

    Attributes:
        failure: why there is no mask for the next token: a row that goes on fails.
    """

    def __init__(
        self, grammars: Grammars, outputs: StructuredOutputs, thinking: Thinking | None = None
    ) -> None:
        self.grammars = grammars
        self._outputs = outputs
        self._matcher = grammars.matcher(outputs)
        self._taken: list[int] = []
        self._start = 0  # of the constrained part
        self._opening = Opening(thinking) if thinking else None
        self.failure: ConstraintError | None = None

    @property
    def matcher(self) -> LLMatcher | None:
        """What has the next token's mask; None where the constrained part can't go on."""
        opening = self._opening
        if self.failure or (opening and not opening.may_end) or self._matcher.is_stopped():
            return None
        return self._matcher

    @property
    def openers(self) -> Collection[int]:
        """Tokens that may be said beside what the matcher allows: of thoughts and of headers.

        Where there is neither a matcher nor one of these, everything may be said.
        """
        return self._opening.tokens if self._opening and not self.failure else ()

    @property
    def is_whole(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return self.has_begun and not self.failure and self._matcher.is_stopped()

    @property
    def has_begun(self) -> bool:
        """Whether the constrained part has: a thought may take all of an answer."""
        return self._opening is None

    @property
    def has_labels(self) -> bool:
        """Whether the answer is one of some labels."""
        return self._outputs.kind == "choice"

    def rest(self) -> list[int]:
        """Return the tokens of a label's rest, once only one label is left."""
        matcher = self.matcher
        if matcher is None or self._opening:
            return []
        forced: list[int] = matcher.compute_ff_tokens()
        ahead = matcher.deep_copy()
        return forced if forced and ahead.consume_tokens(forced) and ahead.is_stopped() else []

    def take(self, at: int, token: int) -> None:
        """Go on over the answer's token `at`, unless that was done."""
        if at < len(self._taken) or self.failure:
            return
        if at > len(self._taken):
            raise ConstraintError(f"token {at} follows token {len(self._taken) - 1}")
        self._taken.append(token)
        if self._opening and self._is_before(self._opening, token):
            return
        if not self._matcher.consume_token(token) or self._matcher.is_error():
            self._begin_again()

    def _is_before(self, opening: Opening, token: int) -> bool:
        """Whether this token stands before the constrained part."""
        is_before = opening.take(token)
        if not is_before and not opening.may_end:
            self._fail("a token is no part of what comes before the constrained part")
            return True
        if opening.is_over or not is_before:
            self._opening = None
            self._start = len(self._taken) - (not is_before)
        return is_before

    def check_mask(self, mask: Mask) -> bool:
        """Whether the mask `[W]` that was filled is to be believed; if not, it is filled again.

        After an error it is the end of the text only, and nothing is raised.
        """
        if not self._matcher.is_error():
            return True
        self._begin_again()
        if self.failure is None:
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            self._fail_if_broken()
        return self.failure is None

    def require(self) -> None:
        """Raise what keeps the row from going on.

        Raises:
            ConstraintError: a token was no part of the grammar, or it is too complex to go on.
        """
        if self.failure:
            raise self.failure

    def _begin_again(self) -> None:
        """Go over the answer once more in a grammar of its own: another row may have broken it."""
        self._matcher = self.grammars.fresh(self._outputs)
        self._matcher.consume_tokens(self._taken[self._start :])
        self._fail_if_broken()

    def _fail_if_broken(self) -> None:
        if self._matcher.is_error():
            self._fail(in_words(self._matcher.get_error()) or "a token is no part of it")

    def _fail(self, reason: str) -> None:
        kind, taken = self._outputs.kind, len(self._taken)
        self.failure = ConstraintError(
            f"structured_outputs: {kind}: after {taken} tokens: {reason}"
        )


def new_grammars(tokenizer: Any, vocab_size: int, name: str) -> Grammars:
    """Return what compiles grammars for a tokenizer of mlx-lm's.

    Args:
        vocab_size: how wide the model's logits are.

    Raises:
        InvalidRequestError: there is none for tokenizers of this kind.
    """
    try:
        vocabulary = Vocabulary.of(tokenizer, vocab_size)
    except Exception as error:  # whatever a tokenizer of another kind leads to
        kind = type(getattr(tokenizer, "_tokenizer", tokenizer)).__name__
        raise InvalidRequestError(
            f"structured_outputs: not supported with {name}, whose tokenizer is a {kind}: {error}"
        ) from error
    return Grammars(vocabulary.tokens, vocabulary.numbered)
