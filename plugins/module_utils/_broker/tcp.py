# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The TCP side of the broker: one connection, one session.

- Answers leave at once (TCP_NODELAY, each in one write); rspauth and 200, which old clients must read apart, are kept apart in time by
  the core (tsp-protocol.md section 1.5). With Nagle's algorithm the second would wait for the client's delayed acknowledgement instead.
- Acknowledgements leave at once too (TCP_QUICKACK): old clients write AUTHENTICATE and their credentials in two pieces with Nagle's
  algorithm on, and would wait 40 ms for ours (section 13).
- Who connects and then drips, or says nothing, holds one of a limited number of connections for a limited time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import traceback
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Optional

from .._tsp import status
from .._tsp.xml_write import status_line
from .pools import Address
from .session import Session
from .udp import MakeSession, cannot_listen

TCP_QUICKACK: Optional[int] = getattr(socket, "TCP_QUICKACK", None)


class TcpAdapter:
    """All connections. limit: at once; per_address: from one client; seconds: how long a negotiation may last in all."""

    def __init__(self, make_session: MakeSession, limit: int, per_address: int, seconds: float, log_defect: Callable[[str], None]) -> None:
        self.make_session = make_session
        self.limit = limit
        self.per_address = per_address
        self.seconds = seconds
        self.log_defect = log_defect
        self.connections: set[Connection] = set()
        self.addresses: Counter[str] = Counter()
        self.counters = {"tcp_connections": 0, "tcp_refused_busy": 0}
        self._servers: list[asyncio.AbstractServer] = []

    async def start(self, sockets: list[socket.socket]) -> None:
        """Accept from now on."""
        loop = asyncio.get_running_loop()
        for one in sockets:
            self._servers.append(await loop.create_server(lambda: Connection(self), sock=one, backlog=1024))

    async def stop(self) -> None:
        """Close everything."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.drop()
        self._servers = []


def bind(address: Address, port: int) -> socket.socket:
    """A socket to listen on. Raises LocalError `cannot_listen`."""
    one = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.version == 6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((str(address), port))
    except OSError as exc:
        one.close()
        raise cannot_listen("TCP", address, port, exc) from None
    return one


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, adapter: TcpAdapter) -> None:
        self._adapter = adapter
        self._transport: Any = None
        self._socket: Any = None
        self._session: Session | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        adapter, self._transport = self._adapter, transport
        self._socket = transport.get_extra_info("socket")
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if peer is None or local is None:  # gone before it was looked at
            transport.close()
            return
        self._peer = peer[0]
        adapter.counters["tcp_connections"] += 1
        if len(adapter.connections) >= adapter.limit or adapter.addresses[self._peer] >= adapter.per_address:
            adapter.counters["tcp_refused_busy"] += 1
            self._peer = ""
            self._transport.write(status_line(status.SERVER_TOO_BUSY))
            transport.close()
            return
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        adapter.connections.add(self)
        adapter.addresses[self._peer] += 1
        self._session = adapter.make_session("tcp", peer[:2], ip_address(local[0].partition("%")[0]))
        self._session.server.connect(self._loop.time())
        self._end = self._loop.call_later(adapter.seconds, self._too_long)
        self._quickack()
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._quickack()
        if self._session is not None:
            session = self._session
            self._guarded(lambda: session.receive(data, data, self._loop.time()))

    def eof_received(self) -> bool:
        """See asyncio.Protocol."""
        session = self._session
        if session is not None:
            def ended() -> list[bytes]:
                now = self._loop.time()
                session.server.receive_eof(now)
                return session.server.data_to_send(now)
            self._guarded(ended)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        for timer in (self._timer, self._end):
            if timer is not None:
                timer.cancel()
        session, self._session = self._session, None
        if session is not None:
            try:
                session.server.receive_eof(self._loop.time())
            except Exception:
                self._adapter.log_defect(traceback.format_exc())
            session.report()
        self._adapter.connections.discard(self)
        if self._peer:
            self._adapter.addresses[self._peer] -= 1
            if not self._adapter.addresses[self._peer]:
                del self._adapter.addresses[self._peer]

    def drop(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _too_long(self) -> None:
        if self._session is not None:
            self._session.context.why = f"the negotiation lasted longer than {self._adapter.seconds:g} s"
        self._transport.close()

    def _guarded(self, work: Callable[[], list[bytes]]) -> None:
        """Do something with the session and send what comes of it; a defect of ours ends this connection and no other."""
        session = self._session
        if session is None:
            return
        try:
            for answer in work():
                self._transport.write(answer)
                session.answered(answer)
        except Exception:
            self._adapter.log_defect(traceback.format_exc())
            self.drop()
            return
        if session.server.closed:
            self._transport.close()
        else:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._session.server.next_timer() if self._session is not None else None
        if due is not None:
            self._timer = self._loop.call_at(due, self._guarded, self._on_timer)

    def _on_timer(self) -> list[bytes]:
        if self._session is None:
            raise AssertionError
        now = self._loop.time()
        self._session.server.handle_timer(now)
        return self._session.server.data_to_send(now)

    def _quickack(self) -> None:
        if TCP_QUICKACK is not None and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, TCP_QUICKACK, 1)
