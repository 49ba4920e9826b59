# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`ping`: echo requests one after the other, a mark for each, and what became of them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Callable

from . import routes
from .device import Device
from .grammar import Match
from .packets import Address

DEFAULT = {"repeat": 5, "timeout": 2, "size": 100}


async def ping(device: Device, found: Match, write: Callable[[str], None]) -> None:
    """Print what IOS prints; the marks and the times are those of packets really sent (`dataplane`)."""
    words = list(found.words)
    options = {name: int(words[words.index(name) + 1]) if name in words else default for name, default in DEFAULT.items()}
    target: Address = ip_address(next(word for word in words[1:] if word not in ("ip", "ipv6")))
    write("Type escape sequence to abort.\n")
    out = routes.egress(device.config, target)
    local = routes.own(device.config, target)
    chosen = _source(device, words, target, out)
    if isinstance(chosen, str):
        write(chosen)
        return
    write(f"Sending {options['repeat']}, {options['size']}-byte ICMP Echos to {str(target).upper()}, "
          f"timeout is {options['timeout']} seconds:\n")
    if "source" in words and chosen is not None:
        write(f"Packet sent with a source address of {str(chosen).upper()}\n")
    if target.version == 6 and not local and (out is None or chosen is None):
        write("\n% No valid route for destination\nSuccess rate is 0 percent (0/1)\n")
        return
    times = []
    for sequence in range(options["repeat"]):
        trip: float | None = 0.0 if local else None
        if not local and out is not None and out != "Null0" and chosen is not None:
            trip = await device.dataplane.ping(chosen, target, out, sequence, options["size"], options["timeout"])
        write("." if trip is None else "!")
        if trip is not None:
            times.append(max(1, round(trip * 1000)))
        if sequence % 70 == 69:
            write("\n")
    count, received = options["repeat"], len(times)
    line = f"\nSuccess rate is {received * 100 // count} percent ({received}/{count})"
    if times:
        line += f", round-trip min/avg/max = {min(times)}/{sum(times) // received}/{max(times)} ms"
    write(line + "\n")


def _source(device: Device, words: list[str], target: Address, out: str | None) -> Address | str | None:
    """The source address, None when there is none, or a complaint."""
    interfaces = device.config.interfaces
    if "source" in words:
        word = words[words.index("source") + 1]
        if word in interfaces:
            found = routes.addresses(interfaces[word], target.version)
            return found[0] if found else "% Invalid source interface - IP not enabled or interface is down\n"
        address: Address = ip_address(word)
        return address if address.version == target.version and routes.own(device.config, address) else "% Invalid source address\n"
    if out in interfaces:
        found = routes.addresses(interfaces[out], target.version)
        if found:
            return found[0]
    return next((address for section in interfaces.values() for address in routes.addresses(section, target.version)), None)
