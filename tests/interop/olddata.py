# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data plane of the old clients after the handshake, and the host behind their TUN device (tsp-protocol.md section 7).

A `Tunnel` takes what comes for a packet, as the clients do: everything on the socket goes to the TUN device unchecked, so a signalling
datagram that comes now is kept in `errors`. The host answers pings to the tunnel's address and to every address of its prefix.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import struct
import threading
import time
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from .oldclient import OldClient, Outcome

ROUTER_SOLICITATION = bytes.fromhex("6000000000083afffe80000000000000f97f47d9f0308d90ff0200000000000000000000000000028500be1c00000000")
"""What the kernel sends out of a new TUN device by itself."""
Address = Any


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def icmp(source: Address, destination: Address, kind: int, identifier: bytes, data: bytes, *, flow_label: int = 0, hops: int = 64) -> bytes:
    """An echo request or reply of either family, with its IP header. identifier: identifier and sequence, as on the wire."""
    body = bytes([kind, 0, 0, 0]) + identifier + data
    if source.version == 4:
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, hops, 1, 0, source.packed, destination.packed)
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body
    pseudo = source.packed + destination.packed + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return struct.pack("!IHBB", 6 << 28 | flow_label, len(body), 58, hops) + source.packed + destination.packed + body


class Echo:
    """An echo request or reply that was received."""

    def __init__(self, packet: bytes) -> None:
        """Raises ValueError for anything else, and for wrong checksums."""
        if packet[0] >> 4 == 4:
            self.source: Address = IPv4Address(packet[12:16])
            self.destination: Address = IPv4Address(packet[16:20])
            body, protocol = packet[(packet[0] & 15) * 4:], packet[9]
            good = protocol == 1 and checksum(body) == 0
            kinds = (8, 0)
        else:
            self.source, self.destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
            body, protocol = packet[40:], packet[6]
            good = protocol == 58 and checksum(packet[8:40] + struct.pack("!II", len(body), 58) + body) == 0
            kinds = (128, 129)
        if not good or len(body) < 8 or body[0] not in kinds:
            raise ValueError("no echo")
        self.request = body[0] == kinds[0]
        self.identifier, self.data = body[4:8], body[8:]

    def reply(self) -> bytes:
        return icmp(self.destination, self.source, 0 if self.source.version == 4 else 129, self.identifier, self.data)


class Tunnel:
    """A context manager around an outcome with a tunnel. sockets: as the client had them.

    errors: what an old client would have choked on. answered: pings from outside that were answered. broken: the socket failed (the
    broker is gone): the client would tear down and begin again. lost: the keepalive says so.
    """

    def __init__(self, client: OldClient, outcome: Outcome) -> None:
        assert outcome.env is not None and outcome.info is not None, outcome
        self.version, self.info = client.version, outcome.info
        self.mode = outcome.info.mode
        addresses = outcome.info.addresses
        family = "ipv4" if self.mode == "v4v6" else "ipv6"
        self.address = ip_address(addresses[f"client_{family}"])
        self.server = ip_address(addresses[f"server_{family}"])
        self.prefix = None
        if outcome.info.prefix is not None:
            self.prefix = ip_network(f"{outcome.info.prefix}/{outcome.info.prefix_length}")
        self.errors: list[str] = []
        self.answered = 0
        self.kept_alive = 0
        self.broken = threading.Event()
        self.lost = threading.Event()
        self._replies: queue.Queue[Echo] = queue.Queue()
        self._number = 0
        self._ending = threading.Event()
        if self.mode == "v6udpv4":
            self._socket = outcome.wire.sock
            self.strays: list[bytes] = outcome.wire.strays
        elif self.mode == "v6v4":
            self._socket = client.sockets.raw(socket.AF_INET, 41)
            self._socket.connect((addresses["server_ipv4"], 0))
        else:
            self._socket = client.sockets.raw(socket.AF_INET6, 4)
            self._socket.connect((addresses["server_ipv6"], 0))
        self._socket.setblocking(False)
        self._wake, self._waker = socket.socketpair()
        self._threads = [threading.Thread(target=self._receive)]
        self._threads[0].start()

    # The device -------------------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        while True:
            ready = select.select([self._socket, self._wake], [], [])[0]
            if self._wake in ready:
                return
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                continue
            except OSError as exc:
                self.broken.set()
                self.errors.append(f"receive error: {exc}")
                return
            if self.mode == "v6v4":
                data = data[(data[0] & 15) * 4:]
            self._packet(data)

    def _packet(self, data: bytes) -> None:
        wanted = 4 if self.mode == "v4v6" else 6
        if not data or data[0] >> 4 != wanted:
            self.errors.append(f"not an IPv{wanted} packet: {data[:40]!r}")
            return
        length = int.from_bytes(data[2:4], "big") if wanted == 4 else 40 + int.from_bytes(data[4:6], "big")
        if len(data) != length:
            self.errors.append(f"{len(data)} bytes for a packet of {length}")
            return
        try:
            echo = Echo(data)
        except ValueError:
            return
        mine = echo.destination == self.address or self.prefix is not None and echo.destination in self.prefix
        if not mine:
            self.errors.append(f"a packet for {echo.destination}")
        elif echo.request:
            self.send(echo.reply())
            self.answered += 1
        else:
            self._replies.put(echo)

    def send(self, packet: bytes) -> None:
        try:
            self._socket.send(packet)
        except OSError as exc:
            self.broken.set()
            self.errors.append(f"send error: {exc}")

    # The host ---------------------------------------------------------------------------------------------------------------------

    def ping(self, target: Any, *, size: int = 56, flow_label: int = 0, source: Any = None, patience: float = 5.0) -> bool:
        """One echo request from the tunnel's address (or one of the prefix); whether the very same came back."""
        self._number += 1
        identifier = struct.pack("!HH", os.getpid() & 0xFFFF, 0x8000 | self._number & 0x7FFF)
        data = os.urandom(size)
        source, target = ip_address(source or self.address), ip_address(str(target))
        return self._asked(source, target, identifier, data, flow_label, patience)

    def _asked(self, source: Any, target: Any, identifier: bytes, data: bytes, flow_label: int, patience: float) -> bool:
        self.send(icmp(source, target, 8 if target.version == 4 else 128, identifier, data, flow_label=flow_label))
        until = time.monotonic() + patience
        while (left := until - time.monotonic()) > 0:
            try:
                echo = self._replies.get(timeout=left)
            except queue.Empty:
                break
            if (echo.identifier, echo.data, echo.source, echo.destination) == (identifier, data, target, source):
                return True
        return False

    def keepalive(self, number: int = 0, patience: float = 5.0) -> bool:
        """The ping that this version of the client sends to the address that the broker named."""
        version = self.version
        sequence = struct.pack("<H" if version.keepalive_host_order else "!H", number)
        data = struct.pack("<qq", int(time.time()), time.time_ns() // 1000 % 1000000).ljust(version.keepalive_data, b"\0")
        assert self.info.keepalive_address is not None, "no keepalive was granted"
        target = ip_address(self.info.keepalive_address)
        answered = self._asked(self.address, target, struct.pack("!H", os.getpid() & 0xFFFF) + sequence, data, 0, patience)
        self.kept_alive += answered
        return answered

    def start_keepalive(self, patience: float = 1.0) -> None:
        """At the interval that the broker gave: 6.0 and 1.2 at a fixed one, 5.1 grows towards it."""
        interval = float(self.info.keepalive_interval)
        assert interval > 0

        def work() -> None:
            wait = min(5.0, interval) if self.version.name == "5.1" else interval
            number = missed = 0
            while not self._ending.wait(wait):
                missed = 0 if self.keepalive(number, patience) else missed + 1
                number += 1
                if missed >= self.version.lost_after:
                    self.lost.set()
                    return
                if self.version.name == "5.1" and missed < 2:
                    wait = min(wait * 1.6, 0.9 * interval)

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def close(self) -> None:
        self._ending.set()
        self._waker.send(b"x")
        for thread in self._threads:
            thread.join()
        for one in (self._socket, self._wake, self._waker):
            one.close()

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def inside(self) -> str | None:
        """An address of the delegated prefix."""
        if self.prefix is None:
            return None
        return str(self.prefix.network_address + (1 if isinstance(self.prefix, IPv6Network) else 2))
