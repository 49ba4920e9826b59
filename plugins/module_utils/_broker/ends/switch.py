# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The router between tunnels that are carried in this process: who may send, what we answer, where a packet goes.

    client --(UDP, protocol 41 or 4)--> from_client --> our own address: echo reply, or the uplink
                                                   --> another client: straight to its tunnel
                                                   --> elsewhere: the uplink (a TUN device; without one it is dropped)
    uplink --> from_uplink --> the client's tunnel, or "address unreachable" back
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Union

from .. import icmp
from ..ratelimit import TokenBucket
from .port import EndTable, TunnelEnd

Network = Union[IPv4Network, IPv6Network]
COUNTERS = ("from_clients", "to_clients", "echo_replies", "between_clients", "to_uplink", "dropped_unknown_peer", "dropped_malformed",
            "dropped_source", "dropped_link_local", "dropped_unreachable", "dropped_no_uplink", "dropped_send")
VERSION_OF_MODE = {"v6v4": 6, "v6udpv4": 6, "v4v6": 4}


class Switch:
    """send(end, packet) puts a packet into a tunnel; uplink(packet) gives it to the kernel, None = there is none.

    own: our addresses inside the tunnels. routed: the networks that lie behind tunnels.
    """

    def __init__(self, table: EndTable, own: Iterable[IPv4Address | IPv6Address], routed: Iterable[Network],
                 send: Callable[[TunnelEnd, bytes], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self.table = table
        self.send = send
        self.uplink: Callable[[bytes], bool] | None = None
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._clock = clock
        self._own = frozenset(address.packed for address in own)
        self._own6 = next((a for a in own if a.version == 6), None)
        self._routed = [(n.max_prefixlen // 8, n.max_prefixlen - n.prefixlen, int(n.network_address) >> (n.max_prefixlen - n.prefixlen))
                        for n in routed]
        self._errors = TokenBucket(100, 20)

    def from_client(self, end: TunnelEnd, packet: bytes) -> None:
        """A packet that came out of a tunnel, from the outer end that this tunnel has."""
        counters = self.counters
        if not icmp.whole(packet) or packet[0] >> 4 != VERSION_OF_MODE[end.mode]:
            counters["dropped_malformed"] += 1
            return
        end.last_seen = self._clock()
        end.received += 1
        counters["from_clients"] += 1
        source, destination = (packet[8:24], packet[24:40]) if packet[0] >> 4 == 6 else (packet[12:16], packet[16:20])
        if not end.owns(source):
            # The client's kernel asks for routers and reports its groups through the tunnel: expected, and of no use here.
            link_local = len(source) == 16 and (source[0] == 0xFE and source[1] & 0xC0 == 0x80 or not any(source))
            counters["dropped_link_local" if link_local else "dropped_source"] += 1
            return
        if destination in self._own:
            reply = icmp.echo_reply(packet)
            if reply is not None:
                counters["echo_replies"] += 1
                self._to_client(end, reply)
            else:
                self._to_uplink(packet)
            return
        other = self.table.towards(destination)
        if other is end:
            # Its prefix has no such host, and its router sends that back to us: it would come again until its hop limit ends.
            self._unreachable(packet, end)
        elif other is not None:
            # Where the hop limit ends here, the kernel behind the uplink knows how to say so.
            onward = icmp.one_hop_less(packet)
            if onward is None:
                self._to_uplink(packet)
            else:
                counters["between_clients"] += 1
                self._to_client(other, onward)
        elif self._is_routed(destination):
            self._unreachable(packet, end)
        elif destination[0] in (0xFF, 0xFE) and len(destination) == 16:
            counters["dropped_link_local"] += 1
        else:
            self._to_uplink(packet)

    def from_uplink(self, packet: bytes) -> None:
        """A packet that the kernel routed to us."""
        if not icmp.whole(packet):
            self.counters["dropped_malformed"] += 1
            return
        destination = packet[24:40] if packet[0] >> 4 == 6 else packet[16:20]
        end = self.table.towards(destination)
        if end is not None:
            self._to_client(end, packet)
        elif self._is_routed(destination):
            self._unreachable(packet, None)
        else:
            self.counters["dropped_link_local"] += 1  # the kernel's own multicasts on the device

    def _is_routed(self, destination: bytes) -> bool:
        number, size = int.from_bytes(destination, "big"), len(destination)
        return any(length == size and number >> shift == value for length, shift, value in self._routed)

    def _to_client(self, end: TunnelEnd, packet: bytes) -> None:
        if self.send(end, packet):
            end.sent += 1
            self.counters["to_clients"] += 1
        else:
            self.counters["dropped_send"] += 1

    def _to_uplink(self, packet: bytes) -> None:
        if self.uplink is None:
            self.counters["dropped_no_uplink"] += 1
        elif self.uplink(packet):
            self.counters["to_uplink"] += 1
        else:
            self.counters["dropped_send"] += 1

    def _unreachable(self, packet: bytes, asker: TunnelEnd | None) -> None:
        """Nobody is there: say so, to a client through its tunnel, else through the uplink; not too often."""
        self.counters["dropped_unreachable"] += 1
        if not isinstance(self._own6, IPv6Address) or not self._errors.take(self._clock()):
            return
        error = icmp.unreachable(packet, self._own6)
        if error is None:
            return
        if asker is not None:
            self._to_client(asker, error)
        elif self.uplink is not None:
            self.uplink(error)
