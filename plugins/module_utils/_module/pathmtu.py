# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""How large a packet the path to the broker carries whole, so that the tunnel's MTU is right from its first packet on.

A small and a full echo request are sent together, neither to be fragmented. Both answered: the path is as wide as the interface, after
one round trip. Only the small one: a ladder of sizes that links really have tells the widest that passes. None: the broker's end does
not answer pings, and the interface's own MTU has to do, as the kernel knows it (with what it learned of the path).
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from dataclasses import replace
from typing import Callable, Optional

from .._apply.plan import Probe
from .._apply.probe import echo_request, open_socket, reply_sequence
from .._exchange.options import Address
from .._exchange.source import Source, sockaddr
from .._tsp.lease import Lease

Measure = Callable[[Address, Source], Optional[int]]
ETHERNET = 1500
"""What is never exceeded: the networks behind a tunnel are Ethernet, and a jumbo path to the broker helps none of them."""
LEAST = {4: 576, 6: 1280}
LADDER = (1500, 1492, 1488, 1480, 1472, 1464, 1460, 1454, 1452, 1450, 1440, 1432, 1430, 1420, 1412, 1400, 1390, 1380, 1372, 1360, 1340,
          1320, 1308, 1300, 1280, 1260, 1200, 1100, 1024, 900, 800, 700, 576)
"""PPPoE 1492, tunnels and VPNs of all kinds, mobile networks: where links really end."""
HEADERS = {4: 28, 6: 48}
"""Bytes of IP and ICMP echo headers."""
PATIENCE = 1.0
"""Seconds for the first answer."""
SOONEST = 0.1
"""Seconds that the full one gets at least, once the small one was answered."""
TRIES = 3
ANY_PORT = 9
IP_MTU, IP_MTU_DISCOVER = 14, 10
IPV6_MTU, IPV6_MTU_DISCOVER, IPV6_DONTFRAG = 24, 23, 62
PMTUDISC_PROBE = 3


def path_mtu(peer: Address, source: Source, open_echo: Callable[[Probe], socket.socket] = open_socket) -> int | None:
    """Bytes, at most 1500. None where not even the interface can be told (no route). Takes a round trip or two, at most some 3 s.

    open_echo: makes the socket for echo requests, or raises OSError.
    """
    widest = _known(peer, source)
    if widest is None:
        return None
    widest = min(widest, ETHERNET)
    smallest = LEAST[peer.version]
    if widest <= smallest:
        return widest
    try:
        handle = open_echo(Probe(str(peer), source=source.address, interface=source.interface))
    except OSError:
        return widest
    with handle:
        return _measure(handle, peer.version, smallest, widest)


def measured(lease: Lease, source: Source, measure: Measure | None) -> Lease:
    """The lease with what the path to the broker's end carries; as it was where the tunnel ends at another machine than this one, or
    with no `measure`."""
    peer = lease.grant.outer_address(lease.grant.server)
    if measure is None or peer is None or lease.request.proxy:
        return lease
    return replace(lease, path_mtu=measure(peer, source))


def _known(peer: Address, source: Source) -> int | None:
    """What the kernel knows of the path: the interface's MTU, or what it was told since. Only Linux tells: elsewhere the same numbers
    are other options, and answer with other numbers."""
    if not sys.platform.startswith("linux"):
        return None
    family = socket.AF_INET if peer.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            if source.interface is not None:
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_BINDTODEVICE", 25), source.interface.encode() + b"\0")
            if source.address is not None:
                sock.bind((source.address, 0))
            sock.connect(sockaddr(peer, ANY_PORT))
            if peer.version == 4:
                return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)
            return sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)
    except OSError:  # no route
        return None


def _measure(handle: socket.socket, version: int, smallest: int, widest: int) -> int:
    try:
        if version == 4:
            handle.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        else:
            handle.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
            handle.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
    except OSError:
        return widest
    token = os.urandom(16)
    answered: set[int] = set()
    wait = PATIENCE
    for _turn in range(TRIES):
        begin = time.monotonic()
        _ask(handle, version, token, (smallest, widest))
        _listen(handle, token, answered, {smallest}, PATIENCE)
        if smallest in answered:
            wait = min(wait, max(SOONEST, 2 * (time.monotonic() - begin)))
            _listen(handle, token, answered, {widest}, wait)
        if widest in answered or smallest not in answered:
            return widest
    ladder = [size for size in LADDER if smallest < size < widest]
    for _turn in range(TRIES):
        _ask(handle, version, token, ladder)
        _listen(handle, token, answered, set(ladder), wait)
    return max(answered)


def _ask(handle: socket.socket, version: int, token: bytes, sizes: tuple[int, ...] | list[int]) -> None:
    """One echo request of each size; the size is its sequence number."""
    for size in sizes:
        try:
            handle.send(echo_request(handle, size, token + bytes(size - HEADERS[version] - len(token))))
        except OSError:  # EMSGSIZE: the interface, or what a router told meanwhile; a full queue: the next turn
            continue


def _listen(handle: socket.socket, token: bytes, answered: set[int], wanted: set[int], seconds: float) -> None:
    """Take answers until all that is wanted is there, or the time is up."""
    until = time.monotonic() + seconds
    while not wanted <= answered:
        left = until - time.monotonic()
        if left <= 0 or not select.select([handle], [], [], left)[0]:
            return
        try:
            sequence = reply_sequence(handle, handle.recv(4096), token)
        except OSError:
            continue
        if sequence is not None:
            answered.add(sequence)
