# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the broker says: one event per line, JSON or text, with named values and never a secret."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from .._tsp.errors import LocalError

_ENCODE = json.JSONEncoder(default=str, ensure_ascii=False).encode
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Log:
    """level: the least that is written. style: json | text. path: None = `stream` (standard error by default).

    Lines look like {"time": "2026-01-02T03:04:05.678Z", "level": "info", "event": "granted", …}; values of None are left out.
    """

    def __init__(self, level: str = "info", style: str = "json", path: Path | None = None, stream: TextIO | None = None,
                 clock: Callable[[], float] = time.time) -> None:
        self.level = level
        self.style = style
        self.path = path
        self._clock = clock
        self._second, self._stamp = -1, ""
        self._own: TextIO | None = None
        self._stream = stream or sys.stderr
        self.reopen()

    @property
    def debugging(self) -> bool:
        """Whether debug lines are written, for those who would have to gather something for them."""
        return self.level == "debug"

    def reopen(self) -> None:
        """Open the file anew, after it was rotated. Raises LocalError `log_unwritable`."""
        if self.path is None:
            return
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise LocalError("log_unwritable", f"The log {self.path} cannot be written: {exc.strerror}.",
                             "Name a writable place in log.file.") from None
        self.close()
        self._stream = self._own = os.fdopen(handle, "a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        if self._own is not None:
            self._own.close()
            self._own, self._stream = None, sys.stderr

    def debug(self, event: str, **values: Any) -> None:
        """See Log."""
        self._write("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """See Log."""
        self._write("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """See Log."""
        self._write("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """See Log."""
        self._write("error", event, values)

    def _write(self, level: str, event: str, values: dict[str, Any]) -> None:
        if LEVELS[level] < LEVELS[self.level]:
            return
        now = self._clock()
        if int(now) != self._second:
            self._second, self._stamp = int(now), time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        stamp = f"{self._stamp}.{int(now * 1000) % 1000:03d}Z"
        given = {key: value for key, value in values.items() if value is not None}
        if self.style == "json":
            line = _ENCODE({"time": stamp, "level": level, "event": event, **given})
        else:
            parts = [f"{key}={_word(value)}" for key, value in given.items()]
            line = " ".join((stamp, level.upper(), event, *parts))
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass  # a full disk must not end the tunnels


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if text and all(c.isprintable() and c not in ' "=' for c in text) else json.dumps(text, ensure_ascii=False)
