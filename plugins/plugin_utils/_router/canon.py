# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One way to write a line, so that what was asked and what the device shows compare equal.

IOS writes interface names in full, IPv6 addresses in upper case and compressed, and drops the host bits of routes and
advertised prefixes. Words that are keywords are left alone: write commands in full. Free text (descriptions, remarks) is left as it is.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, IPv6Interface

INTERFACE_TYPES = (
    "AppGigabitEthernet", "ATM", "BDI", "BVI", "Cellular", "Dialer", "Ethernet", "FastEthernet", "FortyGigabitEthernet", "GigabitEthernet",
    "HundredGigE", "Loopback", "Multilink", "Null", "Port-channel", "Serial", "TenGigabitEthernet", "Tunnel", "TwentyFiveGigE",
    "TwoGigabitEthernet", "Virtual-Template", "Vlan",
)
VIRTUAL_TYPES = ("BDI", "BVI", "Dialer", "Loopback", "Multilink", "Port-channel", "Tunnel", "Virtual-Template", "Vlan")
"""Interfaces that `no interface` removes; the others are hardware."""
_FAMILIES = ("interface", "ip", "ipv6", "tunnel", "permit", "deny")
_NAMES = re.compile(r"([A-Za-z][A-Za-z-]*?)(\d+(?:/\d+)*(?:\.\d+)?)\Z")
_NUMBER = re.compile(r"\d+(?:/\d+)*(?:\.\d+)?\Z")
_NAME_AN_INTERFACE = ("interface ", "tunnel source ", "ip unnumbered ", "ip route ", "ipv6 route ")
_NETWORKS = ("ipv6 route ", "ipv6 nd prefix ")


def interface_name(word: str) -> str:
    """`gi0/1` as GigabitEthernet0/1; what is not an interface's name, or could be two, comes back unchanged."""
    found = _NAMES.match(word)
    if not found:
        return word
    letters = found[1].lower()
    kinds = [kind for kind in INTERFACE_TYPES if kind.lower().startswith(letters)]
    exact = [kind for kind in kinds if kind.lower() == letters]
    kinds = exact or kinds
    return kinds[0] + found[2] if len(kinds) == 1 else word


def canonical(text: str) -> str:
    """One configuration line in IOS's spelling, without indentation."""
    words = text.split()
    if not words:
        return ""
    negated = words[0] == "no" and len(words) > 1
    body = words[1:] if negated else words
    if body[0] in _FAMILIES and body[:3] != ["ip", "domain", "name"]:
        body = _spell(body)
    return " ".join((["no"] if negated else []) + body)


def _spell(words: list[str]) -> list[str]:
    text = " ".join(words)
    start = next((len(prefix.split()) for prefix in _NAME_AN_INTERFACE if text.startswith(prefix)), len(words))
    spelt: list[str] = words[:start]
    rest = iter(range(start, len(words)))
    for at in rest:
        name = interface_name(words[at])
        if name == words[at] and words[at].isalpha() and at + 1 < len(words) and _NUMBER.match(words[at + 1]):
            # `interface Tunnel 0` and `tunnel source GigabitEthernet 0/0`: one name in two words.
            both = interface_name(words[at] + words[at + 1])
            if _NAMES.match(both) and both.startswith(INTERFACE_TYPES):
                name = both
                next(rest)
        spelt.append(name)
    network = text.startswith(_NETWORKS)
    return [_address(word, network) if ":" in word else word for word in spelt]


def _address(word: str, network: bool) -> str:
    try:
        if "/" not in word:
            return str(IPv6Address(word)).upper()
        parsed = IPv6Interface(word)
        return str(parsed.network if network else parsed).upper()
    except ValueError:
        return word


def is_virtual(header: str) -> bool:
    """Whether `header` opens an interface that can be removed."""
    return header.startswith(tuple(f"interface {kind}" for kind in VIRTUAL_TYPES))


def route_key(line: str) -> tuple[str, ...] | None:
    """What makes two static routes the same route: table, destination, and where to. None for any other line.

    Distance, name, tag and tracking are what can differ between two forms of one route.
    """
    words = line.split()
    if words[:2] not in (["ip", "route"], ["ipv6", "route"]):
        return None
    at = 4 if words[2:3] == ["vrf"] else 2
    at += 1 if words[0] == "ipv6" else 2
    hops = [word for word in words[at:at + 2] if ":" in word or word.count(".") == 3 or _NAMES.match(word)]
    return (*words[:at], *hops)


def leaves_by(line: str, interface: str) -> bool:
    """Whether `line` is a static route out of `interface`."""
    key = route_key(line)
    return key is not None and interface in key
