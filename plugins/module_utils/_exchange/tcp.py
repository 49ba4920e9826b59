# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A TCP connection under a session: no delay, every message one write."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from .._tsp.errors import NetworkError
from .link import Receiver, local_end, network_error
from .options import Address
from .source import Source, open_socket, sockaddr

CLOSE_GRACE = 0.5
"""Seconds that the last write (accept) has to leave before the connection is cut."""


class TcpLink(asyncio.Protocol):
    """One attempt's connection."""

    def __init__(self, sock: socket.socket, receiver: Receiver) -> None:
        self._receiver: Receiver | None = receiver
        self._transport: asyncio.Transport | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.local_address, self.local_port = local_end(sock)

    @classmethod
    async def open(cls, peer: Address, port: int, source: Source, receiver: Receiver, timeout: float) -> TcpLink:
        """Connect within `timeout` seconds. Raises LocalError (see source.py), NetworkError `refused`, `unreachable`, `no_answer`."""
        loop = asyncio.get_running_loop()
        sock = open_socket(socket.SOCK_STREAM, peer, source)
        try:
            await asyncio.wait_for(loop.sock_connect(sock, sockaddr(peer, port)), timeout)
            _transport, link = await loop.create_connection(lambda: cls(sock, receiver), sock=sock)
        except asyncio.TimeoutError:
            sock.close()
            raise NetworkError("no_answer", f"No answer to the connection within {timeout:.0f} s.",
                               "A packet filter on the way may drop the packets; check the address, too.") from None
        except OSError as exc:
            sock.close()
            raise network_error(exc) from None
        except BaseException:
            sock.close()
            raise
        return link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise AssertionError
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.data_received(data)

    def eof_received(self) -> bool:
        if self._receiver is not None:
            self._receiver.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        if self._receiver is not None and isinstance(exc, OSError):
            self._receiver.link_lost(network_error(exc))

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        self._receiver = None

    def detach(self) -> socket.socket | None:
        return None

    async def close(self) -> None:
        self.pause()
        if self._transport is None:
            return
        self._transport.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._closed), CLOSE_GRACE)
        if not self._closed.done():
            self._transport.abort()
            await self._closed

    def abort(self) -> None:
        self.pause()
        if self._transport is not None:
            self._transport.abort()
