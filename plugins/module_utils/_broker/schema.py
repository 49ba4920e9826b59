# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Reading YAML strictly: every wrong key or value is named with its path, what is allowed, and the nearest right name.

Problems are collected, so that one look at the output of `check` shows all of them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from .._tsp.errors import LocalError
from .._tsp.request import DNS_NAME

T = TypeVar("T")
REQUIRED: Any = object()
"""Default of a key that has none."""


class Problems:
    """The list of what is wrong with one file."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[str] = []

    def add(self, path: str, sentence: str) -> None:
        """Note one problem. `sentence` says what is wrong and what is allowed."""
        self.found.append(f"{path or 'the file'}: {sentence}")

    def raise_if_any(self) -> None:
        """Raise LocalError `config_invalid` naming every problem."""
        if self.found:
            count = "1 problem" if len(self.found) == 1 else f"{len(self.found)} problems"
            raise LocalError("config_invalid", f"{self.source} has {count}:\n" + "\n".join(f"  - {p}" for p in self.found),
                             "\nNothing was started or changed. docs/broker.md describes every key.")


class Wrong(ValueError):
    """Raised by a converter: its text says what was expected. found: the part of the value that was wrong, when not the whole."""

    def __init__(self, expected: str, found: Any = REQUIRED) -> None:
        super().__init__(expected)
        self.found = found


class Section:
    """One mapping of the file. Ask for each key once, then call `close`, which finds the unknown ones."""

    def __init__(self, problems: Problems, path: str, value: Any) -> None:
        self.problems = problems
        self.path = path
        self.known: list[str] = []
        self.values: dict[str, Any] = {}
        if isinstance(value, Mapping):
            for key in value:
                if isinstance(key, str):
                    self.values[key] = value[key]
                else:
                    problems.add(path, f"the key {key!r} is not text; put it in quotes.")
        elif value is not None:
            problems.add(path, f"expected keys with values, found {shown(value)}.")

    def where(self, key: str) -> str:
        """Path of a key."""
        return f"{self.path}.{key}" if self.path else key

    def take(self, key: str, convert: Callable[[Any], T], default: Any = REQUIRED, hide: bool = False) -> T:
        """The converted value of `key`, or its default. A wrong value is noted and the default (or None) returned.

        hide: the value is a secret and never quoted.
        """
        self.known.append(key)
        if key not in self.values or (self.values[key] is None and default is not REQUIRED):
            if default is REQUIRED:
                self.problems.add(self.where(key), "is missing.")
                return None  # type: ignore[return-value]
            return default  # type: ignore[no-any-return]
        try:
            return convert(self.values[key])
        except Wrong as exc:
            found = self.values[key] if exc.found is REQUIRED else exc.found
            self.problems.add(self.where(key), str(exc) if hide else f"{exc} Found {shown(found)}.")
            return None if default is REQUIRED else default  # type: ignore[return-value]

    def section(self, key: str) -> Section:
        """The mapping below `key`; an empty one when absent."""
        self.known.append(key)
        return Section(self.problems, self.where(key), self.values.get(key))

    def items(self, key: str) -> list[tuple[str, Any]]:
        """(path, value) of each entry of the list below `key`; a single entry may stand without list."""
        self.known.append(key)
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            value = [value]
        return [(f"{self.where(key)}[{i}]", entry) for i, entry in enumerate(value)]

    def close(self) -> None:
        """Note every key that was not asked for."""
        for key in self.values:
            if key not in self.known:
                self.problems.add(self.where(key), f"is not a known key.{nearest(key, self.known)} "
                                  f"Known here: {', '.join(sorted(self.known))}.")


def shown(value: Any) -> str:
    """A value as it goes into a message: short, one line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean x?' or nothing."""
    close = difflib.get_close_matches(name.lower().replace("_", "-"), [k.lower().replace("_", "-") for k in known], 1, 0.6)
    original = {k.lower().replace("_", "-"): k for k in known}
    return f" Did you mean {original[close[0]]}?" if close else ""


# ---- converters ----

def text(value: Any) -> str:
    """One line of printable text."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise Wrong("expected one line of text.")
    return value


def boolean(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise Wrong("expected true or false.")
    return value


def number(low: int, high: int) -> Callable[[Any], int]:
    """A whole number in a range."""
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Wrong(f"expected a whole number from {low} to {high}.")
        return value
    return convert


def choice(allowed: Iterable[Any]) -> Callable[[Any], Any]:
    """One of a few words; 'true'/'false' of YAML count as themselves."""
    words = tuple(allowed)

    def convert(value: Any) -> Any:
        if not any(value == word and type(value) is type(word) for word in words):
            hint = nearest(value, [w for w in words if isinstance(w, str)]) if isinstance(value, str) else ""
            raise Wrong(f"expected one of {', '.join(str(w).lower() if isinstance(w, bool) else w for w in words)}.{hint}")
        return value
    return convert


def list_of(convert: Callable[[Any], T], least: int = 0) -> Callable[[Any], tuple[T, ...]]:
    """A list without doubles; a single value may stand alone."""
    def convert_all(value: Any) -> tuple[T, ...]:
        entries = value if isinstance(value, list) else [value]
        out: list[T] = []
        for entry in entries:
            try:
                made = convert(entry)
            except Wrong as exc:
                raise Wrong(str(exc), entry) from None
            if made in out:
                raise Wrong("the same thing stands in the list twice.", entry)
            out.append(made)
        if len(out) < least:
            raise Wrong(f"expected at least {least}.")
        return tuple(out)
    return convert_all


def _address_class(cls: Callable[[str], T], words: str) -> Callable[[Any], T]:
    def convert(value: Any) -> T:
        try:
            if not isinstance(value, str) or "%" in value:
                raise ValueError
            return cls(value)
        except ValueError:
            raise Wrong(f"expected {words}.") from None
    return convert


ipv4: Callable[[Any], IPv4Address] = _address_class(IPv4Address, "an IPv4 address such as 192.0.2.1")
ipv6: Callable[[Any], IPv6Address] = _address_class(IPv6Address, "an IPv6 address such as 2001:db8::1")
network4: Callable[[Any], IPv4Network] = _address_class(IPv4Network, "an IPv4 network without host bits such as 198.51.100.0/24")
network6: Callable[[Any], IPv6Network] = _address_class(IPv6Network, "an IPv6 network without host bits such as 2001:db8::/32")


def dns_name(value: Any) -> str:
    """A DNS name, lower case, without the final dot."""
    if not isinstance(value, str) or not DNS_NAME.match(value):
        raise Wrong("expected a DNS name such as broker.example.")
    return value.rstrip(".").lower()


def lengths(longest: int) -> Callable[[Any], tuple[int, ...]]:
    """Prefix lengths: 56, [48, 56, 64] or "48-64"."""
    def convert(value: Any) -> tuple[int, ...]:
        out: set[int] = set()
        for entry in value if isinstance(value, list) else [value]:
            span = re.fullmatch(r"(\d{1,3})-(\d{1,3})", entry) if isinstance(entry, str) else None
            if span:
                low, high = int(span[1]), int(span[2])
            elif isinstance(entry, int) and not isinstance(entry, bool):
                low = high = entry
            else:
                low, high = 1, 0
            if not 1 <= low <= high <= longest:
                raise Wrong(f'expected lengths from 1 to {longest}, such as 56, [48, 56] or "48-64".')
            out.update(range(low, high + 1))
        return tuple(sorted(out))
    return convert


def path_from(base: Path) -> Callable[[Any], Path]:
    """A file name; a relative one counts from the directory of the configuration file."""
    def convert(value: Any) -> Path:
        return base / text(value)
    return convert


# ---- the file ----

def load_yaml(path: Path) -> Any:
    """The content of a YAML file; duplicate keys are refused. Raises LocalError `config_unreadable` | `config_invalid`."""
    try:
        raw = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise LocalError("config_invalid", f"{path} is not UTF-8 text.", "Save it as UTF-8.") from None
    except OSError as exc:
        raise LocalError("config_unreadable", f"{path} cannot be read: {exc.strerror}.", "Check the name and the permissions.") from None
    return parse_yaml(raw, str(path))


def parse_yaml(raw: str, source: str) -> Any:
    """The value of a YAML text. Raises LocalError `config_invalid`, and `yaml_missing` without PyYAML."""
    try:
        import yaml
    except ImportError:
        raise LocalError("yaml_missing", "The broker reads its configuration with PyYAML, which is not installed.",
                         "Install the package PyYAML, or use tsp-broker.pyz, which brings it.") from None

    class Loader(yaml.SafeLoader):
        """SafeLoader that refuses duplicate keys."""

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _value in node.value:
            if key.value == "<<":
                continue
            if not isinstance(key.value, str):
                raise yaml.MarkedYAMLError(None, None, "a key must be one word", key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key.value} stands here twice", key.start_mark)
            seen.add(key.value)
        loader.flatten_mapping(node)
        made: dict[Any, Any] = loader.construct_mapping(node, deep=True)
        return made

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(raw, Loader=Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise LocalError("config_invalid", f"{source}{place}: {exc.problem or exc.context}.", "Correct the YAML.") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise LocalError("config_invalid", f"{source} is not YAML.", "Correct it.") from None
