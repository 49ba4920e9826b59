# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A site's radvd.conf, read far enough to put lines of ours into it and to take them out again, byte for byte.

radvd knows no include and refuses two blocks for one interface, so our lines stand inside the site's block, between two marks with
the name of their owner (a transaction). Where the site has no block for an interface there is one of ours, between marks as well, at
the end of the file; it goes with the last part in it. Where a mark had to break a line of the site, it says so.

This file needs nothing but Python: it also becomes a part of the program of radvd_tidy.py. The lexical rules are those of radvd
(scanner.l): keywords in any case, a comment from # at the start of a word, strings in double quotes, words, and { } ; /.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOKEN = re.compile(r"""(?P<space>\s+)|(?P<comment>\#[^\n]*)|(?P<string>L?"(?:\\.|[^\\"])*")"""
                   r"""|(?P<word>[a-zA-Z0-9`~!@#$%^&*()_\-+=:\[\]<>,.?\\]+)|(?P<mark>[{};/])""")
BROKEN = " (this breaks a line)"
WHOLE = "interface"
"""Stands in the place of an owner in the marks around a block that is wholly ours. So no owner has a name with a blank in it."""
MARK = re.compile(r"# (BEGIN|END) tunnelbroker\.tsp (\S+)(?: (interface))?(" + re.escape(BROKEN) + r")?")


class ConfError(ValueError):
    """What stands in the file cannot be read, or our marks are damaged. Its text is a sentence for people."""


@dataclass(frozen=True)
class Token:
    """kind: comment | string | word | mark. start, end: offsets in the text."""

    kind: str
    text: str
    start: int
    end: int


@dataclass
class Interface:
    """A block. close: offset of its closing brace. settings: simple statements, name in lower case -> last value.

    lists: prefix, rdnss, dnssl (and other statements with a block of their own) -> their words, one text for each word or prefix.
    """

    name: str
    start: int
    close: int = -1
    settings: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What stands between two marks: lines from `start` to `end`, the marks included, `inner` to `inner_end` without them.

    owner: the transaction, or the interface where `whole`. broken: its first mark broke a line.
    """

    owner: str
    whole: bool
    start: int
    inner: int
    inner_end: int
    end: int
    broken: bool


def tokens(text: str) -> Iterator[Token]:
    """Everything but blanks. Raises ConfError."""
    place = 0
    while place < len(text):
        found = TOKEN.match(text, place)
        if found is None:
            raise ConfError(f"line {_line(text, place)} holds something that radvd would not read: {text[place:place + 20]!r}")
        if found.lastgroup != "space":
            yield Token(str(found.lastgroup), found.group(), found.start(), found.end())
        place = found.end()


def interfaces(text: str) -> dict[str, Interface]:
    """The blocks, by the name of their interface (the first one where there are two). Raises ConfError."""
    out: dict[str, Interface] = {}
    stream = (token for token in tokens(text) if token.kind != "comment")
    for token in stream:
        name, brace = next(stream, None), next(stream, None)
        if token.text.lower() != "interface" or name is None or brace is None or brace.text != "{":
            raise ConfError(f"line {_line(text, token.start)} does not begin a block 'interface NAME {{'")
        block = _block(text, Interface(name.text, token.start), stream)
        end = next(stream, None)
        if end is None or end.text != ";":
            raise ConfError(f"the block of {block.name} (line {_line(text, block.start)}) does not end with '}};'")
        out.setdefault(block.name, block)
    return out


def _block(text: str, block: Interface, stream: Iterator[Token]) -> Interface:
    words: list[str] = []
    head: list[str] = []
    depth = 1
    for token in stream:
        if token.text == "{" and token.kind == "mark":
            if depth == 1:
                head = words
            words, depth = [], depth + 1
        elif token.text == "}" and token.kind == "mark":
            depth -= 1
            if depth == 0:
                block.close = token.start
                return block
            words = []
        elif token.text == ";" and token.kind == "mark":
            if depth == 1 and head:
                kind = head[0].lower()
                block.lists.setdefault(kind, []).extend(["".join(head[1:])] if "/" in head else head[1:])
            elif depth == 1 and words:
                block.settings[words[0].lower()] = " ".join(words[1:])
            head, words = [] if depth == 1 else head, []
        else:
            words = [*words, token.text]
    raise ConfError(f"the block of {block.name} (line {_line(text, block.start)}) has no end")


def parts(text: str) -> list[Part]:
    """Ours, in their order; a block that is wholly ours before the parts inside it. Raises ConfError."""
    out: list[Part] = []
    open_: list[tuple[str, str | None, int, int, str | None]] = []
    for token in tokens(text):
        found = MARK.fullmatch(token.text) if token.kind == "comment" else None
        if found is None:
            continue
        verb, owner, whole, broken = found.groups()
        start = text.rfind("\n", 0, token.start) + 1
        end = min(token.end + 1, len(text))
        if text[start:token.start].strip(" \t"):
            raise ConfError(f"our mark in line {_line(text, start)} does not stand alone")
        if verb == "BEGIN":
            open_.append((owner, whole, start, end, broken))
            continue
        begun = open_.pop() if open_ else None
        if begun is None or begun[:2] != (owner, whole):
            raise ConfError(f"our mark in line {_line(text, start)} ends what nothing begins")
        out.append(Part(owner, whole is not None, begun[2], begun[3], start, end, begun[4] is not None))
    if open_:
        raise ConfError(f"our mark in line {_line(text, open_[-1][2])} begins what nothing ends")
    return sorted(out, key=lambda part: part.start)


def own(text: str, owner: str) -> dict[str, str]:
    """What stands in the parts of an owner: interface -> lines. Raises ConfError."""
    blocks = interfaces(text).values()
    out = {}
    for part in parts(text):
        if part.owner == owner and not part.whole:
            for block in blocks:
                if block.start < part.start < block.close:
                    out[block.name] = text[part.inner:part.inner_end]
    return out


def others(text: str, owner: str, interface: str) -> Interface | None:
    """The block of an interface as it would be without the owner's part. Raises ConfError."""
    return interfaces(take(text, owner, interface, empty_too=False)).get(interface)


def wholly_ours(text: str, interface: str) -> bool:
    """Whether the block of an interface is of our making, or there is none yet."""
    return interface not in interfaces(text) or any(part.whole and part.owner == interface for part in parts(text))


def put(text: str, owner: str, interface: str, lines: str) -> str:
    """Have these lines (each with its end) be the owner's part in the block of an interface. Raises ConfError."""
    found = _part(text, owner, interface)
    if found is not None:
        return text[:found.inner] + lines + text[found.inner_end:]
    block = interfaces(text).get(interface)
    if block is None:
        broken = BROKEN if text and not text.endswith("\n") else ""
        mark = f"tunnelbroker.tsp {interface} {WHOLE}"
        text += (f"{chr(10) if broken else ''}# BEGIN {mark}{broken}\ninterface {interface} {{\n    AdvSendAdvert on;\n}};\n# END {mark}\n")
        block = interfaces(text)[interface]
    start = text.rfind("\n", 0, block.close) + 1
    whole_line = not text[start:block.close].strip(" \t")
    place = start if whole_line else block.close
    broken = "" if whole_line else BROKEN
    mark = f"tunnelbroker.tsp {owner}"
    return (f"{text[:place]}{chr(10) if broken else ''}    # BEGIN {mark}{broken}\n{lines}    # END {mark}\n{text[place:]}")


def take(text: str, owner: str, interface: str, *, empty_too: bool = True) -> str:
    """Take the owner's part out of the block of an interface; and the block, where it is ours and nothing else of ours is in it
    (unless empty_too is False). Raises ConfError."""
    found = _part(text, owner, interface)
    if found is None:
        return text
    text = _cut(text, found)
    if empty_too:
        for part in parts(text):
            if part.whole and part.owner == interface and not any(part.start < other.start < part.end for other in parts(text)):
                return _cut(text, part)
    return text


def _part(text: str, owner: str, interface: str) -> Part | None:
    block = interfaces(text).get(interface)
    for part in parts(text):
        if block is not None and part.owner == owner and not part.whole and block.start < part.start < block.close:
            return part
    return None


def _cut(text: str, part: Part) -> str:
    before, after = text[:part.start], text[part.end:]
    if not part.broken:
        return before + after
    line, _end, rest = after.partition("\n")
    heir = MARK.fullmatch(line.strip(" \t"))
    if heir is not None and heir.group(1) == "BEGIN" and not heir.group(4):  # it has the broken line before it from now on
        return f"{before}{line}{BROKEN}\n{rest}"
    # Where somebody went on after us, or wrote a comment before us, lines must not be glued to one another.
    line_start = before.rfind("\n", 0, -1) + 1
    if after and (part.whole or any(token.kind == "comment" and line_start <= token.start < part.start for token in tokens(text))):
        return before + after
    return before[:-1] + after


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
