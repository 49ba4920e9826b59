# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""One session between an adapter (udp.py, tcp.py) and the protocol core: adds the context, the trace, and the log line at its end."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from .._tsp import states, status
from .._tsp.errors import TspError
from .._tsp.events import BrokerAddress
from .._tsp.lease import Grant
from .._tsp.request import TunnelRequest
from .._tsp.server import Refusal, ServerConfig, ServerSession, TspServer
from .policy import Context, Policy
from .pools import Address
from .trace import Trace

T = TypeVar("T")


class Session:
    """A TspServer and what belongs to it. It is also the Backend that its TspServer speaks to."""

    __slots__ = ("context", "policy", "reported", "seen", "server", "trace")

    def __init__(self, policy: Policy, config: ServerConfig, transport: str, peer: tuple[str, int], local: Address | None,
                 port: int) -> None:
        self.policy = policy
        self.context = Context(local, port)
        self.trace = Trace()
        self.server = TspServer(config, self, transport, peer)
        self.reported = False
        self.seen = 0.0
        """When the last datagram came, for the adapter."""

    def receive(self, data: bytes, payload: bytes, now: float) -> list[bytes]:
        """Give data (on UDP a datagram, whose text is `payload`) to the core. Returns what it answers."""
        server, context = self.server, self.context
        session, state, established, why = server.session, server.state, server.established, context.why
        context.why = ""
        server.receive(data, now)
        if server.session is not session and session.version:  # it began again, from the same port
            self._report(session, state, established, why)
            self.trace, self.reported, context.served = Trace(), False, False
        else:
            context.why = context.why or why
        self.trace.received(payload)
        return server.data_to_send(now)

    def confirm(self, packet: bytes, now: float) -> bool:
        """An IPv6 packet from this peer: whether it comes out of the tunnel just granted, which is then in force."""
        grant = self.server.session.grant
        if self.server.state != states.CONFIRMING or grant is None or grant.mode != "v6udpv4" or grant.client.ipv6 is None:
            return False
        return packet[8:24] == grant.client.ipv6.packed and self.server.confirm(now)

    def answered(self, payload: bytes) -> None:
        """Note what was sent (without the UDP header); a refusal is reported at once."""
        self.trace.answered(payload)
        if self.trace.refused is not None and self.server.session.transport == "udp":
            self.report()

    def report(self) -> None:
        """Write the line about the session, once. A failed one says what was said."""
        self._report(self.server.session, self.server.state, self.server.established, self.context.why)

    def _report(self, session: ServerSession, state: str, established: bool, why: str) -> None:
        if self.reported:
            return
        self.reported = True
        if not established and not self.policy.may_report():
            return
        trace, log = self.trace, self.policy.log
        # Who only looked at the offer, or was sent elsewhere, did not fail; who began to log in and has no tunnel did, perhaps by silence.
        redirected = trace.refused is not None and trace.refused > status.REDIRECT_BASE
        failed = not redirected and (
            trace.refused is not None or bool(session.auth_method) and not (established or self.context.served))
        values: dict[str, Any] = {
            "transport": session.transport, "peer": session.peer[0], "port": session.peer[1], "version": session.version or None,
            "mechanism": session.auth_method or None, "user": session.username,
            "asked": None if session.request is None else session.request.mode, "established": established}
        if failed:
            log.warning("session_failed", **values, status=trace.refused, state=state,
                        why=why or self._why(trace.refused, session.version), said=trace.lines())
        elif session.version and not session.auth_method and not redirected:
            log.info("session", **values, why="the client left after our offer, which perhaps lacks the mode or the login that it wants",
                     said=trace.lines())
        else:
            log.info("session", **values, why=why if redirected else None)

    def _why(self, refused: int | None, version: str) -> str | None:
        """The reason of what the core refused by itself."""
        if refused is None:
            return "the client went away or fell silent"
        if refused == status.UNSUPPORTED_VERSION:
            if version in self.policy.config.versions:
                return f"version {version} is older than TSP over UDP; the client may try again over TCP"
            spoken = ", ".join(self.policy.config.versions)
            return f"version {version or 'unreadable'} is not spoken here ({spoken}); the client may try again with an older one"
        if refused == status.INVALID_REQUEST:
            return "the client sent what cannot be understood"
        if refused == status.AUTHENTICATION_FAILED:
            return "the client asked for a login that was not offered"
        return None

    # ---- Backend ----

    def _ask(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except Refusal as no:
            self.context.why = no.text or status.phrase(no.status)
            raise
        except sqlite3.Error as exc:
            self._broken("store_failed", str(exc))
        except TspError as exc:
            self._broken("tunnel_failed", str(exc))
        except Exception:
            self._broken("defect", traceback.format_exc())
        raise Refusal(status.SERVER_SIDE_ERROR)

    def _broken(self, event: str, why: str) -> None:
        session = self.server.session
        self.context.why = event
        self.policy.log.error(event, peer=session.peer[0], port=session.peer[1], user=session.username, why=why)

    def capabilities(self, session: ServerSession) -> tuple[frozenset[str], frozenset[str]]:
        """See Backend."""
        tunnels, auths = self._ask(lambda: self.policy.capabilities(session, self.context))
        log = self.policy.log
        if log.debugging:
            log.debug("offered", transport=session.transport, peer=session.peer[0], port=session.peer[1], version=session.version,
                      modes=sorted(tunnels), auth=sorted(auths))
        return tunnels, auths

    def redirect(self, session: ServerSession, step: str) -> tuple[BrokerAddress, ...]:
        """See Backend."""
        brokers = self._ask(lambda: self.policy.redirect(session, step, self.context))
        if brokers:
            self.context.why = f"redirected at {step}, as configured"
        return brokers

    def lookup(self, username: str) -> Any:
        """See Backend."""
        return self._ask(lambda: self.policy.lookup(self.server.session, username))

    def authenticated(self, session: ServerSession) -> None:
        """See Backend."""

    def auth_failed(self, session: ServerSession) -> None:
        """See Backend."""
        self._ask(lambda: self.policy.auth_failed(session, self.context))

    def create(self, session: ServerSession, request: TunnelRequest, client_address: Address | None) -> Grant:
        """See Backend."""
        return self._ask(lambda: self.policy.create(session, request, client_address, self.context))

    def accept(self, session: ServerSession) -> None:
        """See Backend."""
        self._ask(lambda: self.policy.accept(session, self.context))

    def reject(self, session: ServerSession) -> None:
        """See Backend. Comes also when nobody is there to be refused."""
        try:
            self._ask(lambda: self.policy.reject(session, self.context))
        except Refusal:
            pass

    def info(self, session: ServerSession) -> Grant:
        """See Backend."""
        grant = self._ask(lambda: self.policy.info(session, self.context))
        self.context.served = True
        return grant

    def delete(self, session: ServerSession) -> None:
        """See Backend."""
        self._ask(lambda: self.policy.delete(session, self.context))
        self.context.served = True
