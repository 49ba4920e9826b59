# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One command line: modes, prompts, what was typed, and what IOS says about it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Callable, NoReturn

from . import show
from .config import Section
from .device import Device
from .grammar import Match, Problem, match
from .grammar_exec import EXEC, NEEDS_PIPE
from .ping import ping

MODES = {"interface": "-if", "access-list": "-ext-nacl"}


class Closed(Exception):
    """The session is over: the user left, or the device went down."""


class Cut(Exception):
    """The line is to be cut without a word (`faults`)."""


class Session:
    """read_line(echo) waits for a line; read_key() for one character; write(text) prints."""

    def __init__(self, device: Device, user: str, read_line: Callable[[bool], Awaitable[str]], read_key: Callable[[], Awaitable[str]],
                 write: Callable[[str], None]) -> None:
        self.device = device
        self.user = user
        self._read_line, self._read_key, self._write = read_line, read_key, write
        self.level = device.level
        self.configuring = False
        self.section: Section | None = None
        self.length = 24

    @property
    def prompt(self) -> str:
        """The prompt. In configuration mode IOS shows no more than 20 characters of the name."""
        name = self.device.config.hostname
        if self.configuring:
            return f"{name[:20]}(config{MODES[self.section.kind] if self.section else ''})#"
        return name + ("#" if self.level == 15 else ">")

    async def run(self) -> None:
        """Until the user leaves. Raises Closed or Cut."""
        self._write("\n")
        while True:
            self._write(self.prompt)
            line = await self._read_line(True)
            if line.endswith("\x1a"):
                self.configuring, self.section = False, None
                line = line[:-1]
            if self.device.faults.cuts(line):
                raise Cut
            self.device.commands.append(line.strip())
            await self.command(line)

    async def command(self, line: str) -> None:
        """Carry out one line."""
        stripped = line.strip()
        if not stripped or stripped[0] == "!":
            return
        if self.configuring:
            await self._configuration(line)
        else:
            await self._exec(line, len(self.prompt))

    # Complaints

    def _complain(self, problem: Problem, line: str, column: int, words: list[str]) -> None:
        if problem.kind == "incomplete":
            self._write("% Incomplete command.\n\n")
        elif problem.kind == "ambiguous":
            self._write(f'% Ambiguous command:  "{line.strip()}"\n')
        else:
            self._write(" " * (column + _column(line, problem.word)) + "^\n% Invalid input detected at '^' marker.\n\n")

    # Exec

    async def _exec(self, line: str, column: int) -> None:
        command, pipe, tail = line.partition("|")
        words = command.split()
        rules = [rule for rule in EXEC if rule.level <= self.level]
        found = match(rules, words, self.device.config.interfaces)
        if isinstance(found, Problem):
            if found.kind == "invalid" and found.word == 0 and len(words) == 1 and not self.configuring:
                self._write("% Unknown command or computer name, or unable to find computer address\n")
                return
            self._complain(found, line, column, words)
            return
        if pipe:
            how, _space, pattern = tail.strip().partition(" ")
            names = [name for name in ("include", "exclude", "begin", "section") if how and name.startswith(how.lower())]
            if found.words[0] not in NEEDS_PIPE or len(names) != 1 or not pattern.strip():
                self._write(" " * (column + line.index("|")) + "^\n% Invalid input detected at '^' marker.\n\n")
                return
            try:
                await self._page(show.piped(self._shown(found), names[0], pattern.strip()))
            except re.error:
                self._write("% Failed to compile regular expression.\n")
        elif found.words[0] == "show":
            await self._page(self._shown(found))
        else:
            await getattr(self, f"_do_{found.rule.handler}")(found)

    def _shown(self, found: Match) -> str:
        name = found.rule.handler.removeprefix("show_")
        return str(getattr(show, name)(self.device, *found.values))

    async def _page(self, text: str) -> None:
        lines = text.splitlines(keepends=True)
        room = self.length - 1
        while lines:
            take, lines = (lines[:room], lines[room:]) if self.length > 1 else (lines, [])
            self._write("".join(take))
            if lines:
                self._write(" --More-- ")
                key = await self._read_key()
                self._write("\b" * 10 + " " * 10 + "\b" * 10)
                if key in "\r\n":
                    room = 1
                elif key == " ":
                    room = self.length - 1
                else:
                    return

    async def _do_nothing(self, _found: Match) -> None:
        return

    async def _do_enable(self, _found: Match) -> None:
        if self.level == 15 or self.device.enable_secret is None:
            self.level = 15
            return
        for _try in range(3):
            self._write("Password: ")
            if await self._read_line(False) == self.device.enable_secret:
                self.level = 15
                return
        self._write("% Bad secrets\n\n")

    async def _do_disable(self, _found: Match) -> None:
        self.level = 1

    async def _do_logout(self, _found: Match) -> NoReturn:
        raise Closed

    async def _do_terminal_length(self, found: Match) -> None:
        self.length = int(found.values[0])

    async def _do_terminal_width(self, _found: Match) -> None:
        return

    async def _do_configure(self, _found: Match) -> None:
        self.configuring, self.section = True, None
        self._write("Enter configuration commands, one per line.  End with CNTL/Z.\n")

    async def _do_write(self, _found: Match) -> None:
        self.device.save()
        self._write("Building configuration...\n[OK]\n")

    async def _do_copy(self, _found: Match) -> None:
        self._write("Destination filename [startup-config]? ")
        if (await self._read_line(True)).strip() in ("", "startup-config"):
            self.device.save()
            self._write("Building configuration...\n[OK]\n")
        else:
            self._write("%Error opening nvram: (No such file or directory)\n")

    async def _do_reload(self, _found: Match) -> None:
        if self.device.startup != self.device.running:
            self._write("\nSystem configuration has been modified. Save? [yes/no]: ")
            answer = (await self._read_line(True)).strip().lower()
            if answer and "yes".startswith(answer):
                self.device.save()
        self._write("Proceed with reload? [confirm]")
        if await self._read_key() in "\r\ny":
            self._write("\n")
            self.device.reload()
            raise Closed
        self._write("\n")

    async def _do_ping(self, found: Match) -> None:
        await ping(self.device, found, self._write)

    # Configuration

    async def _configuration(self, line: str) -> None:
        words = line.split()
        first = words[0].lower()
        if first in ("end", "exit") and len(words) == 1:
            if first == "end" or self.section is None:
                self.configuring = False
            self.section = None
            return
        if first == "do" and len(words) > 1:
            await self._exec(line.replace(words[0], " " * len(words[0]), 1), len(self.prompt))
            return
        if self.device.faults.refuses(line.strip()):
            self._complain(Problem("invalid", 0), line, len(self.prompt), words)
            return
        negated = first in ("no", "default") and len(words) > 1
        rest = words[1:] if negated else words
        config, section = self.device.config, self.section
        found = config.match(rest, section, negated=negated)
        if isinstance(found, Problem) and section is not None:
            # A line that the section does not know may be a global one: then the section is left.
            outer = config.match(rest, None, negated=negated)
            if isinstance(outer, Match) or outer.word > found.word:
                found, section = outer, None
        if isinstance(found, Problem):
            self._complain(found._replace(word=found.word + negated), line, len(self.prompt), words)
            return
        said = ""
        if found.rule.enters:
            if negated:
                said = config.leave_out(found)
                if self.section is not None and self.section.header == found.line:
                    self.section = None
            else:
                self.section = config.enter(found)
        else:
            said = config.remove(found, section) if negated else config.put(found, section)
            self.section = section
        if said:
            self._write(said)
        self.device.touched(self.user)
        await asyncio.sleep(0)


def _column(line: str, word: int) -> int:
    """Where the n-th word of `line` starts (its end, past the last one)."""
    starts = [found.start() for found in re.finditer(r"\S+", line)]
    return starts[word] if word < len(starts) else len(line)
