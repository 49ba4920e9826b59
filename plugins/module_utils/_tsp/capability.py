# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The CAPABILITY line (RFC 5572 section 4.4.2; tsp-protocol.md section 2), read and written."""

from __future__ import annotations

import re
from typing import Callable, NamedTuple

TUNNELS = ("V6V4", "V6UDPV4", "V4V6")
AUTHS = ("ANONYMOUS", "PLAIN", "DIGEST-MD5", "PASSDSS-3DES-1")

_TOKEN = re.compile(r"([A-Za-z]+)=([A-Za-z0-9][A-Za-z0-9-]{0,31})\Z")
_TUNNEL_FOR = {"v6v4": ("V6V4",), "v6udpv4": ("V6UDPV4",), "v4v6": ("V4V6",), "v6anyv4": ("V6V4", "V6UDPV4", "V6ANYV4")}


class Capabilities(NamedTuple):
    """Upper-case tokens; unknown ones are kept, they harm nobody."""

    tunnels: frozenset[str]
    auths: frozenset[str]


def parse(line: str, quirk: Callable[[str], None]) -> Capabilities | None:
    """Read a line; None when it is no CAPABILITY line. quirk(name) is told the tolerances needed (quirks.py)."""
    words = line.replace(",", " ").split()
    if not words or words[0].upper() != "CAPABILITY":
        return None
    tunnels: set[str] = set()
    auths: set[str] = set()
    upper = words[0].isupper()
    for word in words[1:]:
        token = _TOKEN.match(word)
        if token is None:
            continue
        name, value = token[1].upper(), token[2].upper()
        if name in ("TUNNEL", "AUTH"):
            (tunnels if name == "TUNNEL" else auths).add(value)
            upper = upper and word.isupper()
    if not upper:
        quirk("capability_case")
    if line.strip() != " ".join(words):
        quirk("capability_separator")
    if not tunnels:
        quirk("capability_without_tunnels")
    return Capabilities(frozenset(tunnels), frozenset(auths))


def build(tunnels: frozenset[str], auths: frozenset[str]) -> bytes:
    """The line as old clients know it: upper case, single blanks, known tokens in a fixed order first, CR LF."""
    words = ["CAPABILITY"]
    for name, order, values in (("TUNNEL", TUNNELS, tunnels), ("AUTH", AUTHS, auths)):
        known = [value for value in order if value in values]
        words += [f"{name}={value}" for value in known + sorted(values.difference(order))]
    return " ".join(words).encode("ascii") + b"\r\n"


def offers(tunnels: frozenset[str], mode: str) -> bool:
    """Whether a broker with these tokens can serve `mode`: v6anyv4 has none of its own (tsp-protocol.md section 2);
    should a broker have one after all, it is taken for that mode.

    A broker that names no mode at all is asked anyway; its answer to create will tell.
    """
    return not tunnels or any(token in tunnels for token in _TUNNEL_FOR[mode])
