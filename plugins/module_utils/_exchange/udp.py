# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A connected UDP socket under a session: datagrams in, datagrams out, ICMP errors at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from .link import Receiver, local_end, network_error
from .options import Address
from .source import Source, open_socket, sockaddr

LARGEST = 65535


class UdpLink:
    """One attempt's socket (tsp-protocol.md section 1.1: a new one for every attempt, connected)."""

    def __init__(self, sock: socket.socket, receiver: Receiver) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = sock
        self._receiver = receiver
        self._reading = False
        self.local_address, self.local_port = local_end(sock)

    @classmethod
    def open(cls, peer: Address, port: int, source: Source, receiver: Receiver) -> UdpLink:
        """Raises LocalError (see source.py) and NetworkError `unreachable` when there is no route."""
        sock = open_socket(socket.SOCK_DGRAM, peer, source)
        try:
            sock.connect(sockaddr(peer, port))
            link = cls(sock, receiver)
        except OSError as exc:
            sock.close()
            raise network_error(exc) from None
        link._loop.add_reader(sock.fileno(), link._readable)
        link._reading = True
        return link

    def send(self, data: bytes) -> None:
        """Raises NetworkError. A full buffer counts as loss: the reliable layer sends again."""
        if self._socket is None:
            return
        try:
            self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            raise network_error(exc) from None

    def _readable(self) -> None:
        """One datagram a turn: the loop comes back while more are there, and timers keep their turn in a flood."""
        if self._socket is None:
            return
        try:
            data = self._socket.recv(LARGEST)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._receiver.link_lost(network_error(exc))
            return
        self._receiver.data_received(data)

    def pause(self) -> None:
        """Read nothing more; what arrives stays in the socket for its next owner."""
        if self._reading and self._socket is not None:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    def detach(self) -> socket.socket | None:
        """The socket, connected and non-blocking, now the caller's."""
        self.pause()
        sock, self._socket = self._socket, None
        return sock

    async def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        sock = self.detach()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
