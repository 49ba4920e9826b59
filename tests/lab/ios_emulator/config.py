# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is configured: global lines, interfaces and access lists, and the text that `show running-config` makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import checks
from .grammar import Match, Problem, Rule, match
from .grammar_acl import ACCESS_LIST
from .grammar_global import GLOBAL
from .grammar_interface import INTERFACE
from .words import VIRTUAL_TYPES

Key = tuple[str, ...]


@dataclass
class Entry:
    words: tuple[str, ...]
    rule: Rule

    @property
    def line(self) -> str:
        return " ".join(self.words)


@dataclass
class Section:
    """An interface or an access list: `kind` is the mode that edits it, `name` what follows its first words."""

    header: str
    kind: str
    name: str
    lines: dict[Key, Entry] = field(default_factory=dict)

    def get(self, *key: str) -> tuple[str, ...]:
        """The words after `key` of the line with that key, () when there is none."""
        entry = self.lines.get(key)
        return entry.words[len(key):] if entry else ()

    def all(self, *start: str) -> Iterator[tuple[str, ...]]:
        """Every line that starts with these words, without them."""
        for entry in self.lines.values():
            if entry.words[:len(start)] == start:
                yield entry.words[len(start):]

    @property
    def up(self) -> bool:
        return ("shutdown",) not in self.lines

    @property
    def virtual(self) -> bool:
        return self.name.startswith(VIRTUAL_TYPES)

    def text(self) -> str:
        entries = sorted(self.lines.values(), key=lambda entry: entry.rule.order)
        shown = [entry.line for entry in entries if not checks.hidden(entry.line, self)]
        if self.kind == "interface" and not any(line.startswith(("ip address", "ip unnumbered")) for line in shown):
            described = 1 if shown and shown[0].startswith("description") else 0
            shown.insert(described, "no ip address")
        return "".join(f"{line}\n" for line in [self.header, *(f" {line}" for line in shown)])


class Config:
    """A configuration. Its text form is what it is stored as and loaded from."""

    def __init__(self, hostname: str = "Router", interfaces: tuple[str, ...] = ("GigabitEthernet0/0", "GigabitEthernet0/1")) -> None:
        self.physical = interfaces
        self.lines: dict[Key, Entry] = {}
        self.sections: dict[str, Section] = {}
        self.opaque: list[str] = []
        self._put(self.lines, self._rule(f"hostname {hostname}"))
        for name in interfaces:
            section = self._open("interface", name)
            self._put(section.lines, self._rule("shutdown", section))

    @property
    def hostname(self) -> str:
        return self.lines[("hostname",)].words[1]

    @property
    def interfaces(self) -> dict[str, Section]:
        return {section.name: section for section in self.sections.values() if section.kind == "interface"}

    def rules(self, section: Section | None) -> tuple[Rule, ...]:
        """The table that is in force in a section (None: global)."""
        if section is None:
            return GLOBAL
        if section.kind == "access-list":
            return ACCESS_LIST
        return tuple(rule for rule in INTERFACE if not rule.only or section.name.startswith(rule.only))

    def match(self, words: list[str], section: Section | None, *, negated: bool = False) -> Match | Problem:
        return match(self.rules(section), words, self.interfaces, negated=negated)

    def enter(self, found: Match) -> Section:
        """Open, and create if need be, the section that `found` names."""
        return self._open(found.rule.enters, found.words[-1], found.line)

    def leave_out(self, found: Match) -> str:
        """`no interface X`, `no ip access-list extended X`. Returns a complaint or nothing.

        Static routes that leave by a removed interface go with it: a route cannot name an interface that is not there.
        """
        section = self.sections.get(found.line)
        if section is None:
            return ""
        if section.kind == "interface":
            if section.name in self.physical:
                return "% Removal of physical interfaces is not permitted.\n"
            for key, entry in list(self.lines.items()):
                if entry.words[:2] in (("ip", "route"), ("ipv6", "route")) and section.name in entry.words:
                    del self.lines[key]
        del self.sections[found.line]
        return ""

    def put(self, found: Match, section: Section | None) -> str:
        """Add or replace one line. Returns what the device says: nothing, or a complaint (then nothing changed)."""
        if found.rule.check:
            said = getattr(checks, f"check_{found.rule.check}")(found, section, self)
            if said:
                return str(said)
        self._put(self.lines if section is None else section.lines, found)
        return ""

    def remove(self, found: Match, section: Section | None) -> str:
        """The `no` form: the line itself, or every line that starts with the words given."""
        lines = self.lines if section is None else section.lines
        if found.rule.single:
            return "" if found.line not in ("hostname",) else "% Incomplete command.\n"
        if found.key in lines:
            del lines[found.key]
            return ""
        if found.rule.default == found.line:
            # The default is what holds when nothing is configured; its negation is a line of its own, and is shown.
            lines[("no", *found.key)] = Entry(("no", *found.words), found.rule)
            return ""
        gone = [key for key, entry in lines.items() if entry.words[:len(found.words)] == found.words]
        for key in gone:
            del lines[key]
        if not gone and found.words[:2] == ("ip", "route"):
            return "%No matching route to delete\n"
        return ""

    def text(self) -> str:
        """The configuration from `service` to `end`, as stored."""
        blocks: list[tuple[int, str]] = [(entry.rule.order, entry.line + "\n") for entry in self.lines.values()]
        sections = sorted(self.sections.values(), key=_section_order)
        blocks += [(50 if s.kind == "interface" else 75, s.text()) for s in sections]
        out, last = "", 0
        for order, block in sorted(blocks, key=lambda item: item[0]):
            if order != last or order in (50, 75):
                out += "!\n"
            out, last = out + block, order
        return "service timestamps debug datetime msec\nservice timestamps log datetime msec\n" + out + "".join(
            f"!\n{block}" for block in self.opaque) + "!\nend\n"

    @classmethod
    def parse(cls, text: str, physical: tuple[str, ...]) -> Config:
        """A configuration out of its text. Raises ValueError on a line that the grammar does not know."""
        config = cls("Router", physical)
        section: Section | None = None
        closing: str | None = None
        for raw in text.splitlines():
            line = raw.strip()
            if closing is not None:
                config.opaque[-1] += raw + "\n"
                closing = None if closing in raw else closing
                continue
            if raw.startswith("banner "):
                config.opaque.append(raw + "\n")
                closing = "^C" if "^C" in raw else raw.split()[2][0]
                continue
            if re.match(r"(line|control-plane)\b", raw):
                if config.opaque and config.opaque[-1].startswith(raw.split()[0]):
                    config.opaque[-1] += raw + "\n"
                else:
                    config.opaque.append(raw + "\n")
                section = None
                continue
            if not line or line[0] == "!" or line == "end" or line.startswith(("service ", "version ")):
                continue
            if raw[0] == " " and section is None and config.opaque:
                config.opaque[-1] += raw + "\n"
                continue
            section = config._load(raw, section)
        return config

    def _load(self, raw: str, section: Section | None) -> Section | None:
        words = raw.split()
        inside = section if raw[0] == " " else None
        negated = words[0] == "no"
        found = self.match(words[1:] if negated else words, inside, negated=negated)
        if isinstance(found, Problem):
            raise ValueError(f"cannot load {raw!r}: {found.kind}")
        if found.rule.enters:
            opened = self.enter(found)
            # Written text shows `shutdown` where it holds: a physical interface without the line is up.
            opened.lines.pop(("shutdown",), None)
            return opened
        if negated:
            self.remove(found, inside)
        else:
            self._put(self.lines if inside is None else inside.lines, found)
        return inside

    def _open(self, kind: str, name: str, header: str = "") -> Section:
        header = header or f"{kind} {name}"
        if header not in self.sections:
            self.sections[header] = Section(header, kind, name)
        return self.sections[header]

    def _rule(self, line: str, section: Section | None = None) -> Match:
        found = self.match(line.split(), section)
        assert isinstance(found, Match), line
        return found

    @staticmethod
    def _put(lines: dict[Key, Entry], found: Match) -> None:
        lines.pop(("no", *found.key), None)
        if found.rule.default == found.line:
            lines.pop(found.key, None)
            return
        lines[found.key] = Entry(found.words, found.rule)


def _section_order(section: Section) -> tuple[int, str, list[int]]:
    kinds = ("Loopback", "Tunnel")
    letters = re.sub(r"[\d/.]+$", "", section.name)
    return (kinds.index(letters) if letters in kinds else 9, letters, [int(n) for n in re.findall(r"\d+", section.name)])
