# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is refused for its meaning, and what is not shown because it says what holds anyway.

A `check_…` returns what the device says, or nothing. Sources: Cisco's command references; "Bad mask" and "overlaps with" as seen
in public transcripts. That an `ipv6 mtu` equal to the one derived from the link below is not shown: ipv6-ops list, February 2009.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from .words import network4

if TYPE_CHECKING:
    from .config import Config, Section
    from .grammar import Match

LINK_MTU = 1500
TUNNEL_OVERHEAD = {"ipv6ip": 20, "ipv6": 40, "gre": 24}


def check_hostname(found: Match, _section: Section | None, _config: Config) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", found.words[1]):
        return ""
    return "% Hostname contains one or more illegal characters.\n"


def check_enable_secret(found: Match, _section: Section | None, _config: Config) -> str:
    """The real thing stores a hash; so that no secret lies in a state file, ours takes only the hashed form."""
    return "" if re.match(r"[589] \S+\Z", found.line.removeprefix("enable secret ")) else "% Invalid secret: give type and hash\n"


def check_address4(found: Match, section: Section | None, config: Config) -> str:
    assert section is not None
    address, mask = found.values
    bits = f"{int(IPv4Address(mask)):032b}"
    if "01" in bits:
        return f"Bad mask 0x{int(IPv4Address(mask)):X} for address {address}\n"
    length = bits.count("1")
    if length == 32 and not section.virtual:
        return f"Bad mask /{length} for address {address}\n"
    network = network4(address, mask)
    if length < 31 and IPv4Address(address) in (network.network_address, network.broadcast_address):
        return f"Bad mask /{length} for address {address}\n"
    for other in config.interfaces.values():
        words = other.get("ip", "address")
        if other is not section and words and network4(*words).overlaps(network):
            return f"% {network.network_address} overlaps with {other.name}\n"
    return ""


def check_route4(found: Match, _section: Section | None, _config: Config) -> str:
    address, mask = found.words[2:4]
    try:
        network = network4(address, mask)
    except ValueError:
        return "%Inconsistent address and mask\n"
    return "" if str(network.network_address) == address else "%Inconsistent address and mask\n"


def check_mtu6(found: Match, section: Section | None, _config: Config) -> str:
    """An interface of 1500 bytes cannot carry a larger IPv6 packet; a tunnel can be told to (it fragments outside)."""
    assert section is not None
    if not section.virtual and int(found.values[0]) > LINK_MTU:
        return f"% Invalid MTU size: must be in the range 1280 to {LINK_MTU}\n"
    return ""


def derived_mtu(section: Section) -> int:
    """MTU of an interface as nobody configured it: the link's, less the encapsulation of a tunnel."""
    mode = section.get("tunnel", "mode")
    if section.name.startswith("Tunnel"):
        return LINK_MTU - TUNNEL_OVERHEAD.get(mode[0] if mode else "gre", 24)
    return LINK_MTU


def hidden(line: str, section: Section) -> bool:
    """Whether the running configuration leaves `line` out."""
    found = re.fullmatch(r"(?:ip|ipv6) mtu (\d+)", line)
    return bool(found) and int(found[1]) == derived_mtu(section)
