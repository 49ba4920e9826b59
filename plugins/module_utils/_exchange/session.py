# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""One session with one broker over one transport, from the open socket to its outcome.

The session drives a sans-IO client: every arrival and every timer goes in, what the client wants sent goes out at once, and its
events are gathered until the last one. It runs in the callbacks of the loop: no task, no queue, nothing between datagram and answer.
"""

from __future__ import annotations

import asyncio
import math
import socket
from dataclasses import dataclass, field
from typing import Any, Callable

from .._tsp.client import TspClient
from .._tsp.errors import NetworkError, TspError
from .._tsp.events import Authenticated, CapabilitiesReceived, Completed, Deleted, Failed, Granted, Redirected
from .link import Link
from .options import Address, Broker
from .source import Source
from .tcp import TcpLink
from .transcript import Recorder
from .udp import UdpLink

MOST_STEPS = 10000
"""Arrivals in one session; a broker that sends more than this without finishing is cut off."""


@dataclass(frozen=True)
class Target:
    """Where one attempt goes: transport is udp or tcp."""

    broker: Broker
    address: Address
    transport: str

    @property
    def label(self) -> str:
        """udp | tcp | udp6 | tcp6, as in Lease.transport."""
        return self.transport + ("6" if self.address.version == 6 else "")

    @property
    def peer(self) -> str:
        """address:port, brackets around IPv6."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.broker.port}"

    def __str__(self) -> str:
        return f"{self.label} {self.peer}"


@dataclass(frozen=True)
class Limits:
    """Seconds. deadline: on the loop's clock. total: what the user allowed, for messages. connect: for TCP's handshake.

    until: on the loop's clock, when this session is to leave the rest of the time to another transport. heard: set with the first sign of
    life.
    """

    deadline: float
    total: float
    connect: float = 10.0
    until: float = math.inf
    heard: asyncio.Event | None = None


@dataclass
class Outcome:
    """What a session came to: exactly one of granted, deleted, redirected, error; or capabilities alone where only they were asked.

    repeated: a message had been sent more than once (UDP).
    """

    target: Target
    version: str
    error: TspError | None = None
    capabilities: CapabilitiesReceived | None = None
    auth_method: str = ""
    granted: Granted | None = None
    deleted: bool = False
    redirected: Redirected | None = None
    answered: bool = False
    repeated: bool = False
    local_address: Address | None = None
    local_port: int | None = None
    socket: socket.socket | None = None
    quirks: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


MakeClient = Callable[[Address], TspClient]
"""Builds the client once the socket's local address is known."""


class Session:
    """The callbacks between a link and a client."""

    def __init__(self, outcome: Outcome, limits: Limits, recorder: Recorder) -> None:
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._outcome = outcome
        self._limits = limits
        self._recorder = recorder
        self._client: TspClient | None = None
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._steps = 0

    def start(self, link: Link, client: TspClient) -> None:
        """Begin to speak."""
        self._link, self._client = link, client
        now = self._loop.time()
        client.connect(now)
        self._turn(now)

    # what the link calls

    def data_received(self, data: bytes) -> None:
        if self._client is None or self.done.done():
            return
        now = self._loop.time()
        self._recorder.received(data, now)
        self._outcome.answered = True
        if self._limits.heard is not None:
            self._limits.heard.set()
        self._steps += 1
        if self._steps > MOST_STEPS:
            self._fail(NetworkError("flood", "The broker sends without end and without sense.", "Report it to the broker's operator."))
            return
        self._drive(self._client.receive, data, now)

    def eof_received(self) -> None:
        if self._client is None or self.done.done():
            return
        self._drive(self._client.receive_eof, self._loop.time())

    def link_lost(self, error: TspError) -> None:
        self._fail(error)

    # what follows from it

    def _drive(self, verb: Callable[..., None] | None, *given: Any) -> None:
        """One verb of the client, whose last argument is the time, and what follows from it.

        In a callback of the loop a defect of ours would only be logged, and the session stand still until its deadline; it ends it instead.
        """
        try:
            if verb is not None:
                verb(*given)
            self._turn(given[-1])
        except Exception as exc:
            if not self.done.done():
                self.done.set_exception(exc)

    def _turn(self, now: float) -> None:
        """Hear what happened, send what is to be sent (behind the last word, too: an accept or a reject), set the timer."""
        client = self._client
        if client is None:
            raise AssertionError
        while not self.done.done():
            event = client.next_event()
            if event is None:
                break
            self._hear(event)
        self._send(client, now)
        if not self.done.done():
            self._set_timer(now)

    def _send(self, client: TspClient, now: float) -> None:
        if self._link is None:
            raise AssertionError
        try:
            for data in client.data_to_send(now):
                self._recorder.sent(data, now)
                self._link.send(data)
        except TspError as error:
            self._fail(error)

    def _hear(self, event: object) -> None:
        outcome = self._outcome
        if isinstance(event, CapabilitiesReceived):
            outcome.capabilities = event
        elif isinstance(event, Authenticated):
            outcome.auth_method = event.method
            self._recorder.authenticated()
        elif isinstance(event, Granted):
            outcome.granted = event
        elif isinstance(event, Deleted):
            outcome.deleted = True
        elif isinstance(event, Redirected):
            outcome.redirected = event
            self._finish()
        elif isinstance(event, Failed):
            self._fail(event.error)
        elif isinstance(event, Completed):
            self._finish()

    def _set_timer(self, now: float) -> None:
        if self._client is None:
            raise AssertionError
        due = min(self._limits.deadline, self._limits.until)
        wanted = self._client.next_timer()
        if wanted is not None:
            due = min(due, wanted)
        if self._timer is not None:
            if self._timer_at <= due:  # an early call only looks again: cheaper than a new timer for every datagram
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._client is None or self.done.done():
            return
        now = self._loop.time()
        if now >= self._limits.deadline:
            self._fail(deadline_passed(self._limits.total))
            return
        if now >= self._limits.until:
            self._fail(_gave_way(self._outcome))
            return
        wanted = self._client.next_timer()
        self._drive(self._client.handle_timer if wanted is not None and now >= wanted else None, now)

    def _fail(self, error: TspError) -> None:
        if not self.done.done():
            self._outcome.error = error
            self._finish()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._link is not None:
            self._link.pause()
        if self._client is not None:
            self._outcome.quirks = dict(self._client.quirks)
            self._outcome.repeated = self._client.repeated
        self.done.set_result(None)


def _gave_way(outcome: Outcome) -> NetworkError:
    """The rest of the time is another transport's."""
    over = outcome.target.transport.upper()
    code, what = ("went_silent", "answered, and came to no end") if outcome.answered else ("no_answer", "did not answer")
    return NetworkError(code, f"The broker {what} over {over} in the half of the time that was for it.",
                        f"Check that the broker runs, and that {over} is let through in both directions.")


def deadline_passed(total: float) -> NetworkError:
    """The user's deadline is over."""
    return NetworkError("deadline", f"The deadline of {total:g} s passed before the exchange was complete.",
                        "Raise the deadline, or look at the attempts for what took the time.")


async def run_session(target: Target, version: str, make_client: MakeClient, *, source: Source, limits: Limits, recorder: Recorder,
                      keep_socket: bool = False) -> Outcome:
    """One session, from opening the socket to closing it. Every network or protocol failure is in the outcome; LocalError too.

    keep_socket: leave the socket of a UDP session that was granted v6udpv4 open, in outcome.socket.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    outcome = Outcome(target, version)
    session = Session(outcome, limits, recorder)
    link: Link | None = None
    try:
        if started >= limits.deadline:
            raise deadline_passed(limits.total)
        if target.transport == "udp":
            link = UdpLink.open(target.address, target.broker.port, source, session)
        else:
            link = await TcpLink.open(target.address, target.broker.port, source, session, min(limits.connect, limits.deadline - started))
            if limits.heard is not None:
                limits.heard.set()
        outcome.local_address, outcome.local_port = link.local_address, link.local_port
        session.start(link, make_client(link.local_address))
        await session.done
        if keep_socket and outcome.error is None and outcome.granted is not None and outcome.granted.grant.mode == "v6udpv4":
            outcome.socket = link.detach()
        await link.close()
    except TspError as error:
        outcome.error = error
    finally:
        outcome.seconds = loop.time() - started
        if link is not None:
            link.abort()
    return outcome
