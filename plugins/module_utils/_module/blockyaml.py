# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Block-style YAML out of JSON types, for targets without PyYAML.

Text is always double-quoted and everything in it that is not plain ASCII escaped, so that no value can be taken for another type
or break a line. Any YAML 1.1 or 1.2 reader gives back the data that went in.
"""

from __future__ import annotations

import re
from typing import Any

_PLAIN_KEY = re.compile(r"[a-z][a-z0-9_]*\Z")
LONGEST_KEY = 1000
_RESERVED = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def to_yaml(value: dict[str, Any]) -> str:
    """The document of a dict, with a newline at its end. Raises TypeError for what a lease does not have (fractions, objects)."""
    return "".join(line + "\n" for line in _block(value, 0)) if value else "{}\n"


def _block(value: Any, depth: int) -> list[str]:
    indent = "  " * depth
    lines: list[str] = []
    for lead, item in ([(_lead(key, indent), item) for key, item in value.items()] if isinstance(value, dict)
                       else [("-", item) for item in value]):
        if isinstance(item, (dict, list)) and item:
            lines.append(f"{indent}{lead}")
            lines.extend(_block(item, depth + 1))
        else:
            lines.append(f"{indent}{lead} {_scalar(item)}")
    return lines


def _lead(key: Any, indent: str) -> str:
    """What stands before a value. Readers look for the colon behind a plain key within 1024 characters only (YAML 1.1 section 9.1)."""
    text = _key(key)
    return f"{text}:" if len(text) <= LONGEST_KEY else f"? {text}\n{indent}:"


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError("keys are text")
    return key if _PLAIN_KEY.match(key) and key not in _RESERVED else _quoted(key)


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return repr(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, (dict, list)):
        return "{}" if isinstance(value, dict) else "[]"
    raise TypeError(f"{type(value).__name__} has no YAML form here")


def _quoted(text: str) -> str:
    out = []
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif 0x20 <= code < 0x7F:
            out.append(char)
        else:
            out.append(f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'
