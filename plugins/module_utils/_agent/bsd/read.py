# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What `ifconfig -a` and `netstat -rn` of the BSDs and macOS say, as values. Pure functions of text.

Lines that are not understood are passed over: these programs say much that is none of ours. Sources: ifconfig(8), netstat(1) of each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

HEAD = re.compile(r"(?P<name>\S+?): flags=(0x)?[0-9a-f]+(<(?P<flags>[^>]*)>)?(.* mtu (?P<mtu>\d+))?")
ARROWS = ("-->", "->")
WHOLE = {4: 32, 6: 128}


@dataclass(frozen=True)
class Address:
    """An address of an interface, without zone. peer: the other end's, on a point-to-point interface."""

    address: str
    length: int
    peer: str | None = None


@dataclass
class Interface:
    """flags: of the first line. neighbours: what stands behind "nd6 options=". tunnel: outer addresses of a gif."""

    name: str
    flags: frozenset[str] = frozenset()
    mtu: int | None = None
    description: str = ""
    tunnel: tuple[str, str] | None = None
    neighbours: frozenset[str] = frozenset()
    addresses: list[Address] = field(default_factory=list)


@dataclass(frozen=True)
class Route:
    """destination: a network (a host is one of full length). gateway: as it stands there, without zone. interface: "" where none is
    named. priority: OpenBSD's."""

    destination: IPv4Network | IPv6Network
    gateway: str
    flags: str
    interface: str = ""
    priority: int | None = None

    @property
    def is_default(self) -> bool:
        """Whether it is a usable default route of its table: none that rejects, none for one interface alone (macOS: flag I)."""
        return self.destination.prefixlen == 0 and "U" in self.flags and not set(self.flags) & set("RBI")


def interfaces(text: str) -> dict[str, Interface]:
    """The interfaces of `ifconfig -a`, by name."""
    found: dict[str, Interface] = {}
    here: Interface | None = None
    for line in text.splitlines():
        if line[:1] not in ("\t", " ", ""):
            head = HEAD.match(line)
            here = None
            if head:
                mtu = head.group("mtu")
                here = Interface(head.group("name"), _set(head.group("flags")), int(mtu) if mtu else None)
                found[here.name] = here
        elif here is not None:
            _detail(here, line.split())
    return found


def _detail(here: Interface, words: list[str]) -> None:
    if not words:
        return
    first = words[0]
    if first in ("inet", "inet6") and len(words) > 1:
        address = _address(words)
        if address is not None:
            here.addresses.append(address)
    elif first in ("tunnel", "tunnel:") and len(words) >= 5 and words[3] in ARROWS:
        here.tunnel = (_plain(words[2]), _plain(words[4]))
    elif first == "description:":
        here.description = " ".join(words[1:])
    elif first == "nd6" and len(words) > 1:
        here.neighbours = _set(words[1].partition("<")[2].rstrip(">"))


def _address(words: list[str]) -> Address | None:
    text, _slash, length = words[1].partition("/")
    try:
        address = ip_address(_plain(text))
        peer = None
        if len(words) > 3 and words[2] in ARROWS:
            other = _plain(words[3].partition("/")[0])
            peer = str(ip_address(other)) if _is_address(other) else None
        named = dict(zip(words, words[1:]))
        if not length:
            length = named.get("prefixlen", "")
        if not length and "netmask" in named:
            mask = named["netmask"]
            value = int(mask, 16) if mask.startswith("0x") else int(ip_address(mask))
            length = str(bin(value).count("1"))
        return Address(str(address), int(length) if length else WHOLE[address.version], peer)
    except ValueError:
        return None


def routes(text: str) -> list[Route]:
    """The routes of `netstat -rn`, of one family or both. The columns are those that the heading names."""
    found: list[Route] = []
    columns: dict[str, int] = {}
    family = 4
    for line in text.splitlines():
        words = line.split()
        if words in (["Internet:"], ["Internet6:"]):
            family = 6 if words == ["Internet6:"] else 4
        if words[:2] == ["Destination", "Gateway"]:
            columns = {word.lower(): at for at, word in enumerate(words)}
            continue
        if len(words) < 3 or not columns:
            continue
        destination = _network(words[0], family)
        if destination is None:
            continue
        at = next((columns[name] for name in ("netif", "iface", "interface") if name in columns), -1)
        priority = words[columns["prio"]] if "prio" in columns and columns["prio"] < len(words) else ""
        found.append(Route(destination, _plain(words[1]), words[2], words[at] if 0 <= at < len(words) else "",
                           int(priority) if priority.isdigit() else None))
    return found


def _network(text: str, family: int) -> IPv4Network | IPv6Network | None:
    if text == "default":
        return ip_network("::/0" if family == 6 else "0.0.0.0/0")
    host, _slash, length = text.partition("/")
    host = _plain(host)
    try:
        if ":" not in host:
            parts = host.split(".")  # 10.0.2/24, 127, 169.254: zeros at the end are left out
            if not length:
                length = str(8 * len(parts))
            host = ".".join(parts + ["0"] * (4 - len(parts)))
        return ip_network(f"{host}/{length}" if length else host, strict=False)
    except ValueError:
        return None


def _plain(text: str) -> str:
    """Without the zone of a link-local address."""
    host, _percent, _zone = text.partition("%")
    return str(ip_address(host)) if _is_address(host) else host


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _set(text: str | None) -> frozenset[str]:
    return frozenset(word for word in (text or "").split(",") if word)
