# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The addresses of real interfaces as the configuration of emulated ones (Linux)."""

from __future__ import annotations

import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from .config import Config
from .grammar import Match

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_GLOBAL_SCOPE = "00"


def seed(config: Config, mapped: dict[str, str]) -> None:
    """Give each interface named in `mapped` the addresses of its real one, and enable it. Raises ValueError, OSError."""
    for name, real in mapped.items():
        section = config.interfaces.get(name)
        if section is None:
            raise ValueError(f"{name} is not a physical interface of this device")
        lines = ["ip address {} {}".format(*pair) for pair in _ipv4(real)] + [f"ipv6 address {address}" for address in _ipv6(real)]
        for line in lines:
            found = config.match(line.split(), section)
            said = config.put(found, section) if isinstance(found, Match) else found.kind
            if said:
                raise ValueError(f"{real}: {line}: {said.strip()}")
        section.lines.pop(("shutdown",), None)


def _ipv4(real: str) -> list[tuple[str, str]]:
    """(address, mask) of the interface's first address."""
    request = struct.pack("256s", real.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answers = [fcntl.ioctl(probe.fileno(), code, request)[20:24] for code in (_SIOCGIFADDR, _SIOCGIFNETMASK)]
        except OSError as exc:
            if exc.errno == 99:  # EADDRNOTAVAIL: it has none
                return []
            raise OSError(f"{real}: {exc.strerror}") from None
    return [(str(IPv4Address(answers[0])), str(IPv4Address(answers[1])))]


def _ipv6(real: str) -> list[str]:
    """Global addresses with their lengths, from the kernel's table."""
    found = []
    table = Path("/proc/net/if_inet6")
    for line in table.read_text(encoding="ascii").splitlines() if table.exists() else ():
        address, _index, length, scope, _flags, name = line.split()
        if name == real and scope == _GLOBAL_SCOPE:
            found.append(f"{IPv6Address(bytes.fromhex(address))}/{int(length, 16)}")
    return found
