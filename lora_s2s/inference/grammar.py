"""Answers that fit a regular expression, a JSON Schema or a grammar, by xgrammar.

xgrammar's own reading of tokenizers is wrong about T5's and refuses ByT5's, so it gets a table of
what each token writes (:mod:`lora_s2s.tokens.written`). It matches bytes.

B batch, V vocabulary.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lora_s2s import limits
from lora_s2s.errors import DataError, UsageError, extra
from lora_s2s.inference import ebnf, writable
from lora_s2s.inference.automaton import deterministic
from lora_s2s.inference.json_schema import check_schema
from lora_s2s.recipe.constraint import Constraint
from lora_s2s.tokens.special_tokens import special_token_templates
from lora_s2s.tokens.written import WrittenTokens, written_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPACE = b" "
# What xgrammar prints for a dot, which here means no newline, as in Python.
_DOT = (r"[\0-\U0010ffff]", r"[^\n]")
# What it counts in a string of limited length: raw tabs, which JSON forbids, and no escapes.
_ESCAPED = r""""\\" ([\"\\/bfnrt] | "u" ([0-9a-ce-fA-CE-F] [0-9a-fA-F]{3, 3} | [dD] [0-7] """
_COUNTED = (
    r"""[^\"\\\r\n]""",
    rf"""([^\0-\x1f\"\\] | {_ESCAPED}[0-9a-fA-F]{{2, 2}}))""",
)
# The last are refused by xgrammar, with the reason.
_KNOWN_ESCAPES, _SYNTAX = "dDwWsSnrtfv0xu" + "bBpPk123456789", "^$\\.*+?()[]{}|/-"
_NOT_IN_STRINGS = ('"', "\\", *map(chr, range(32)))
_PLACE_IN_SOURCE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
_WHAT = {"regex": "regular expression", "json": "JSON Schema", "grammar": "grammar in GBNF"}


def library() -> Any:
    """Returns the module ``xgrammar``.

    Raises:
        SetupError: it is not installed.
    """
    with extra("grammar"):
        import xgrammar
    return xgrammar


def grammar_rules(constraint: Constraint) -> dict[str, ebnf.Choice]:
    """Returns the grammar of a constraint.

    Raises:
        UsageError: it is not valid, asks for what is not supported, or is too large.
        SetupError: xgrammar is not installed.
    """
    text = constraint.text  # what is wrong with it needs no library to be reported
    _check_depth(text)

    def of_expression(expression: str) -> dict[str, ebnf.Choice]:
        printed = str(library().Grammar.from_regex(_escapes(expression))).replace(*_DOT)
        return deterministic(_checked_size(ebnf.read(printed)))

    try:
        if constraint.kind == "regex":
            return of_expression(text)
        if constraint.kind == "grammar":
            return ebnf.read(str(library().Grammar.from_ebnf(text)))
        for pattern in check_schema(text):
            _check_pattern(pattern, of_expression(pattern))
        # One character of white space at most in each place: an answer cannot lose itself in it.
        made = library().Grammar.from_json_schema(text, any_whitespace=True, max_whitespace_cnt=1)
        return ebnf.read(str(made).replace(*_COUNTED), of_expression)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        reason = _PLACE_IN_SOURCE.sub("", reason)[:300]
        message = f"evaluation.constraint is not a valid {_WHAT[constraint.kind]}: {reason}"
        raise UsageError(message) from error


def _escapes(expression: str) -> str:
    """Returns an expression whose escapes are all known to xgrammar, which warns of others and
    takes ``\\Z`` for a Z.
    """

    def known(match: re.Match[str]) -> str:
        letter = match[1]
        if letter.isascii() and letter.isalnum():
            if letter not in _KNOWN_ESCAPES:
                raise UsageError(f"evaluation.constraint: the escape \\{letter} is not supported")
            return match[0]
        return match[0] if letter in _SYNTAX else letter

    plain = re.sub(r"\\(.)", known, expression, flags=re.DOTALL)
    return plain.replace("\n", "\\n").replace("\r", "\\r")


def _check_pattern(pattern: str, rules: Mapping[str, ebnf.Choice]) -> None:
    """Refuses a pattern that could end the string that it is in."""
    for choice in rules.values():
        for characters in ebnf.character_sets(choice):
            if any(map(characters.holds, _NOT_IN_STRINGS)):
                raise UsageError(
                    f"evaluation.constraint: the pattern {pattern!r:.100} can match a quote, a "
                    "backslash or a control character",
                    hint="name the characters, such as [A-Za-z0-9 ]",
                )


def _checked_size(rules: dict[str, ebnf.Choice]) -> dict[str, ebnf.Choice]:
    if (parts := writable.size(rules)) > limits.MOST_GRAMMAR_PARTS:
        raise UsageError(
            f"evaluation.constraint has {parts:,} parts, repetitions counted; expected at most "
            f"{limits.MOST_GRAMMAR_PARTS:,}",
            hint="lower its repetition counts and lengths",
        )
    return rules


def _check_depth(text: str) -> None:
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > limits.DEEPEST_CONSTRAINT:
        raise UsageError(
            f"evaluation.constraint nests {deepest} levels; expected at most "
            f"{limits.DEEPEST_CONSTRAINT}"
        )


class _Matcher(Protocol):
    """What is used of xgrammar's ``GrammarMatcher``."""

    def accept_string(self, text: bytes) -> bool:
        """Goes on by a text, if the grammar allows it."""

    def fork(self) -> _Matcher:
        """Returns a copy."""

    def fill_next_token_bitmask(self, words: object, row: int) -> bool:
        """Writes a bit for each token into a row: whether it may follow."""


@dataclass(frozen=True)
class _Tables:
    """A grammar compiled for what tokens write: usually, and after a break, where a token's first
    space is not shown.
    """

    usual: object
    after_break: object | None


@dataclass(frozen=True)
class _State:
    """Where an answer stands in the grammar; ``at_break``: its last token is a break."""

    matcher: _Matcher
    after_break: _Matcher | None
    at_break: bool

    @property
    def current(self) -> _Matcher:
        """The one that knows which tokens may follow."""
        return self.after_break if self.at_break and self.after_break else self.matcher


class GrammarConstraint:
    """See :class:`lora_s2s.inference.constraint.Constraint`."""

    most_tokens = None

    def __init__(self, tables: _Tables, written: WrittenTokens, prefix: Sequence[int]) -> None:
        """Takes a grammar compiled for what tokens write, and the ids that every answer begins
        with.
        """
        self._tables, self._written, self._prefix = tables, written, tuple(prefix)
        # Of the last call and the one before: rows that join a batch are asked for on their own.
        self._states: dict[tuple[int, ...], _State | None] = {}
        self._older: dict[tuple[int, ...], _State | None] = {}
        self._lock = Lock()
        self._width = len(written.pieces)
        spaces = [number for number, piece in enumerate(written.pieces) if piece == _SPACE]
        self._spaces = np.array(spaces, np.int64)
        self._never_first = np.array(sorted(written.never_first), np.int64)

    @classmethod
    def of(cls, constraint: Constraint, tokenizer: PreTrainedTokenizerBase) -> GrammarConstraint:
        """Compiles a constraint for a tokenizer.

        Raises:
            UsageError: see :func:`grammar_rules`; or the vocabulary cannot write it.
            SetupError: xgrammar is not installed.
        """
        rules, xgrammar = _checked_size(grammar_rules(constraint)), library()
        vocabulary = _vocabulary(tokenizer)
        written = vocabulary.written
        cut = writable.writable(rules, written.characters)
        if cut.missing:
            named = ", ".join(cut.missing[:5])
            raise UsageError(
                f"the model's vocabulary cannot write {named}, which evaluation.constraint needs",
                hint="train with data.lossless_text=on, or take a model that reads bytes (ByT5)",
            )
        grammar = xgrammar.Grammar.from_ebnf(cut.text)
        if written.begins_with_space:
            # The empty answer has no space either.
            first = xgrammar.Grammar.from_ebnf('root ::= " "')
            grammar = xgrammar.Grammar.concat(first, grammar)
            if writable.allows_empty(rules):
                empty = xgrammar.Grammar.from_ebnf('root ::= ""')
                grammar = xgrammar.Grammar.union(grammar, empty)
        compilers = vocabulary.usual, vocabulary.after_break
        usual, after_break = (one and one.compile_grammar(grammar) for one in compilers)
        prefix = special_token_templates(tokenizer).target.prefix
        return cls(_Tables(usual, after_break), written, prefix)

    def allow(self, answers: Sequence[Sequence[int]], allowed_BV: NDArray[np.bool_]) -> None:
        """See :class:`lora_s2s.inference.constraint.Constraint`.

        Raises:
            DataError: no token can continue an answer.
        """
        keys = [tuple(ids) for ids in answers]
        with self._lock:
            distinct = dict.fromkeys(keys)
            known = self._older | self._states
            parents = Counter(ids[:-1] for ids in distinct if ids not in known)
            # A state that nothing else goes on from need not be copied.
            once = {ids for ids, count in parents.items() if count == 1 and ids not in distinct}
            new = {ids: self._state(ids, known, copy=ids[:-1] not in once) for ids in distinct}
            self._older = {ids: known[ids] for ids in self._states if ids in known}
            self._states = new
            states = [self._states[ids] for ids in keys]
            followed = [row for row, state in enumerate(states) if state is not None]
            if followed:
                masks_BV = self._masks([state for state in states if state is not None])
                allowed_BV[followed, : self._width] = masks_BV
        for row, (ids, state) in enumerate(zip(keys, states, strict=True)):
            if state is None:
                begun = len(ids)
                forced = begun < len(self._prefix) and ids == self._prefix[:begun]
                allowed_BV[row, self._prefix[begun] if forced else slice(None)] = True
            else:
                self._adjust(ids, state, allowed_BV[row])
        stuck = np.flatnonzero(~allowed_BV.any(axis=1))
        if len(stuck):
            raise DataError(
                f"no token of the vocabulary continues {self._written.text(keys[stuck[0]])!r:.200} "
                "as evaluation.constraint asks",
                hint="allow other characters there",
            )

    def _masks(self, states: Sequence[_State]) -> NDArray[np.uint8]:
        """Returns which tokens may follow each state (B, V)."""
        words_BW = library().allocate_token_bitmask(len(states), self._width)
        for row, state in enumerate(states):
            state.current.fill_next_token_bitmask(words_BW, row)
        bits = np.unpackbits(words_BW.numpy().view(np.uint8), axis=1, bitorder="little")
        return bits[:, : self._width]

    def _adjust(self, ids: tuple[int, ...], state: _State, row_V: NDArray[np.bool_]) -> None:
        """Adds and takes what the grammar cannot tell."""
        if state.at_break:
            row_V[self._spaces] = True
        if len(ids) == len(self._prefix):
            row_V[self._never_first] = False

    def _state(
        self, ids: tuple[int, ...], known: dict[tuple[int, ...], _State | None], *, copy: bool
    ) -> _State | None:
        """Returns the state after an answer's ids; None where the grammar does not allow them.

        Args:
            known: states by ids; one that goes on without a copy is taken out.
            copy: whether the state before the last id is needed again.
        """
        if ids in known:
            return known[ids]
        begun, parent = len(self._prefix), ids[:-1]
        if len(ids) <= begun:
            return self._start() if ids == self._prefix else None
        if parent in known:
            before = known[parent] if copy else known.pop(parent)
            return self._advanced(before, ids[-1], copy=copy) if before else None
        state = self._start() if ids[:begun] == self._prefix else None
        for token in ids[begun:]:
            state = self._advanced(state, token, copy=False) if state else None
        return state

    def _start(self) -> _State:
        xgrammar, tables = library(), self._tables
        after = tables.after_break
        return _State(
            xgrammar.GrammarMatcher(tables.usual),
            None if after is None else xgrammar.GrammarMatcher(after),
            at_break=False,
        )

    def _advanced(self, state: _State, token: int, *, copy: bool) -> _State | None:
        piece = self._written.pieces[token] if token < self._width else None
        if piece is None:
            return None
        if state.at_break:
            piece = piece.removeprefix(_SPACE)
        both = (state.matcher, state.after_break)
        matchers = [one.fork() if copy else one for one in both if one is not None]
        if piece and not all(matcher.accept_string(piece) for matcher in matchers):
            return None
        after = matchers[1] if len(matchers) > 1 else None
        return _State(matchers[0], after, token in self._written.breaks)


@dataclass(frozen=True)
class _Vocabulary:
    """What tokens write, and what compiles grammars for it; see :class:`_Tables`."""

    written: WrittenTokens
    usual: Any
    after_break: Any | None


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> _Vocabulary:
    written, end = written_tokens(tokenizer), int(tokenizer.eos_token_id)
    pieces = [piece or b"" for piece in written.pieces]
    after_break = None
    if written.breaks:
        after_break = _compiler([piece.removeprefix(_SPACE) for piece in pieces], end)
    return _Vocabulary(written, _compiler(pieces, end), after_break)


def _compiler(pieces: list[bytes], end: int) -> Any:
    xgrammar = library()
    tokens = xgrammar.TokenizerInfo(
        pieces, xgrammar.VocabType.RAW, vocab_size=len(pieces), stop_token_ids=[end]
    )
    # Masks are made when they are needed: all of them in advance may take minutes.
    return xgrammar.GrammarCompiler(
        tokens, max_threads=1, cache_enabled=False, enable_dynamic_compilation=True
    )
