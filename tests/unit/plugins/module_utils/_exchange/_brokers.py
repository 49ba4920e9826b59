# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small brokers of raw asyncio that answer from a script and misbehave as told. They share no code with what they test.

A `FakeBroker` listens on one ephemeral port of one loopback address, over UDP and TCP. Its `script` gets each message as bytes (RUDP header
taken off) and answers with bytes, or with None for silence; `Talk` is the script of a well-behaved broker, whose single answers
tests replace.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import socket
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

CAPABILITY = b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 TUNNEL=V4V6 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n"
SUCCESS = b"200 Success\r\n"


def framed(text: str) -> bytes:
    """A reply to create, delete or info: Content-length and body."""
    body = text.encode()
    return b"Content-length: %d\r\n%s" % (len(body), body)


def info(mode: str = "v6udpv4", client4: str = "127.0.0.1", server4: str = "127.0.0.1", *, prefix: str = "", extra: str = "") -> bytes:
    """A well-formed grant as brokers write it (tsp-protocol.md section 4.2)."""
    client6, server6 = "2001:0db8:0000:0000:0000:0000:0000:0002", "2001:0db8:0000:0000:0000:0000:0000:0001"
    if mode == "v4v6":
        client4, server4, client6, server6 = "192.0.2.2", "192.0.2.1", "::1", "::1"
    address, _slash, length = prefix.partition("/")
    router = f'  <router>\r\n   <prefix length="{length}">{address}</prefix>\r\n  </router>\r\n' if prefix else ""
    return framed(
        "200 Success\r\n"
        f'<tunnel action="info" type="{mode}" lifetime="604800">\r\n'
        f' <server>\r\n  <address type="ipv4">{server4}</address>\r\n  <address type="ipv6">{server6}</address>\r\n </server>\r\n'
        f' <client>\r\n  <address type="ipv4">{client4}</address>\r\n  <address type="ipv6">{client6}</address>\r\n{router}{extra}'
        f'  <keepalive interval="30">\r\n   <address type="ipv6">{server6}</address>\r\n  </keepalive>\r\n </client>\r\n</tunnel>\r\n')


def redirect(*brokers: str, status: int = 1200) -> bytes:
    """A redirect list (tsp-protocol.md section 6), without the Content-length line that it has at create."""
    rows = ""
    for broker in brokers:
        kind = "ipv6" if ":" in broker.strip("[]") and not re.match(r"[^:]*:\d+\Z", broker) else (
            "ipv4" if re.match(r"[0-9.]+(:\d+)?\Z", broker) else "dn")
        rows += f'  <broker>\r\n   <address type="{kind}">{broker}</address>\r\n  </broker>\r\n'
    return f'{status} Redirection\r\n<tunnel action="list" type="broker">\r\n{rows}</tunnel>\r\n'.encode()


@dataclass
class Talk:
    """The script of a broker; every answer can be replaced. Bytes, None (silence), or a function of the message."""

    version: Any = CAPABILITY
    auth: Any = SUCCESS
    create: Any = None
    accept: Any = b""
    delete: Any = None
    echo: Any = SUCCESS
    users: dict[str, str] = field(default_factory=lambda: {"alice": "correct horse"})
    realm: str = "broker.example"
    nonce: str = "8b4679044f032489"
    _state: dict[Any, str] = field(default_factory=dict)

    def __call__(self, message: bytes, peer: Any, transport: str) -> Optional[bytes]:
        if message == b"":
            pending = self._state.pop((peer, "pending"), b"")
            return pending if isinstance(pending, bytes) else b""
        if message.startswith(b"ECHO REQUEST"):
            return self._answer(self.echo, message)
        if message.startswith(b"VERSION="):
            return self._answer(self.version, message)
        if message.startswith(b"AUTHENTICATE"):
            return self._authenticate(message, peer, transport)
        if b"Content-length" in message:
            for action, answer in (("create", self.create), ("accept", self.accept), ("delete", self.delete), ("reject", b"")):
                if f'action="{action}"'.encode() in message:
                    if action == "create" and answer is None:
                        mode = re.search(rb'type="(v[46a-z0-9]+)"', message)
                        asked = mode.group(1).decode() if mode else "v6v4"
                        granted = {"v6anyv4": "v6udpv4" if transport == "udp" else "v6v4"}.get(asked, asked)
                        return info(granted)
                    if action == "delete" and answer is None:
                        return framed("200 Success\r\n")
                    reply = self._answer(answer, message)
                    return None if transport == "tcp" and action in ("accept", "reject") else reply
        mechanism = self._state.get((peer, "mechanism"))
        if mechanism == "PLAIN":
            return self._plain(message)
        if mechanism == "DIGEST-MD5":
            return self._digest(message, peer, transport)
        return b"310 Server side error\r\n"

    def _answer(self, answer: Any, message: bytes) -> Optional[bytes]:
        return answer(message) if callable(answer) else answer

    def _authenticate(self, message: bytes, peer: Any, transport: str) -> Optional[bytes]:
        line, _crlf, rest = message.partition(b"\r\n")
        mechanism = line.split()[1].decode()
        self._state[(peer, "mechanism")] = mechanism
        if self.auth != SUCCESS or mechanism == "ANONYMOUS":
            return self._answer(self.auth, message)
        if mechanism == "PLAIN":
            rest = rest.lstrip(b"\0")
            if transport == "udp" and not rest:
                return b""
            return self._plain(rest) if rest else None
        challenge = f'realm="{self.realm}",nonce="{self.nonce}",qop=auth,algorithm=md5-sess,charset=utf8'
        return base64.b64encode(challenge.encode()) + b"\r\n"

    def _plain(self, message: bytes) -> bytes:
        fields = message.strip(b"\0\r\n").split(b"\0")
        good = len(fields) == 2 and self.users.get(fields[0].decode("utf-8", "replace")) == fields[1].decode("utf-8", "replace")
        return SUCCESS if good else b"300 Authentication failed\r\n"

    def _digest(self, message: bytes, peer: Any, transport: str) -> bytes:
        text = base64.b64decode(message.strip(b"\0\r\n")).decode()
        fields = dict(re.findall(r'([a-z-]+)="?([^",]*)"?', text))
        user, password = fields["username"], self.users.get(fields["username"], "")

        def md5(data: bytes) -> str:
            return hashlib.md5(data).hexdigest()

        secret = hashlib.md5(f"{user}:{self.realm}:{password}".encode()).digest()
        ha1 = md5(secret + f":{self.nonce}:{fields['cnonce']}".encode())

        def response(prefix: str) -> str:
            ha2 = md5(f"{prefix}:{fields['digest-uri']}".encode())
            return md5(f"{ha1}:{self.nonce}:00000001:{fields['cnonce']}:auth:{ha2}".encode())

        if user not in self.users or fields["response"] != response("AUTHENTICATE"):
            return b"300 Authentication failed\r\n"
        reply = base64.b64encode(f"rspauth={response('')}".encode()) + b"\r\n"
        if transport == "udp":
            self._state[(peer, "pending")] = SUCCESS  # type: ignore[assignment]
            return reply
        return reply + SUCCESS


Script = Callable[[bytes, Any, str], Optional[bytes]]


class FakeBroker:
    """`async with FakeBroker(...) as broker`: broker.name is host:port, broker.log the messages as (transport, bytes).

    udp: answer | silent | refuse. tcp: answer | silent (accepts and says nothing) | refuse. on_tcp(reader, writer): replaces the TCP side.
    on_udp(datagram, header, send): replaces the UDP side.
    """

    def __init__(self, script: Optional[Script] = None, *, host: str = "127.0.0.1", udp: str = "answer", tcp: str = "answer",
                 on_tcp: Optional[Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]] = None,
                 on_udp: Optional[Callable[[bytes, bytes, Callable[[bytes], None]], None]] = None) -> None:
        self.script: Script = script or Talk()
        self.host, self._udp, self._tcp = host, udp, tcp
        self._on_tcp, self._on_udp = on_tcp, on_udp
        self.log: list[tuple[str, bytes]] = []
        self.datagrams = 0
        self.connections = 0
        self.peers: list[Any] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: Optional[asyncio.base_events.Server] = None
        self._socket: Optional[socket.socket] = None

    @property
    def name(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def said(self, transport: str = "") -> list[bytes]:
        """What the client said over this transport, first line of each."""
        return [message.split(b"\r\n")[0] for kind, message in self.log if kind.startswith(transport)]

    async def __aenter__(self) -> FakeBroker:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        for _attempt in range(50):
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.bind((self.host, 0))
            self.port = self._socket.getsockname()[1]
            if self._tcp == "refuse":
                break
            try:
                self._server = await asyncio.start_server(self._connected, self.host, self.port)
                break
            except OSError:
                self._socket.close()
        if self._udp == "refuse":
            self._socket.close()
        else:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)
        return self

    async def __aexit__(self, *_exc: Any) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Hang up everything."""
        if self._socket is not None and self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _readable(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            while self._socket.fileno() >= 0:
                data, peer = self._socket.recvfrom(65535)
                self._datagram(data, peer)

    def _datagram(self, data: bytes, peer: Any) -> None:
        assert self._socket is not None
        sock = self._socket
        self.datagrams += 1
        self.peers.append(peer)
        self.log.append(("udp", data[8:]))
        if self._udp == "silent":
            return
        if self._on_udp is not None:
            self._on_udp(data[8:], data[:8], lambda reply: sock.sendto(reply, peer) and None)
            return
        reply = self.script(data[8:], peer, "udp")
        if reply is not None and sock.fileno() >= 0:
            sock.sendto(data[:8] + reply, peer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if self._on_tcp is not None:
                await self._on_tcp(reader, writer)
            else:
                await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        while True:
            data = await reader.read(65536)
            if not data:
                return
            self.log.append(("tcp", data))
            if self._tcp == "silent":
                continue
            reply = self.script(data, peer, "tcp")
            if reply is not None:
                writer.write(reply)
                await writer.drain()
