# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a packet goes, read off the configuration: own addresses, connected networks, static routes, tunnels and their ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_network
from typing import Union

from .config import Config, Section
from .words import network4

Address = Union[IPv4Address, IPv6Address]


@dataclass(frozen=True)
class TunnelEnds:
    """A tunnel that can carry: outer addresses, and what travels inside."""

    name: str
    source: Address
    destination: Address


def addresses(section: Section, version: int) -> list[Address]:
    """Addresses of an interface that is up; link-local ones and those made from a MAC address are not listed."""
    if not section.up:
        return []
    if version == 4:
        words = section.get("ip", "address")
        return [IPv4Address(words[0])] if words else []
    found: list[Address] = []
    for words in section.all("ipv6", "address"):
        if "/" in words[0]:
            interface = IPv6Interface(words[0])
            # eui-64 of an interface without a MAC address: the emulator takes ::1, and says so nowhere else.
            found.append(interface.network.network_address + 1 if words[1:] == ("eui-64",) else interface.ip)
    return found


def own(config: Config, address: Address) -> bool:
    """Whether `address` is one of the router's."""
    return any(address in addresses(section, address.version) for section in config.interfaces.values())


def tunnel_ends(config: Config, name: str) -> TunnelEnds | None:
    """The ends of a tunnel that is up: not shut down, with a mode, a source that is an own address, and a destination."""
    section = config.interfaces.get(name)
    if section is None or not section.up:
        return None
    mode, source, destination = (section.get("tunnel", word) for word in ("mode", "source", "destination"))
    if mode[:1] not in (("ipv6ip",), ("ipv6",)) or not source or not destination:
        return None
    to = ip_address(destination[0])
    if to.version != (4 if mode[0] == "ipv6ip" else 6):
        return None
    try:
        local: Address | None = ip_address(source[0])
        if not own(config, ip_address(source[0])):
            local = None
    except ValueError:
        below = config.interfaces.get(source[0])
        candidates = addresses(below, to.version) if below else []
        local = candidates[0] if candidates else None
    if local is None or local.version != to.version:
        return None
    return TunnelEnds(name, local, to)


def tunnels(config: Config) -> Iterator[TunnelEnds]:
    for name in config.interfaces:
        if name.startswith("Tunnel"):
            ends = tunnel_ends(config, name)
            if ends:
                yield ends


def line_up(config: Config, section: Section) -> bool:
    """Line protocol: a tunnel needs its ends, anything else only to be enabled."""
    if section.name.startswith("Tunnel"):
        return tunnel_ends(config, section.name) is not None
    return section.up


def egress(config: Config, to: Address) -> str | None:
    """The interface a packet leaves by: longest prefix first, then the lowest distance. Null0 and no route at all are told apart
    by their names: "Null0" and None."""
    best: tuple[int, int, str] | None = None
    for length, distance, name in _routes(config, to):
        if name != "Null0" and not line_up(config, config.interfaces[name]):
            continue
        if best is None or (-length, distance) < (-best[0], best[1]):
            best = (length, distance, name)
    return best[2] if best else None


def _routes(config: Config, to: Address) -> Iterator[tuple[int, int, str]]:
    for name, section in config.interfaces.items():
        if to.version == 4:
            words = section.get("ip", "address")
            if words and to in network4(*words):
                yield network4(*words).prefixlen, 0, name
        else:
            for words in section.all("ipv6", "address"):
                if "/" in words[0] and to in IPv6Interface(words[0]).network:
                    yield IPv6Interface(words[0]).network.prefixlen, 0, name
    for entry in list(config.lines.values()):
        if to.version == 4 and entry.words[:2] == ("ip", "route"):
            network, rest = network4(*entry.words[2:4]), entry.words[4:]
        elif to.version == 6 and entry.words[:2] == ("ipv6", "route"):
            network, rest = ip_network(entry.words[2]), entry.words[3:]
        else:
            continue
        if to not in network:
            continue
        distance = int(rest[-1]) if rest[-1].isdecimal() else 1
        if rest[0] in config.interfaces or rest[0] == "Null0":
            yield network.prefixlen, distance, rest[0]
        else:
            hop = ip_address(rest[0])
            for _length, _distance, name in _connected(config, hop):
                yield network.prefixlen, distance, name
                break


def _connected(config: Config, hop: Address) -> Iterator[tuple[int, int, str]]:
    for name, section in config.interfaces.items():
        words = section.get("ip", "address")
        if hop.version == 4 and words and hop in network4(*words):
            yield 0, 0, name
        if hop.version == 6 and any("/" in w[0] and hop in IPv6Network(w[0], strict=False) for w in section.all("ipv6", "address")):
            yield 0, 0, name
