# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocol core's own broker side on real sockets, as thinly as can be: for tests and benchmarks of the exchange."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.rudp import HEADER_SIZE
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import (
    ServerConfig,
    TspServer,
    is_signalling,
    stateless_reply,
)
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import FakeBackend


class _Connection(asyncio.Protocol):
    def __init__(self, broker: RealBroker) -> None:
        self._broker = broker
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server = TspServer(self._broker.config, self._broker.backend, "tcp", transport.get_extra_info("peername")[:2])
        self._broker.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._broker.segments += 1
        self._server.receive(data, self._broker.loop.time())
        self._turn()

    def eof_received(self) -> bool:
        self._server.receive_eof(self._broker.loop.time())
        self._turn()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._broker.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        self._transport.abort()

    def _turn(self) -> None:
        for data in self._server.data_to_send(self._broker.loop.time()):
            self._transport.write(data)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._server.closed:
            self._transport.close()
            return
        due = self._server.next_timer()
        if due is not None:
            self._timer = self._broker.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._server.handle_timer(self._broker.loop.time())
        self._turn()


class RealBroker:
    """`async with RealBroker(...) as broker`: broker.name is host:port. datagrams: signalling datagrams received so far."""

    def __init__(self, backend: FakeBackend | None = None, *, dsa_key: Any = None) -> None:
        self.backend = backend or FakeBackend()
        self.config = ServerConfig(rng=os.urandom, dsa_key=dsa_key)
        self.sessions: dict[Any, TspServer] = {}
        self.connections: set[_Connection] = set()
        self.datagrams = 0
        self.segments = 0

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> RealBroker:
        self.loop = asyncio.get_running_loop()
        self._server = await self.loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        while True:
            self.port = self._server.sockets[0].getsockname()[1]
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            try:
                self._socket.bind(("127.0.0.1", self.port))
                break
            except OSError:  # that port is taken over UDP: another one
                self._socket.close()
                self._server.close()
                self._server = await self.loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.loop.add_reader(self._socket.fileno(), self._readable)
        return self

    async def __aexit__(self, *_exc: Any) -> None:
        self.loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._server.close()
        for connection in list(self.connections):
            connection.abort()
        while self.connections:
            await asyncio.sleep(0)

    def _readable(self) -> None:
        try:
            data, peer = self._socket.recvfrom(65535)
        except BlockingIOError:
            return
        if not is_signalling(data) or len(data) < HEADER_SIZE:
            return
        self.datagrams += 1
        reply = stateless_reply(data)
        if reply is not None:
            self._socket.sendto(reply, peer)
            return
        session = self.sessions.get(peer)
        if session is None:
            session = self.sessions[peer] = TspServer(self.config, self.backend, "udp", peer)
        now = self.loop.time()
        session.receive(data, now)
        for answer in session.data_to_send(now):
            self._socket.sendto(answer, peer)
        if session.closed:
            del self.sessions[peer]
