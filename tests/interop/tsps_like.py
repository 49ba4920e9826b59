# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model of the independent server tsps with the defects that were measured of it (tsp-protocol.md section 11), on a real socket.

    with TspsLike(namespace.network) as server:
        …

It has no TUN device: it answers pings to its own address, hands packets from client to client, and pings who is silent. Quirks of other
servers (section 12) can be turned on: `coalesce` (rspauth and 200 in one datagram, 200 for every empty datagram), `leading_zeros` in
Content-length, `silent_accept` (no answer to accept). Nothing is shared with the code under test.
"""

from __future__ import annotations

import base64
import hashlib
import re
import select
import socket
import struct
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Callable, Optional

from .olddata import Echo, icmp

PREFIX = "2001:db8:f00d::"
OWN = IPv6Address("2001:db8:f00d::1")
OUTER = "192.0.2.9"
REALM = "cdpatsps"
CAPABILITY = b"CAPABILITY TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"
BAD_VERSION, BAD_AUTH = b"302 Unsupported client version\r\n", b"300 Authentication failed\r\n"
BAD_TUNNEL, BAD_CONFIRM, BAD_STATUS = (b"310 " + text + b"\r\n" for text in (
    b"Unsupported client tunnel", b"Failed to confirm client tunnel", b"TSP status error"))
SUCCESS = b"200 Success\r\n"
USER_IDS = {"alice": 16, "bob": 17}


@dataclass
class Session:
    peer: tuple[str, int]
    state: str = "HELLO"
    user: Optional[str] = None
    nonce: str = ""
    address: Any = None
    interval: int = 30
    heard: float = 0.0
    pinged: float = 0.0
    pings: int = 0


class TspsLike:
    """inside: a context in which sockets are made. passwords: by user. lose(direction, number): whether the datagram of that number
    ("in" or "out", counted from 1, signalling only) is lost. sessions: by peer. said: (text of the client, reply) in order."""

    def __init__(self, inside: Callable[[], AbstractContextManager[None]], *, passwords: dict[str, str], minimum: int = 5,
                 lose: Callable[[str, int], bool] = lambda _direction, _number: False, coalesce: bool = False, leading_zeros: bool = False,
                 silent_accept: bool = False) -> None:
        self.inside, self.passwords, self.minimum, self.lose = inside, passwords, minimum, lose
        self.coalesce, self.leading_zeros, self.silent_accept = coalesce, leading_zeros, silent_accept
        self.sessions: dict[tuple[str, int], Session] = {}
        self.said: list[tuple[bytes, bytes]] = []
        self.black_hole = 0
        self.own_pings_answered = 0
        self.dropped_sources: list[Any] = []
        self._numbers = {"in": 0, "out": 0}

    def __enter__(self) -> TspsLike:
        with self.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((OUTER, 3653))
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._waker.send(b"x")
        self._thread.join()
        for one in (self._socket, self._wake, self._waker):
            one.close()

    def restart(self) -> None:
        """End and begin again; all sessions are forgotten."""
        self.__exit__()
        self.sessions.clear()
        self.__enter__()

    def established(self) -> list[Session]:
        return [session for session in list(self.sessions.values()) if session.state == "ESTABLISHED"]

    def _run(self) -> None:
        while True:
            ready = select.select([self._socket, self._wake], [], [], 0.1)[0]
            if self._wake in ready:
                return
            if self._socket in ready:
                data, peer = self._socket.recvfrom(4096)
                self._datagram(data, peer)
            self._look_after()

    # The mistake that everybody must know: the nibble is looked for in the fourth byte --------------------------------------------

    def _datagram(self, data: bytes, peer: tuple[str, int]) -> None:
        session = self.sessions.get(peer)
        if len(data) >= 8 and data[3] >> 4 == 0xF:
            if session is not None and session.state == "ESTABLISHED":
                self.black_hole += data[0] >> 4 == 6
                session.heard = time.monotonic()
                self._send(data[:8] + data[8:].partition(b"\0")[0], peer, signalling=False)
                return
            self._numbers["in"] += 1
            if self.lose("in", self._numbers["in"]):
                return
            if session is None:
                session = self.sessions[peer] = Session(peer)
            session.heard = time.monotonic()
            reply = self._advance(session, data[8:])
            self.said.append((data[8:], reply or b""))
            if session.state == "GONE":
                self.sessions.pop(peer, None)
            if reply is not None:
                self._send(data[:8] + reply, peer)
        elif session is None or session.state != "ESTABLISHED":
            self._send(b"\xff\xff\xff\xff" + struct.pack("<I", int(time.time())) + BAD_STATUS, peer)
            self.sessions.pop(peer, None)
        else:
            session.heard = time.monotonic()
            self._packet(session, data)

    def _send(self, datagram: bytes, peer: tuple[str, int], *, signalling: bool = True) -> None:
        if signalling:
            self._numbers["out"] += 1
            if self.lose("out", self._numbers["out"]):
                return
        self._socket.sendto(datagram, peer)

    # Every datagram advances the state, duplicates too ----------------------------------------------------------------------------

    def _advance(self, session: Session, text: bytes) -> Optional[bytes]:
        state, text = session.state, text.rstrip(b"\0")
        if state == "HELLO":
            if not re.match(rb"VERSION=2\.0\.", text, re.IGNORECASE):
                session.state = "GONE"
                return BAD_VERSION
            session.state = "AUTH"
            return CAPABILITY
        if state == "AUTH":
            return self._authenticate(session, text.strip().upper())
        if state == "PLAIN":
            parts = text.rstrip(b"\r\n").split(b"\0")
            if len(parts) == 3 and not parts[0] and self._known(parts[1], parts[2]):
                session.state, session.user = "CREATE", parts[1].decode()
                return SUCCESS
        elif state == "MD5":
            rspauth = self._digest(session, text)
            if rspauth is not None:
                session.state = "CREATE" if self.coalesce else "MD5 DONE"
                return base64.b64encode(rspauth) + b"\r\n" + (SUCCESS if self.coalesce else b"")
        elif state == "MD5 DONE":
            session.state = "CREATE"
            return SUCCESS
        elif state == "CREATE":
            if self.coalesce and not text:
                return SUCCESS
            return self._create(session, text)
        elif state == "CONFIRM":
            if re.search(rb'<tunnel action="accept"\s*(/>|></tunnel>)', text):
                session.state = "ESTABLISHED"
                session.pinged = time.monotonic()
                for other in list(self.sessions.values()):
                    if session.user is not None and other is not session and other.user == session.user:
                        del self.sessions[other.peer]  # the later login expels the earlier
                return None if self.silent_accept else b""
            session.state = "GONE"
            return BAD_CONFIRM
        session.state = "GONE"
        return BAD_AUTH

    def _authenticate(self, session: Session, line: bytes) -> bytes:
        if line == b"AUTHENTICATE ANONYMOUS":
            session.state = "CREATE"
            return SUCCESS
        if line == b"AUTHENTICATE PLAIN":
            session.state = "PLAIN"
            return b""
        if line == b"AUTHENTICATE DIGEST-MD5":
            session.state = "MD5"
            session.nonce = f"{int(time.time() * 1000) & 0xFFFFFFFF:08X}"
            return base64.b64encode(
                f'realm="{REALM}",nonce="{session.nonce}",qop=auth,algorithm=md5-sess,charset=utf8'.encode()) + b"\r\n"
        session.state = "GONE"
        return BAD_AUTH

    def _known(self, user: bytes, password: bytes) -> bool:
        return self.passwords.get(user.decode("utf-8", "replace")) == password.decode("utf-8", "replace")

    def _digest(self, session: Session, line: bytes) -> Optional[bytes]:
        try:
            text = base64.b64decode(line.strip(), validate=True).decode()
        except ValueError:
            return None
        said = dict(re.findall(r'([a-z-]+)="?([^",]*)"?(?:,|$)', text))
        user = said.get("username", "")
        if not re.fullmatch(r"[A-Za-z0-9/.-]+", user) or user not in self.passwords or said.get("nc") != "00000001" \
                or said.get("nonce") != session.nonce or said.get("realm") != REALM:
            return None

        def md5(data: bytes) -> bytes:
            return hashlib.md5(data, usedforsecurity=False).digest()

        a1 = md5(md5(f"{user}:{REALM}:{self.passwords[user]}".encode()) + f':{session.nonce}:{said["cnonce"]}'.encode()).hex()

        def response(method: str) -> str:
            a2 = md5(f'{method}:{said["digest-uri"]}'.encode()).hex()
            return md5(f'{a1}:{session.nonce}:00000001:{said["cnonce"]}:auth:{a2}'.encode()).hex()

        if said.get("response") != response("AUTHENTICATE"):
            return None
        session.user = user
        return b"rspauth=" + response("").encode()

    def _create(self, session: Session, text: bytes) -> bytes:
        head = re.match(rb"content-length:\s*(\d+)\r?\n(?:\r?\n)?", text, re.IGNORECASE)
        body = text[head.end():].decode("ascii", "replace") if head else ""
        kind = re.search(r'<tunnel action="create" type="(v6udpv4|v6anyv4)"(?: proxy="no")?>', body, re.IGNORECASE)
        if head is None or int(head[1]) != len(body) or kind is None:
            session.state = "GONE"
            return BAD_TUNNEL
        wish = re.search(r'<keepalive interval="(\d+)"', body)
        session.interval = max(self.minimum, int(wish[1]) if wish else 30)
        seen = IPv4Address(session.peer[0])
        if session.user is None:
            session.address = IPv6Address(int(IPv6Address(PREFIX)) | 0xFFFF << 48 | int(seen) << 16 | session.peer[1])
        else:
            session.address = IPv6Address(int(IPv6Address(PREFIX)) | USER_IDS[session.user])
        session.state = "CONFIRM"
        lines = ['<tunnel action="info" type="v6udpv4" lifetime="604800">', "\t<server>", f'\t\t<address type="ipv4">{OUTER}</address>',
                 f'\t\t<address type="ipv6">{OWN}</address>', "\t</server>", "\t<client>", f'\t\t<address type="ipv4">{seen}</address>',
                 f'\t\t<address type="ipv6">{session.address}</address>', f'\t\t<keepalive interval="{session.interval}">',
                 f'\t\t\t<address type="ipv6">{OWN}</address>', "\t\t</keepalive>", "\t</client>", "</tunnel>"]
        body_out = SUCCESS + "".join(line + "\r\n" for line in lines).encode()
        length = f"{len(body_out):06d}" if self.leading_zeros else str(len(body_out))
        return f"Content-length: {length}\r\n".encode() + body_out

    # Packets ----------------------------------------------------------------------------------------------------------------------

    def _packet(self, session: Session, data: bytes) -> None:
        if len(data) < 40 or data[0] >> 4 != 6:
            return
        if IPv6Address(data[8:24]) != session.address:
            self.dropped_sources.append(IPv6Address(data[8:24]))
            return
        target = IPv6Address(data[24:40])
        for other in self.established():
            if other.address == target:
                self._send(data, other.peer, signalling=False)
                return
        try:
            echo = Echo(data)
        except ValueError:
            return
        if target == OWN and echo.request:
            self._send(echo.reply(), session.peer, signalling=False)
        elif target == OWN:
            self.own_pings_answered += echo.data == b"\xcd" * 8

    def _look_after(self) -> None:
        """Own pings to who is silent for one interval; the end after five."""
        now = time.monotonic()
        for session in self.established():
            if now - session.heard > 5 * session.interval:
                del self.sessions[session.peer]
            elif now - max(session.heard, session.pinged) > session.interval:
                session.pinged = now
                session.pings += 1
                identifier = struct.pack("!HH", int(time.time()) & 0xFFFF, session.pings)
                self._send(icmp(OWN, session.address, 128, identifier, b"\xcd" * 8, hops=5), session.peer, signalling=False)
