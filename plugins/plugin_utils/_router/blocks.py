# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The text of a configuration in parts: lines at the margin, each with what is indented below it.

Banners are skipped whole, since their text may look like configuration. Lines that change by themselves (dates, sizes) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.canon import canonical

_VOLATILE = re.compile(r"Building configuration|Current configuration|Using \d+ out of|version \d|ntp clock-period|Load for|Time source")
_BANNER = re.compile(r"banner \S+ (\^C|\S)")


class Block(NamedTuple):
    """header: a line at the margin; body: the lines below it, with their indentation."""

    header: str
    body: tuple[str, ...] = ()

    def text(self) -> str:
        return "".join(f"{line}\n" for line in (self.header, *self.body))


def parse(text: str) -> list[Block]:
    """The blocks of a configuration, of the device or of ours, in their order; every line in canonical spelling."""
    blocks: list[Block] = []
    body: list[str] = []
    closing = ""
    for raw in text.splitlines():
        if closing:
            closing = "" if closing in raw else closing
            continue
        banner = _BANNER.match(raw)
        if banner:
            closing = "" if banner[1] in raw[banner.end():] else banner[1]
            continue
        line = canonical(raw)
        if not line or line[0] == "!" or _VOLATILE.match(line):
            continue
        if raw[0] in " \t" and blocks:
            body.append(" " * (len(raw.expandtabs()) - len(raw.expandtabs().lstrip())) + line)
            blocks[-1] = Block(blocks[-1].header, tuple(body))
        elif line not in ("end", "exit", "configure terminal"):
            body = []
            blocks.append(Block(line))
    return _merged(blocks)


def _merged(blocks: Iterable[Block]) -> list[Block]:
    """Blocks with one header once (a text may open an interface twice)."""
    found: dict[str, list[str]] = {}
    for block in blocks:
        lines = found.setdefault(block.header, [])
        lines += [line for line in block.body if line not in lines]
    return [Block(header, tuple(lines)) for header, lines in found.items()]


def same(one: Iterable[Block], other: Iterable[Block]) -> bool:
    """Whether two configurations say the same; the order of lines does not count."""
    return {b.header: frozenset(b.body) for b in one} == {b.header: frozenset(b.body) for b in other}


def render(blocks: Iterable[Block]) -> str:
    return "".join(block.text() for block in blocks)
