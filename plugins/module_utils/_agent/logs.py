# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What is told of the agent's work, how much of it, and where: the levels and places of the old clients' guide, and journald.

    level   what it has
    0       nothing
    1       errors, warnings, and the lines that say where the tunnel's life has got to: `log.log(NOTICE, "up: ...")`
    2       what is done: `log.info`
    3       `log.debug`, and the exchange with the broker, which `exchange(log)` takes, secrets struck out

A message that may come again and again (a bad datagram, a flood) gets a name:

    log.warning("a datagram from %s was dropped: it is no IPv6 packet", peer, extra=once("bad_datagram"))

The first of a name is told at once. Those that follow are counted, and told as one line with their number once a minute at most, before
whatever is told next; `flush` tells it where nothing is, for whoever comes by now and then. Without `set_up` (in tests) such a message is
like any other.

A process with several tunnels has a logger for each, `of(log, name)`, whose lines begin with its name.

No place can stop the agent: where a disk is full or nobody reads, the line is lost, and the other places are told once.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Callable

from .._exchange.transcript import scrub
from .logplaces import Console, LogFile, Place, Stream, Syslog
from .settings import AgentConfig

PROGRAM = "tsp-agent"
NOTICE = 25
"""Between INFO and WARNING: the tunnel is up, lost, renewed, gone. What level 1 shows beside warnings and errors."""
LEVELS = {0: logging.CRITICAL + 1, 1: NOTICE, 2: logging.INFO, 3: logging.DEBUG}
NAMED = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
"""log_level of a JSON configuration."""
AGAIN = 60.0
"""Seconds in which a message of one name is told once, with its number."""
MOST_NAMES = 256
OWN_LOG_SIZE = 1024
"""KiB of the log that an agent in the background keeps when it was told of no other place."""


def once(name: str) -> dict[str, str]:
    """For `extra` of a log call: messages of this name are told once, and then counted."""
    return {"once": name}


def of(log: logging.Logger, name: str) -> logging.Logger:
    """The logger of one tunnel, for whoever has the process's. Its own is the only one whose lines tell of no tunnel."""
    child = logging.getLogger(f"{PROGRAM}.{name}")
    if log.handlers and not any(isinstance(found, Repeated) for found in child.filters):
        child.addFilter(Repeated(child))
    return child


def set_up(config: AgentConfig, foreground: bool, secrets: Iterable[str] = (), environ: Mapping[str, str] | None = None,
           several: bool = False) -> logging.Logger:
    """The logger "tsp-agent" with a handler for each place of config.log; what an earlier call had set up is closed.

    In the background nobody reads stderr: its lines go to NAME.log in runtime_dir, which keeps one older file of a MiB. secrets: more
    passwords, of other tunnels in this process; all of them are struck out of every line. environ: for JOURNAL_STREAM. several: lines of
    a tunnel begin with its name. Raises nothing for a place that cannot be had: the others are told.
    """
    log = logging.getLogger(PROGRAM)
    close(log)
    logging.addLevelName(NOTICE, "NOTICE")
    wanted = config.log
    credentials = config.options.credentials
    hidden = tuple(secret for secret in (*secrets, credentials.password if credentials is not None else None) if secret)
    elsewhere = any((wanted.console, wanted.file and wanted.filename, wanted.syslog))
    level = LEVELS[wanted.stderr] if wanted.stderr is not None else LEVELS[0] if elsewhere else NAMED[config.log_level]
    places: list[tuple[int, Place]] = []
    if foreground:
        places.append((level, Stream(sys.stderr, (os.environ if environ is None else environ).get("JOURNAL_STREAM", ""))))
    else:
        places.append((level, LogFile(config.runtime_file("log"), OWN_LOG_SIZE, older=config.runtime_file("log.1"))))
    if wanted.console:
        places.append((LEVELS[wanted.console], Console()))
    if wanted.file and wanted.filename:
        size = wanted.rotation_size if wanted.rotation else 0
        places.append((LEVELS[wanted.file], LogFile(wanted.filename, size, delete=wanted.rotation_delete)))
    if wanted.syslog:
        places.append((LEVELS[wanted.syslog], Syslog(wanted.syslog_facility)))
    for least, place in places:
        if least < LEVELS[0]:
            handler = Handler(place, log, lambda text: _struck(text, hidden), several)
            handler.setLevel(least)
            log.addHandler(handler)
    log.addFilter(Repeated(log))
    log.setLevel(min([handler.level for handler in log.handlers], default=LEVELS[0]))
    log.propagate = False
    return log


def _struck(text: str, hidden: tuple[str, ...]) -> str:
    """The last of three walls: nobody logs a password, and the transcript strikes it out."""
    for secret in hidden:
        text = scrub(text, secret)
    return text


def exchange(log: logging.Logger) -> Callable[[str], None] | None:
    """Where to put the lines of an exchange; None where nobody listens at level 3, so that nothing need be recorded."""
    if not log.isEnabledFor(logging.DEBUG):
        return None

    def tell(line: str) -> None:
        log.debug("%s", line.rstrip("\r\n"))

    return tell


def flush(log: logging.Logger) -> None:
    """Tell how often counted messages came, where a minute has passed since the last time."""
    for one in (log, *_tunnels()):
        for found in one.filters:
            if isinstance(found, Repeated):
                found.flush()


def close(log: logging.Logger) -> None:
    """Tell what is still counted, and give the places back."""
    for one in (log, *_tunnels()):
        for found in list(one.filters):
            if isinstance(found, Repeated):
                found.flush(everything=True)
                one.removeFilter(found)
    for handler in list(log.handlers):
        if isinstance(handler, Handler):
            log.removeHandler(handler)
            handler.close()


def _tunnels() -> list[logging.Logger]:
    known = dict(logging.root.manager.loggerDict)
    return [one for name, one in known.items() if name.startswith(f"{PROGRAM}.") and isinstance(one, logging.Logger)]


class Repeated(logging.Filter):
    """Lets the first message of a name pass, and counts those that follow. clock: monotonic seconds."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._log = log
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        self.flush()
        name = getattr(record, "once", None)
        if name is None:
            return True
        seen = self._seen.get(name)
        if seen is not None:
            seen.count += 1
            seen.record = record
            return False
        if len(self._seen) >= MOST_NAMES:  # somebody makes names out of what comes from outside
            oldest = min(self._seen, key=lambda key: self._seen[key].told)
            self._tell(self._seen.pop(oldest))
        self._seen[name] = _Seen(self._clock(), record)
        return True

    def flush(self, everything: bool = False) -> None:
        """Tell the numbers whose minute is over; a name that was quiet for a minute is new again."""
        now = self._clock()
        due = {name: seen for name, seen in self._seen.items() if everything or now - seen.told >= AGAIN}
        for name, seen in due.items():  # before any is told: that comes by here again
            del self._seen[name]
            if seen.count:
                self._seen[name] = _Seen(now, seen.record)
        for seen in due.values():
            self._tell(seen)

    def _tell(self, seen: _Seen) -> None:
        if seen.count:
            number = f"{seen.count} times more" if seen.count > 1 else "once more"
            self._log.log(seen.record.levelno, "%s (%s)", seen.record.getMessage(), number)


class _Seen:
    def __init__(self, told: float, record: logging.LogRecord) -> None:
        self.told = told
        self.record = record
        self.count = 0


class Handler(logging.Handler):
    """Brings records to a place, line by line, and tells the other places once when that does not work."""

    def __init__(self, place: Place, log: logging.Logger, clean: Callable[[str], str], several: bool = False) -> None:
        super().__init__()
        self._several = several
        self._place = place
        self._log = log
        self._clean = clean
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
        except Exception as exc:
            text = f"a message of the log could not be made: {type(exc).__name__}: {record.msg!s}"
        begin = record.name[len(PROGRAM) + 1:] if self._several else ""
        begin = f"{begin}: " if begin else ""
        lines = [begin + printable(line) for line in self._clean(text).splitlines() or [""]]
        try:
            if self._lost:
                lines.insert(0, f"{self._lost} messages could not be written here")
            self._place.write(record.levelno, record.created, lines)
            self._lost = 0
        except (OSError, ValueError) as exc:
            first = not self._lost
            self._lost += 1
            if first:
                self._tell_others(record, f"the log cannot be written to {self._place.name}: {getattr(exc, 'strerror', None) or exc}")

    def _tell_others(self, record: logging.LogRecord, text: str) -> None:
        told = logging.LogRecord(record.name, logging.ERROR, "", 0, text, None, None)
        for handler in self._log.handlers:
            if handler is not self and isinstance(handler, Handler) and not handler._lost:
                handler.handle(told)

    def close(self) -> None:
        self._place.close()
        super().close()


def printable(line: str) -> str:
    """No terminal is steered by what a broker sent, and no line is two."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line)
