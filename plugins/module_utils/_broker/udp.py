# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The UDP side of the broker: one socket per listening address, signalling and IPv6 packets apart by their first nibble.

Old clients connect() their sockets, so an answer must come from the very address that was spoken to: on a socket for all addresses
that address is learnt with each datagram and set on each answer. Sessions are found by the client's exact address and port.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import traceback
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from .._tsp import states, status
from .._tsp.errors import LocalError
from .._tsp.rudp import HEADER_SIZE
from .._tsp.server import is_signalling, stateless_reply
from .._tsp.xml_write import status_line
from .ends.raw import IP_MTU_DISCOVER, IP_PKTINFO, IP_PMTUDISC_DONT, source_control
from .pools import Address
from .session import Session

BATCH = 64
ROOM = 9216
STALE = 5.0
"""Seconds of silence after which a session may have to make room for another, where all places are taken."""
BUFFER = 4 << 20
MakeSession = Callable[[str, "tuple[str, int]", "Address | None"], Session]
"""make(transport, peer, our address) -> a new session."""


class UdpSocket:
    """One bound socket. port: the one asked for, or with 0 the one that was found."""

    def __init__(self, address: Address, port: int) -> None:
        """Raises LocalError `cannot_listen`."""
        self.address = address
        self.version = address.version
        self.everywhere = address.is_unspecified
        self.socket = socket.socket(socket.AF_INET if self.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            if self.version == 6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if self.everywhere:
                    self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                with contextlib.suppress(OSError):
                    # 1308 bytes at most: where a path is narrower than that, fragments are the only way through.
                    self.socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
                if self.everywhere:
                    self.socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            self.socket.bind((str(address), port))
        except OSError as exc:
            self.socket.close()
            raise cannot_listen("UDP", address, port, exc) from None
        self.port: int = self.socket.getsockname()[1]
        self._locals: dict[bytes, str] = {}
        self._controls: dict[str, list[tuple[int, int, bytes]]] = {}

    def receive(self) -> tuple[bytes, tuple[Any, ...], str] | None:
        """(datagram, peer as the kernel gave it, our address); None when nothing waits. Raises OSError."""
        try:
            if not self.everywhere:
                data, peer = self.socket.recvfrom(ROOM)
                return data, peer, str(self.address)
            data, ancillary, _flags, peer = self.socket.recvmsg(ROOM, 128)
        except (BlockingIOError, InterruptedError):
            return None
        for _level, _kind, raw in ancillary:
            key = raw[:16] if self.version == 6 else raw[8:12]
            local = self._locals.get(key)
            if local is None:
                if len(self._locals) > 1024:
                    self._locals.clear()
                local = self._locals[key] = str(ip_address(key))
            return data, peer, local
        return data, peer, str(self.address)

    def send(self, payload: bytes, peer: tuple[Any, ...], local: str | None) -> bool:
        """Send from `local` where the socket is for all addresses. Returns whether the kernel took it."""
        try:
            if self.everywhere and local is not None:
                control = self._controls.get(local)
                if control is None:
                    if len(self._controls) > 1024:
                        self._controls.clear()
                    control = self._controls[local] = source_control(local)
                self.socket.sendmsg([payload], control, 0, peer)
            else:
                self.socket.sendto(payload, peer)
        except OSError:
            return False
        return True


class UdpAdapter:
    """All sockets and all UDP sessions. packet(peer, data) gets what is not signalling. log_defect(text) hears of our own faults."""

    def __init__(self, make_session: MakeSession, packet: Callable[[tuple[str, int], bytes], None], limit: int,
                 log_defect: Callable[[str], None]) -> None:
        self.sockets: list[UdpSocket] = []
        self.sessions: OrderedDict[tuple[str, int], Session] = OrderedDict()
        """By peer; the one that was silent for longest comes first, and is the first whose time is over."""
        self.limit = limit
        self.counters = {"udp_datagrams": 0, "udp_echo": 0, "udp_refused_busy": 0, "udp_not_tsp": 0}
        self._make_session = make_session
        self._packet = packet
        self._log_defect = log_defect
        self._finished: dict[tuple[str, int], None] = {}  # peers with nothing more to say, the first one first

    def start(self, sockets: list[UdpSocket]) -> None:
        """Read from now on."""
        self.sockets = sockets
        loop = asyncio.get_running_loop()
        for one in sockets:
            loop.add_reader(one.socket.fileno(), self._readable, one)

    def stop(self) -> None:
        """Close the sockets."""
        loop = asyncio.get_running_loop()
        for one in self.sockets:
            loop.remove_reader(one.socket.fileno())
            one.socket.close()
        self.sockets = []

    def send(self, payload: bytes, peer: tuple[str, int], local: str | None) -> bool:
        """Send a packet to a client; see ends/port.py SendUdp."""
        version = 6 if ":" in peer[0] else 4
        for one in self.sockets:
            if one.version == version and (one.everywhere or local is None or str(one.address) == local):
                return one.send(payload, peer, local)
        return False

    def confirm(self, peer: tuple[str, int], packet: bytes, now: float) -> bool:
        """A packet from where no end is open. Whether it opened one: the tunnel was granted there, and only the accept was lost."""
        session = self.sessions.get(peer)
        if session is None or not session.confirm(packet, now):
            return False
        self.sessions.move_to_end(peer)  # its time begins anew
        self._finished[peer] = None
        return True

    def _readable(self, one: UdpSocket) -> None:
        now = asyncio.get_running_loop().time()
        for _turn in range(BATCH):
            try:
                received = one.receive()
            except OSError:
                continue  # an ICMP error about something sent earlier
            if received is None:
                return
            data, peer, local = received
            if data and data[0] >> 4 == 6:
                self._packet(peer[:2], data)
            elif is_signalling(data):
                try:
                    self._signalling(one, data, peer, local, now)
                except Exception:
                    self._forget(peer[:2])
                    self._log_defect(traceback.format_exc())
            else:
                self.counters["udp_not_tsp"] += 1

    def _signalling(self, one: UdpSocket, data: bytes, peer: tuple[Any, ...], local: str, now: float) -> None:
        self.counters["udp_datagrams"] += 1
        reply = stateless_reply(data)
        if reply is not None:
            self.counters["udp_echo"] += 1
            one.send(reply, peer, local)
            return
        key = peer[:2]
        session = self.sessions.get(key)
        if session is None:
            if len(self.sessions) >= self.limit and not self._make_room(now):
                self.counters["udp_refused_busy"] += 1
                one.send(data[:HEADER_SIZE] + status_line(status.SERVER_TOO_BUSY), peer, local)
                return
            session = self.sessions[key] = self._make_session("udp", key, ip_address(local.partition("%")[0]))
        session.seen = now
        self.sessions.move_to_end(key)
        for answer in session.receive(data, data[HEADER_SIZE:], now):
            one.send(answer, peer, local)
            session.answered(answer[HEADER_SIZE:])
        if session.server.established or session.server.state in (states.HELLO, states.FINISHED):
            self._finished[key] = None
        else:
            self._finished.pop(key, None)
        if session.server.closed:
            self._forget(key)

    def _make_room(self, now: float) -> bool:
        """Forget one session: the first that has its tunnel or was refused and only waits for late copies, else the stillest, where it
        is still enough."""
        key = next(iter(self._finished), None)
        if key is None:
            key, session = next(iter(self.sessions.items()))
            if now - session.seen <= STALE:
                return False
        self._forget(key)
        return True

    def tick(self, now: float) -> None:
        """Called about once a second: end the sessions that have been silent for too long."""
        while self.sessions:
            key, session = next(iter(self.sessions.items()))
            due = session.server.next_timer()
            if due is not None and due > now:
                return
            session.server.handle_timer(now)
            self._forget(key)

    def _forget(self, key: tuple[str, int]) -> None:
        session = self.sessions.pop(key, None)
        self._finished.pop(key, None)
        if session is not None:
            session.report()


def cannot_listen(transport: str, address: Address, port: int, exc: OSError) -> LocalError:
    """The LocalError for a socket that could not be bound."""
    hint = {errno.EADDRINUSE: "Another program has this port: stop it, or name another listen.port.",
            errno.EADDRNOTAVAIL: "This host does not have that address: correct listen.addresses.",
            errno.EACCES: "Ports below 1024 need root or CAP_NET_BIND_SERVICE."}.get(exc.errno or 0, "Correct listen.")
    return LocalError("cannot_listen", f"Cannot listen on {transport} {address} port {port}: {exc.strerror}.", hint)
