# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A reader of Prometheus' exposition format 0.0.4 that forgives nothing."""

from __future__ import annotations

import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf'({NAME})(?:\{{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\}})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
MEANT = {r"\\": "\\", r"\n": "\n", r"\"": '"'}

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(data: bytes) -> Series:
    """(name, labels) -> value. AssertionError for whatever the format does not have."""
    text = data.decode("utf-8")
    assert text.endswith("\n")
    out: Series = {}
    told: dict[str, str] = {}
    helped: set[str] = set()
    current = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            current = line.split(" ", 3)[2]
            assert current not in helped and re.fullmatch(NAME, current), line
            helped.add(current)
        elif line.startswith("# TYPE "):
            _hash, _type, name, kind = line.split(" ")
            assert name == current and name not in told and kind in ("counter", "gauge"), line
            assert name.endswith("_total") == (kind == "counter"), line
            told[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            name, labels, value = found.groups()
            assert name == current and name in told, f"{line}: not below its TYPE"
            pairs = LABEL.findall(labels or "")
            assert ",".join(f'{key}="{content}"' for key, content in pairs) == (labels or ""), line
            assert len({key for key, _content in pairs}) == len(pairs), line
            key = name, frozenset((key, re.sub(r"\\.", lambda match: MEANT[match.group()], content)) for key, content in pairs)
            assert key not in out, f"{line}: twice"
            out[key] = float(value)
    return out
