# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Takes a JSON object apart, value by value, and collects what is wrong, so that all of it can be told at once."""

from __future__ import annotations

import re
from typing import Any


class Reader:
    """Takes values out of a JSON object and keeps what is wrong with them."""

    def __init__(self, data: dict[str, Any], where: str, wrong: list[str]) -> None:
        self._data = dict(data)
        self._where = where
        self._wrong = wrong

    def refuse(self, key: str, why: str) -> None:
        self._wrong.append(f"{self._where}{key} {why}")

    def text(self, key: str, default: Any = None, choices: tuple[str, ...] = (), pattern: re.Pattern[str] | None = None) -> Any:
        value = self._data.pop(key, None)
        if value is None or value == "":
            return default
        if not isinstance(value, str) or not value.isprintable():
            self.refuse(key, "is not a line of text")
        elif choices and value not in choices:
            self.refuse(key, f"is {value!r}; it can be {', '.join(choices)}")
        elif pattern is not None and not pattern.match(value):
            self.refuse(key, f"is {value!r}, which cannot be a name")
        else:
            return value
        return default

    def path(self, key: str, default: Any = None) -> Any:
        value = self.text(key, default)
        if value and not value.startswith("/"):
            self.refuse(key, f"is {value!r}; it must be an absolute path")
            return default
        return value

    def yes(self, key: str, default: bool) -> bool:
        """A flag that is one or the other."""
        return bool(self.flag(key, default))

    def flag(self, key: str, default: bool | None) -> bool | None:
        """A flag that may be left open: null."""
        value = self._data.pop(key, None)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, "is neither true nor false")
            return default
        return value

    def count(self, key: str, default: Any, lowest: int, highest: int) -> Any:
        """A whole number."""
        value = self._data.get(key)
        if isinstance(value, float):
            self.refuse(key, f"is {self._data.pop(key)!r}; it must be a whole number from {lowest} to {highest}")
            return default
        return self.number(key, default, lowest, highest)

    def number(self, key: str, default: Any, lowest: float, highest: float) -> Any:
        value = self._data.pop(key, None)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
            self.refuse(key, f"is {value!r}; it must be a number from {lowest:g} to {highest:g}")
            return default
        return value

    def whole(self, key: str, default: int, choices: tuple[int, ...]) -> int:
        """One of a few whole numbers."""
        value = self._data.pop(key, None)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value not in choices:
            self.refuse(key, f"is {value!r}; it can be {', '.join(map(str, choices))}")
            return default
        return value

    def size(self, key: str) -> Any:
        """An MTU: "auto" or bytes."""
        if isinstance(self._data.get(key), str):
            return self.text(key, "auto", ("auto",))
        return self.count(key, "auto", 576, 65535)

    def list(self, key: str) -> tuple[Any, ...]:
        value = self._data.pop(key, None)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.refuse(key, "is not a list")
            return ()
        return tuple(value)

    def section(self, key: str) -> dict[str, Any]:
        value = self._data.pop(key, None)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(key, "is not an object")
            return {}
        return value

    def end(self) -> None:
        for key in sorted(self._data):
            self.refuse(key, "is not known")
