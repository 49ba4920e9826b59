# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Courtesy that survives restarts: who failed lately is left alone for a while, and nobody is asked for the same thing too often.

One small JSON file for each broker, user and identity in the state folder, so that a thousand processes working for a thousand devices do
not wait for one another. It holds the time of the last exchange, the failures in a row, and the delay they cost. A clock that jumped
can shorten or repeat a delay, never lengthen it. A file that cannot be read counts as absent, one that cannot be written is a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from dataclasses import dataclass
from typing import Any, Callable

from .._tsp.errors import NetworkError
from .._tsp.request import TunnelRequest
from .files import read_text, write_private
from .options import Broker, ExchangeOptions

FIRST_DELAY, LONGEST_DELAY = 2.0, 300.0
"""Seconds after the first failure, doubled for each one that follows, and the bound (the old client's retry_delay_max)."""
FIRST_DELAY_BUSY, LONGEST_DELAY_BUSY = 30.0, 3600.0
"""The same where the broker said that it is overloaded or broken."""
BUSY_CODES = frozenset({"busy", "server_error", "no_more_tunnels", "request_in_progress"})
OF_THE_WAY = frozenset({"no_answer", "refused", "unreachable", "forbidden", "connection_lost", "connection_closed", "went_silent",
                        "answer_lost", "name_not_resolved", "name_lookup_timeout", "no_address_of_family"})
"""What may lie between us and the broker, and be gone when we are elsewhere."""
FORGET_AFTER = 86400.0
"""Seconds after which old failures no longer count."""


class TooSoonError(NetworkError):
    """The next exchange is not due yet and does not become due before the deadline. retry_after: seconds."""

    def __init__(self, code: str, message: str, hint: str, retry_after: float) -> None:
        super().__init__(code, message, hint)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Memory:
    """What is known of one broker. last: wall clock of the last exchange; delay: seconds it costs; failures in a row; reason: last code."""

    last: float = -math.inf
    failures: int = 0
    delay: float = 0.0
    reason: str = ""


def who_asks(request: TunnelRequest, options: ExchangeOptions) -> str:
    """Whom the tunnel is for: one controller may ask the same broker for many devices."""
    parts: list[Any] = [options.username or "anonymous", options.identity, request.mode]
    if request.proxy:
        parts += [request.client_ipv4, request.client_ipv6]
    return " ".join(str(part) for part in parts if part)


class Backoff:
    """The memory of one state folder. folder None: nothing is remembered, nothing is ever too soon. moved: we are elsewhere now.
    longest_delay: seconds, in place of LONGEST_DELAY where it is less."""

    def __init__(self, folder: str | None, who: str, *, min_interval: float, wall: Callable[[], float],
                 jitter: Callable[[], float], warn: Callable[[str], None], moved: bool = False,
                 longest_delay: float = LONGEST_DELAY) -> None:
        self._folder = folder
        self._longest_delay = min(longest_delay, LONGEST_DELAY)
        self._moved = moved
        self._who = who
        self._min_interval = min_interval
        self._wall, self._jitter, self._warn = wall, jitter, warn

    def wait(self, broker: Broker) -> tuple[float, str]:
        """Seconds until `broker` may be asked, and why, as half a sentence; (0, "") when now."""
        memory = self._load(broker)
        if memory is None:
            return 0.0, ""
        since = self._wall() - memory.last
        if memory.failures:
            return _left(memory.delay, since), f"it failed {memory.failures} times in a row, last with {memory.reason}"
        return _left(self._min_interval, since), f"it was asked for the same {max(0.0, since):.0f} s ago"

    def failing(self, broker: Broker) -> bool:
        """Whether the wait comes from failures, so that another broker may be asked meanwhile."""
        memory = self._load(broker)
        return memory is not None and memory.failures > 0 and _left(memory.delay, self._wall() - memory.last) > 0

    def succeeded(self, broker: Broker) -> None:
        """`broker` answered as it should."""
        self._save(broker, Memory(self._wall()))

    def failed(self, broker: Broker, code: str) -> None:
        """`broker` failed with this error code."""
        now = self._wall()
        before = self._load(broker) or Memory()
        failures = 1 if now - before.last > FORGET_AFTER else before.failures + 1
        first, longest = (FIRST_DELAY_BUSY, LONGEST_DELAY_BUSY) if code in BUSY_CODES else (FIRST_DELAY, self._longest_delay)
        delay = min(first * 2.0 ** min(failures - 1, 20), longest) * (0.75 + 0.5 * self._jitter())
        self._save(broker, Memory(now, failures, round(delay, 3), code))

    def forget(self, broker: Broker) -> None:
        """What was asked of `broker` is not wanted any more. Failures stay remembered: they are the reason for courtesy."""
        memory = self._load(broker)
        if memory is not None and not memory.failures:
            with contextlib.suppress(OSError):
                os.unlink(self._path(broker))

    def _path(self, broker: Broker) -> str:
        if self._folder is None:
            raise AssertionError
        key = hashlib.sha256(f"{broker}\n{self._who}".encode()).hexdigest()[:24]
        return os.path.join(self._folder, f"backoff-{key}.json")

    def _load(self, broker: Broker) -> Memory | None:
        if self._folder is None:
            return None
        path = self._path(broker)
        try:
            memory = _parse(json.loads(read_text(path)))
            return None if self._moved and memory.failures and memory.reason in OF_THE_WAY else memory
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as exc:
            self._warn(f"The backoff memory {path} cannot be read and counts as empty: {_reason(exc)}.")
            return None

    def _save(self, broker: Broker, memory: Memory) -> None:
        if self._folder is None:
            return
        path = self._path(broker)
        content: dict[str, Any] = {"broker": str(broker), "for": self._who, "last": memory.last, "failures": memory.failures,
                                   "delay": memory.delay, "reason": memory.reason}
        try:
            write_private(path, json.dumps(content) + "\n")
        except OSError as exc:
            self._warn(f"The backoff memory {path} cannot be written: {_reason(exc)}.")


def _left(delay: float, since: float) -> float:
    """What is left of a delay; a clock set back makes it start again, and never longer than it was."""
    return min(max(delay - max(since, 0.0), 0.0), delay)


def _parse(data: Any) -> Memory:
    memory = Memory(float(data["last"]), int(data["failures"]), float(data["delay"]), str(data["reason"]))
    if not (math.isfinite(memory.last) and 0 <= memory.delay <= 2 * LONGEST_DELAY_BUSY and 0 <= memory.failures < 10**6
            and memory.reason.isprintable() and len(memory.reason) < 100):
        raise ValueError("numbers out of range")
    return memory


def _reason(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else f"{type(exc).__name__}"
