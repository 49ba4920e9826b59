# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The matcher: words typed by a person against a table of rules, with IOS's abbreviations and complaints.

A pattern is words and placeholders: `ipv6 nd prefix <network6> [<0-4294967295>~ <0-4294967295>~]`. `[…]` may be left out,
`{a|b}` is a choice, `<kind>` is one of `words.KINDS`. Words marked `~` are values: they do not take part in the key that says
which configured line a new one replaces.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from . import words as kinds


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    handler: what an exec command does (a method of Session). enters: the mode a configuration line opens. order: where the line
    stands in the running configuration. default: the line that is not shown because it is what holds anyway. clear: how many
    words after `no` are enough to remove every line that starts with them. only: interface types that know the line.
    check: a function of `checks` that may refuse it. level: 15 needs enable.
    """

    pattern: str
    handler: str = ""
    enters: str = ""
    order: int = 100
    default: str = ""
    clear: int = 0
    only: tuple[str, ...] = ()
    check: str = ""
    level: int = 15
    single: bool = False


class Element(NamedTuple):
    text: str
    placeholder: bool
    value: bool


class Match(NamedTuple):
    """words: the whole command as the configuration writes it; key: what identifies it; values: what the placeholders took."""

    rule: Rule
    words: tuple[str, ...]
    key: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join(self.words)


class Problem(NamedTuple):
    """kind: invalid | incomplete | ambiguous; word: index of the offending word."""

    kind: str
    word: int


class _Path(NamedTuple):
    rule: Rule
    rest: tuple[Element, ...]
    done: tuple[tuple[Element, str], ...]


_TOKEN = re.compile(r"[\[\]{}|]|<[^>]+>~?|[^\s\[\]{}|<>]+")


@cache
def alternatives(pattern: str) -> tuple[tuple[Element, ...], ...]:
    """Every way through a pattern, as sequences without options."""
    tokens = _TOKEN.findall(pattern)
    found, used = _sequence(tokens, 0)
    if used != len(tokens):
        raise ValueError(f"unbalanced pattern {pattern!r}")
    return tuple(dict.fromkeys(found))


def _sequence(tokens: list[str], at: int) -> tuple[list[tuple[Element, ...]], int]:
    choices: list[tuple[Element, ...]] = []
    current: list[tuple[Element, ...]] = [()]
    while at < len(tokens) and tokens[at] not in ("]", "}"):
        token = tokens[at]
        if token == "|":
            choices += current
            current, at = [()], at + 1
            continue
        if token in ("[", "{"):
            inner, at = _sequence(tokens, at + 1)
            if token == "[":
                inner = [(), *inner]
            at += 1
        else:
            value = token.endswith("~")
            text = token[:-1] if value else token
            inner = [(Element(text.strip("<>"), text.startswith("<"), value),)]
            at += 1
        current = [before + after for before in current for after in inner]
    return choices + current, at


def match(rules: Iterable[Rule], words: Sequence[str], interfaces: Collection[str] = (), *, negated: bool = False) -> Match | Problem:
    """The one rule that `words` mean. With `negated`, a rule's `clear` words suffice."""
    paths = [_Path(rule, path, ()) for rule in rules for path in alternatives(rule.pattern)]
    at = 0
    while at < len(words):
        typed = words[at].lower()
        keywords = {path.rest[0].text for path in paths if path.rest and not path.rest[0].placeholder
                    and path.rest[0].text.lower().startswith(typed)}
        exact = {word for word in keywords if word.lower() == typed}
        keywords = exact or keywords
        if len(keywords) > 1:
            return Problem("ambiguous", at)
        if keywords:
            word = keywords.pop()
            paths = [_Path(p.rule, p.rest[1:], (*p.done, (p.rest[0], word))) for p in paths
                     if p.rest and not p.rest[0].placeholder and p.rest[0].text == word]
            at += 1
            continue
        taken = [(path, took) for path in paths if path.rest and path.rest[0].placeholder
                 and (took := kinds.kind(path.rest[0].text)(words, at, interfaces))]
        if not taken:
            return Problem("invalid", at)
        longest = max(took[0] for _path, took in taken)
        paths = [_Path(p.rule, p.rest[1:], (*p.done, (p.rest[0], took[1]))) for p, took in taken if took[0] == longest]
        at += longest
    complete = [path for path in paths if not path.rest]
    if not complete and negated:
        complete = [path for path in paths if path.rule.clear and len(path.done) >= path.rule.clear]
    if not complete:
        return Problem("incomplete", len(words))
    path = complete[0]
    return Match(path.rule, tuple(word for _element, word in path.done),
                 tuple(word for element, word in path.done if not element.value),
                 tuple(word for element, word in path.done if element.placeholder))
