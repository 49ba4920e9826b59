# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Metrics for Prometheus: a file for node_exporter's textfile collector, and GET /metrics on loopback. One of each for a process.

The server is forty lines of our own: one request for a connection, of few bytes and in few seconds, from few at a time; what a client
does not take in time is thrown away. It never costs the tunnels anything.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Callable

from .._tsp.errors import LocalError
from . import exposition
from .settings import AgentConfig

EVERY, LOOK = 15.0, 5.0
"""Seconds after which the file is written again when nothing happened (Prometheus asks seldom more often), and between two looks at
whether something did."""
FRESH = 1.0
"""Seconds for which an answer is good: who asks more often gets the same."""
REQUEST_BYTES, REQUEST_SECONDS, CONNECTIONS = 4096, 5.0, 8
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
           431: "Request Header Fields Too Large"}


def listen_address(listen: str) -> tuple[str, int]:
    """(address, port) out of `127.0.0.1:9653` or `[::1]:9653`. Raises LocalError `metrics_not_loopback`, also for what is neither."""
    host, _colon, port = listen.rpartition(":")
    host = {"localhost": "127.0.0.1"}.get(host, host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    try:
        if ip_address(host).is_loopback and port.isascii() and port.isdigit() and int(port) < 65536:
            return host, int(port)
    except ValueError:
        pass
    raise LocalError("metrics_not_loopback", f"Metrics cannot be served on {listen!r}: it is no loopback address with a port.",
                     "Write 127.0.0.1:9653 or [::1]:9653; for others than this host put a server in front that asks who they are.")


def resident_bytes() -> int | None:
    """Memory of this process, where the system has a file that says it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _text(statuses: Sequence[Mapping[str, Any]]) -> bytes:
    return exposition.text(statuses, resident_bytes()).encode()


class Metrics:
    """The metrics of a process. The first configuration says where; agents: the status of each tunnel, as it is now.

    Making it raises LocalError `metrics_not_loopback`, `start` raises LocalError `metrics_port_taken`.
    """

    def __init__(self, configs: Sequence[AgentConfig], agents: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        asked = configs[0].metrics
        self._file = asked.textfile
        self._listen = listen_address(asked.listen) if asked.listen else None
        self._agents = agents
        self._log = logging.getLogger("tsp-agent")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.AbstractServer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connections: dict[_Connection, None] = {}
        self._text, self._text_until = b"", float("-inf")
        self._written: Any = None
        self._written_at = 0.0
        self._refused = ""

    @property
    def address(self) -> tuple[str, int] | None:
        """Where it is served; None where it is not."""
        sockets = getattr(self._server, "sockets", None)
        return tuple(sockets[0].getsockname()[:2]) if sockets else None

    async def start(self) -> None:
        """Write the file, and serve. Raises LocalError."""
        self._loop = asyncio.get_running_loop()
        if self._listen is not None:
            host, port = self._listen
            try:
                self._server = await self._loop.create_server(lambda: _Connection(self), host, port, backlog=CONNECTIONS)
            except OSError as exc:
                raise LocalError("metrics_port_taken", f"Metrics cannot be served on {host} port {port}: {os.strerror(exc.errno or 0)}.",
                                 "End the program that has this port, or choose another one in metrics.listen.") from None
        if self._file:
            self._again()

    def write(self) -> None:
        """Write the file if something happened since the last time: another state, error, broker or mode. The rest waits for its time."""
        if self._file and self._loop is not None:
            statuses = self._agents()
            if self._seen(statuses) != self._written:
                self._write(statuses)

    async def stop(self) -> None:
        """End, and leave no file: what nobody keeps up to date misleads."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            connection.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if self._file and self._loop is not None:
            try:
                os.unlink(self._file)
            except OSError:
                pass
        self._server = self._timer = self._loop = None

    def page(self) -> bytes:
        """The text that is served, at most FRESH seconds old."""
        now = 0.0 if self._loop is None else self._loop.time()
        if now >= self._text_until:
            self._text = _text(self._agents())
            self._text_until = now + FRESH
        return self._text

    def entered(self, connection: _Connection) -> None:
        """A connection came; where there are too many, the oldest has had its time."""
        self._connections[connection] = None
        if len(self._connections) > CONNECTIONS:
            next(iter(self._connections)).abort()

    def left(self, connection: _Connection) -> None:
        """A connection ended."""
        self._connections.pop(connection, None)

    def _again(self) -> None:
        if self._loop is not None:
            if self._written is not None and self._loop.time() < self._written_at + EVERY:
                self.write()
            else:
                self._write(self._agents())
            self._timer = self._loop.call_later(min(LOOK, EVERY), self._again)

    @staticmethod
    def _seen(statuses: Sequence[Mapping[str, Any]]) -> Any:
        return [(status["name"], status["state"], status["broker"], status["mode"], (status["last_error"] or {}).get("code"))
                for status in statuses]

    def _write(self, statuses: Sequence[Mapping[str, Any]]) -> None:
        """Replace the file whole. What goes wrong is logged once: metrics must not stop a tunnel."""
        self._written = self._seen(statuses)
        self._written_at = 0.0 if self._loop is None else self._loop.time()
        folder, base = os.path.split(self._file)
        temporary = os.path.join(folder, f".{base}.{os.getpid()}")  # not *.prom, which would be collected
        try:
            try:
                with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644), "wb") as file:
                    os.fchmod(file.fileno(), 0o644)
                    file.write(_text(statuses))
                os.replace(temporary, self._file)
            except OSError:
                try:
                    os.unlink(temporary)
                except OSError:
                    pass
                raise
        except OSError as exc:
            said = exc.strerror or str(exc)
            if said != self._refused:
                self._log.warning("the metrics cannot be written to %s: %s", self._file, said)
            self._refused = said
        else:
            self._refused = ""


class _Connection(asyncio.Protocol):
    """One request, one answer, the end."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._timer = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.abort)
        self._metrics.entered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._metrics.left(self)

    def data_received(self, data: bytes) -> None:
        self._request += data
        if b"\r\n\r\n" in self._request or b"\n\n" in self._request:
            self._answer(*_answer_to(self._request))
        elif len(self._request) > REQUEST_BYTES:
            self._answer(431)

    def abort(self) -> None:
        """Hang up, whatever is under way."""
        self._metrics.left(self)
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, code: int, with_body: bool = True) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.pause_reading()
        body = self._metrics.page() if code == 200 else f"{code} {REASONS[code]}\n".encode()
        head = (f"HTTP/1.1 {code} {REASONS[code]}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
                + ("Allow: GET, HEAD\r\n" if code == 405 else "") + "Connection: close\r\n\r\n")
        self._transport.write(head.encode() + (body if with_body else b""))
        self._transport.close()


def _answer_to(request: bytes) -> tuple[int, bool]:
    """(status code, whether a body follows) for a request's head."""
    lines = request.decode("latin-1").replace("\r\n", "\n").split("\n\n", 1)[0].split("\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return 400, True
    if words[0] not in ("GET", "HEAD"):
        return 405, True
    for line in lines[1:]:
        name, _colon, value = line.partition(":")
        if name.lower() == "host" and not _is_address(value.strip()):
            return 403, words[0] == "GET"  # a page of some website that has its name point to this host
    return (200 if words[1].partition("?")[0] == "/metrics" else 404), words[0] == "GET"


def _is_address(host: str) -> bool:
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return name in ("localhost", "")
    return True
