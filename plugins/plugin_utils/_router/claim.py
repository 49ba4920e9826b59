# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What on a router is this task's, told by the device itself: a tunnel of ours carries our mark as the beginning of its description.

Behind the mark the description names the delegated network. So no run needs to know what an earlier one did: a tunnel of somebody
else's is never taken over, and what was configured for a network that has been replaced since, or whose lease is gone, is found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Union

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.blocks import Block
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.canon import is_virtual, leaves_by

Network = Union[IPv4Network, IPv6Network]
_SAYS_NOTHING = frozenset(("no ip address", "shutdown"))
"""Lines of an interface that was just made."""


@dataclass(frozen=True)
class Claim:
    """wanted: the blocks of the text that concern us; leftovers: lines of earlier runs that no longer hold and go; ours: names of the
    interfaces that go as a whole where the text is taken away, None: every one made of software; foreign: tunnels left alone."""

    wanted: tuple[Block, ...]
    leftovers: tuple[Block, ...] = ()
    ours: frozenset[str] | None = None
    foreign: tuple[str, ...] = ()


def make(running: Iterable[Block], wanted: Iterable[Block], mark: str | None, delete: bool) -> Claim:
    """Raises LocalError `interface_taken` when the text would configure a tunnel that is somebody else's."""
    wanted = tuple(wanted)
    if not mark:
        return Claim(wanted)
    running = list(running)
    shown = {block.header: block for block in running}
    ours, foreign, leftovers = set(), [], []
    for block in wanted:
        held = shown.get(block.header)
        if held is None or not is_virtual(block.header):
            continue
        name = block.header.split()[1]
        if not (_has(block, "tunnel ") or delete and name.startswith("Tunnel")):
            continue
        if _is_ours(held, block, mark):
            ours.add(name)
            leftovers += _left(running, held, block, mark, delete)
        else:
            foreign.append(name)
    if foreign and not delete:
        raise LocalError("interface_taken", f"{foreign[0]} is in use, and not by this task: its description does not begin with "
                         f"{mark!r}.", "Name another interface. If this one is to be taken over, give it that description, or remove it.")
    kept = tuple(block for block in wanted if block.header.partition(" ")[2] not in foreign
                 and not any(leaves_by(block.header, name) for name in foreign))
    return Claim(kept, tuple(leftovers), frozenset(ours), tuple(foreign))


def _is_ours(held: Block, block: Block, mark: str) -> bool:
    """Marked, or with the very ends that we want, or without anything in it."""
    if _description(held).startswith(mark) or not set(_lines(held)) - _SAYS_NOTHING:
        return True
    ends = {line for line in _lines(block) if line.startswith("tunnel destination ")}
    return bool(ends & set(_lines(held)))


def _left(running: list[Block], held: Block, block: Block, mark: str, delete: bool) -> list[Block]:
    """What an earlier run put there and this one does not: for another network, another address, another broker."""
    name = block.header.split()[1]
    networks = _networks(held, mark) - (set() if delete else _networks(block, mark))
    found = [_of_networks(other, networks) for other in running if other.header != held.header]
    if not delete:
        stay = set(_lines(block))
        old = [line for line in _lines(held) if line.startswith("ipv6 address ") and line.endswith("/128") and line not in stay]
        found.append(Block(held.header, tuple(f" {line}" for line in old)) if old else None)
        if not {line for line in _lines(held) if line.startswith("tunnel destination ")} <= stay:
            found += [Block(other.header) for other in running
                      if leaves_by(other.header, name) and ("/128 " in other.header or " 255.255.255.255 " in other.header)]
    return [left for left in found if left is not None]


def _of_networks(block: Block, networks: set[Network]) -> Block | None:
    """The lines of an interface, or the route to nowhere, that were made for one of these networks. Of addresses only those that come
    with an advertised prefix (IPv6), or are a LAN's only one (IPv4)."""
    words = block.header.split()
    if words[1:2] == ["route"] and words[-1].startswith("Null"):
        return block if _network("/".join(words[2:-1])) in networks else None
    if words[0] != "interface":
        return None
    advertised = {_network(line.split()[3]) for line in _lines(block) if line.startswith("ipv6 nd prefix ")}
    advertised = {network for network in advertised if _inside(network, networks)}
    lines = []
    for line in _lines(block):
        parts = line.split()
        if line.startswith("ipv6 nd prefix "):
            gone = _network(parts[3]) in advertised
        elif line.startswith("ipv6 address "):
            gone = _network(parts[2]) in advertised
        else:
            gone = parts[:2] == ["ip", "address"] and len(parts) == 4 and _inside(_network("/".join(parts[2:])), networks)
        if gone:
            lines.append(f" {line}")
    return Block(block.header, tuple(lines)) if lines else None


def _inside(network: Network | None, networks: set[Network]) -> bool:
    return network is not None and any(
        network.version == other.version and network.prefixlen >= other.prefixlen and network.network_address in other
        for other in networks)


def _networks(block: Block, mark: str) -> set[Network]:
    description = _description(block)
    words = description[len(mark):].split() if description.startswith(mark) else []
    return {network for network in (_network(word) for word in words if "/" in word) if network is not None}


def _network(text: str) -> Network | None:
    """The network of `address/length` or `address/netmask`, None for anything else."""
    try:
        return ip_network(ip_interface(text).network)
    except ValueError:
        return None


def _description(block: Block) -> str:
    return next((line[len("description "):] for line in _lines(block) if line.startswith("description ")), "")


def _lines(block: Block) -> list[str]:
    return [line.strip() for line in block.body]


def _has(block: Block, start: str) -> bool:
    return any(line.startswith(start) for line in _lines(block))
