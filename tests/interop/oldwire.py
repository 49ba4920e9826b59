# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the old clients put their messages on sockets: reliable UDP with its measured timers, and TCP as one recv() sees it.

Everything here is from tsp-protocol.md sections 1.2 to 1.5; nothing is shared with the code under test.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Callable, Protocol

BUFFER = 4096
"""The clients' receive buffer."""
FIRST_SEQUENCE = 0xF00000F0
WAITS_UNSEEN = (2.0, 2.0, 2.0)
"""Seconds between the sends of a message while the peer has never answered; then it is given up."""
WAITS_SEEN = (2.0, 2.0, 2.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""The same once it has answered something: sends at 0, 2, 4, 6, 8, 12, 20, 36 s, the end at 66 s."""
TCP_PATIENCE = 8.0
"""The clients wait for ever on TCP. The model calls it hung after this."""


class WireError(Exception):
    """The client cannot go on with this connection."""


class CannotConnect(WireError):
    """Refused, or nobody ever answered."""


class Lost(WireError):
    """The peer had answered, and then fell silent, closed, or refused."""


class Wire(Protocol):
    """One connection. write() sends a message; read() is one recv() of the client."""

    kind: str
    local: str

    def write(self, data: bytes) -> None:
        """Send it all."""

    def read(self) -> bytes:
        """What came."""

    def close(self) -> None:
        """The end."""


class UdpWire:
    """Strict request and reply. `speed` divides the timers; `doubled` makes the network deliver every datagram twice, the second copy
    after the next message. strays: datagrams that were not the awaited reply."""

    kind = "udp"

    def __init__(self, sock: socket.socket, *, speed: float = 1.0, doubled: bool = False) -> None:
        self.sock = sock
        self.local = sock.getsockname()[0]
        self.strays: list[bytes] = []
        self.resent = 0
        self._speed = speed
        self._doubled = doubled
        self._late: bytes | None = None
        self._start = int(time.time())  # the clients' clock starts at the full second
        self._sequence = FIRST_SEQUENCE
        self._seen = False
        self._pending = b""

    def exchange(self, payload: bytes) -> bytes:
        """Send one message, again where need be; the text of the reply to it."""
        sequence, self._sequence = self._sequence, self._sequence + 1
        waits = WAITS_SEEN if self._seen else WAITS_UNSEEN
        number = 0
        while number < len(waits):
            stamp = int((time.time() - self._start) * 1000) & 0xFFFFFFFF
            datagram = struct.pack("!II", sequence, stamp) + payload
            self._send(datagram)
            if number:
                self.resent += 1
            until = time.monotonic() + waits[number] / self._speed
            number += 1
            # What is known once a reply came: the longer list counts from the next message on.
            while (left := until - time.monotonic()) > 0:
                self.sock.settimeout(left)
                try:
                    reply = self.sock.recv(BUFFER)
                except TimeoutError:
                    break
                except OSError as exc:
                    raise (Lost if self._seen else CannotConnect)(str(exc)) from None
                if len(reply) >= 8 and reply[:4] == datagram[:4]:
                    self._seen = True
                    return reply[8:]
                self.strays.append(reply)
        raise (Lost if self._seen else CannotConnect)(f"no reply after {number} sends")

    def _send(self, datagram: bytes) -> None:
        try:
            self.sock.send(datagram)
            if self._doubled:
                self.sock.send(datagram)
                if self._late is not None:
                    self.sock.send(self._late)
                self._late = datagram
        except OSError as exc:
            raise (Lost if self._seen else CannotConnect)(str(exc)) from None

    def write(self, data: bytes) -> None:
        if self._pending:
            raise AssertionError(f"the broker said {self._pending!r} where the client does not read")
        self._pending = self.exchange(data)

    def read(self) -> bytes:
        if not self._pending:
            self._pending = self.exchange(b"")  # an empty datagram fetches what the broker has to say
        text, self._pending = self._pending, b""
        return text

    def close(self) -> None:
        self.sock.close()


class TcpWire:
    """A stream with Nagle's algorithm on, as the clients leave it."""

    kind = "tcp"

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.local = sock.getsockname()[0]
        sock.settimeout(TCP_PATIENCE)

    def write(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as exc:
            raise Lost(str(exc)) from None

    def read(self) -> bytes:
        try:
            data = self.sock.recv(BUFFER)
        except TimeoutError:
            raise Lost("hung: waits for ever for what the broker does not say") from None
        except OSError as exc:
            raise Lost(str(exc)) from None
        if not data:
            raise Lost("the broker closed the connection")
        return data

    def close(self) -> None:
        self.sock.close()


class Sockets:
    """Opens wires. inside: a context in which sockets are made, a namespace's `network`."""

    def __init__(self, inside: Callable[[], AbstractContextManager[None]] = nullcontext, *, speed: float = 1.0,
                 doubled: bool = False) -> None:
        self.inside = inside
        self.speed = speed
        self.doubled = doubled

    def open(self, kind: str, host: str, port: int) -> Wire:
        """kind: udp | tcp. Raises CannotConnect."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.inside():
            sock = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        sock.settimeout(5)
        try:
            sock.connect((host, port))
        except OSError as exc:
            sock.close()
            raise CannotConnect(str(exc)) from None
        return UdpWire(sock, speed=self.speed, doubled=self.doubled) if kind == "udp" else TcpWire(sock)

    def raw(self, family: socket.AddressFamily, protocol: int) -> socket.socket:
        """For the data plane of v6v4 and v4v6."""
        with self.inside():
            return socket.socket(family, socket.SOCK_RAW, protocol)
