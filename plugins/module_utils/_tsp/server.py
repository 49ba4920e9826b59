# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The broker's half of one TSP session, sans-IO; the broker itself stands behind the `Backend` port.

Towards clients it is lenient, and what it sends is byte for byte what the three old client versions insist on (tsp-protocol.md
sections 1.5, 4.3, 12).

    UDP, per datagram:  if not is_signalling(data): it is an IPv6 packet
                        elif (reply := stateless_reply(data)) is not None: send it back
                        else: session = sessions.get(peer) or TspServer(config, backend, "udp", peer); session.receive(data, now)
    TCP, per connection: one TspServer; receive(), data_to_send() after each; close when `closed`
                        (connect() at the beginning makes an idle connection time out)
    both:               call handle_timer(now) at next_timer(); forget the session when `closed`

`closed` only says that the signalling is over and may be forgotten. Whether a tunnel is in force says `established`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Callable, Protocol

from . import capability, sasl, states, status, xml_write
from .errors import LocalError
from .events import BrokerAddress
from .framing import SASL, XML, Frame, FramingError, Reader
from .lease import Address, Grant
from .messages import Refusal, read_client
from .request import TunnelRequest
from .rudp import HEADER_SIZE, RudpServer

__all__ = ["Backend", "Refusal", "ServerConfig", "ServerSession", "TspServer", "is_signalling", "stateless_reply"]

SUCCESS = b"200 Success\r\n"

_PADDING = b"\0\r\n\t \x08"
_VERSION = re.compile(r"VERSION\s*=\s*([0-9]{1,3}(?:\.[0-9]{1,3}){1,3})\s*\Z", re.IGNORECASE)
_ECHO = "ECHO REQUEST"


@dataclass
class ServerSession:
    """What a backend may know of a session. peer is (address text, port) as the socket gave it.

    username: the name that the client gave, None when anonymous (or not yet known); it is proven only when `authenticated`.
    request: of the last create. grant: what create() gave. named_ipv4 / named_ipv6: the client addresses in the last create, delete or
    info, None where missing. data: for the backend's own use.
    """

    transport: str
    peer: tuple[str, int]
    version: str = ""
    auth_method: str = ""
    username: str | None = None
    authenticated: bool = False
    request: TunnelRequest | None = None
    grant: Grant | None = None
    named_ipv4: IPv4Address | None = None
    named_ipv6: IPv6Address | None = None
    data: Any = None


class Backend(Protocol):
    """The broker behind the protocol: synchronous, quick. Every method may raise Refusal; the client is then told its status."""

    def capabilities(self, session: ServerSession) -> tuple[frozenset[str], frozenset[str]]:
        """Upper-case tokens offered to this peer: ({"V6V4", "V6UDPV4", "V4V6"}, {"ANONYMOUS", "DIGEST-MD5", ...})."""

    def redirect(self, session: ServerSession, step: str) -> tuple[BrokerAddress, ...]:
        """Other brokers to send this client to, () to keep it. step: version | authenticate | create."""

    def lookup(self, username: str) -> Any:
        """The sasl.Account of that name, None when there is none."""

    def authenticated(self, session: ServerSession) -> None:
        """The client has proven to be session.username (None: anonymous)."""

    def auth_failed(self, session: ServerSession) -> None:
        """It has not. For counting; the client is told 300 in any case."""

    def create(self, session: ServerSession, request: TunnelRequest, client_address: Address | None) -> Grant:
        """Give a tunnel, provisional until accept(). client_address: the outer address that the client named (perhaps a private
        one behind NAT, perhaps loopback in tests), None when it named none; session.peer is what was seen."""

    def accept(self, session: ServerSession) -> None:
        """The client took session.grant: it is in force."""

    def reject(self, session: ServerSession) -> None:
        """The client refused session.grant, or vanished before it took it."""

    def info(self, session: ServerSession) -> Grant:
        """The tunnel that session.username (and session.named_*) has."""

    def delete(self, session: ServerSession) -> None:
        """Forget the tunnel that session.username (and session.named_*) has."""


@dataclass(frozen=True)
class ServerConfig:
    """rng(n): n random bytes. realm: for DIGEST-MD5. dsa_key: for PASSDSS (see passdss.py), None: cannot be used.
    idle_timeout: seconds without a complete message after which a session is closed. rspauth_gap: seconds between rspauth and 200 over
    TCP, which old clients must receive in two reads or hang; rspauth_gap_old: the same for a client that gave itself away as old by the
    NUL behind its AUTHENTICATE, long enough for a busy machine to do the first read. grace: seconds after which a line without its end
    is taken as it is (TCP).
    max_messages: a session's limit of messages."""

    rng: Callable[[int], bytes] = field(repr=False)
    realm: str = "tunnelbroker"
    versions: tuple[str, ...] = ("2.0.2", "2.0.1", "2.0.0", "1.0.1", "1.0.0")
    dsa_key: Any = field(default=None, repr=False)
    idle_timeout: float = 30.0
    rspauth_gap: float = 0.005
    rspauth_gap_old: float = 0.05
    grace: float = 0.5
    max_messages: int = 64


def is_signalling(datagram: bytes) -> bool:
    """Whether a datagram on the broker's port is TSP text and not an IPv6 packet (first nibble F, tsp-protocol.md sections 7, 12 row 22).

    First nibble 0 counts as well: some clients number their messages from 1 (section 12 row 8).
    """
    return len(datagram) >= 8 and (datagram[0] >> 4) in (0xF, 0x0)


def stateless_reply(datagram: bytes) -> bytes | None:
    """The answer to an ECHO REQUEST datagram, which needs no session (tsp-protocol.md section 6); None for anything else."""
    if datagram[HEADER_SIZE:HEADER_SIZE + 32].strip(_PADDING).upper() != b"ECHO REQUEST":
        return None
    return datagram[:HEADER_SIZE] + SUCCESS


class TspServer:
    """One session with one client. Times are monotonic seconds. `session` is the backend's view of it; a new VERSION makes a new one.

    `state` is a state of states.SERVER. No verb raises for what the client does; what a backend raises, other than Refusal, passes through.
    """

    def __init__(self, config: ServerConfig, backend: Backend, transport: str, peer: tuple[str, int]) -> None:
        self.config = config
        self.backend = backend
        self.session = ServerSession(transport, peer)
        self.state = states.HELLO
        self.established = False
        """A tunnel was granted and accepted in this session. A new VERSION on UDP starts afresh: False until the next accept."""
        self._udp = RudpServer() if transport == "udp" else None
        self._reader = Reader(_ignore, statuses=False)
        self._mechanism: sasl.ServerMechanism | None = None
        self._redirect_due = False
        self._old_client = False
        self._auths: frozenset[str] = frozenset()
        self._said: list[bytes] = []
        self._pending = b""
        self._pending_at: float | None = None
        self._grace: float | None = None
        self._idle: float | None = None
        self._messages = 0

    # The verbs.

    @property
    def closed(self) -> bool:
        """The session may be forgotten; TCP: send what data_to_send() still gives, then close."""
        return self.state == states.CLOSED

    def connect(self, now: float) -> None:
        """TCP: the connection stands; from now on it may become idle."""
        self._idle = now + self.config.idle_timeout

    def receive(self, data: bytes, now: float) -> None:
        """What came from the client: UDP exactly one datagram, TCP any piece of the stream."""
        if self.closed:
            return
        if self._udp is None:
            if self._idle is None:
                self.connect(now)
            self._old_client = self._old_client or b"\0" in data
            self._read(data, now, final=False)
            # Lines may lack their end. Of what is long, another piece may be on its way.
            if not self.closed and self._reader.pending and not self._reader.promises_more:
                self._grace = now + self.config.grace * (1 if self.state == states.HELLO else 6)
            else:
                self._grace = None
            return
        self._idle = now + self.config.idle_timeout  # by a copy too: old clients leave 16 s between the last ones (section 1.4)
        opens = data[HEADER_SIZE:HEADER_SIZE + 8].upper() == b"VERSION="
        text = self._udp.receive(data, now, opens=opens)
        if text is None:
            return
        if opens:
            self._mechanism = None  # a client that begins again in the middle of its authentication: this is no SASL message
        if self._pending and not text.strip(_PADDING):
            self._said.append(self._pending)
        self._pending = b""
        self._read(text, now, final=True)
        # Every datagram is answered, if only with the bare header (tsp-protocol.md section 1.3).
        self._udp.answer(b"".join(self._said))
        self._said = []

    def receive_eof(self, now: float) -> None:
        """TCP: the client closed its side."""
        if not self.closed:
            self._read(b"", now, final=True)
            self._close()

    def confirm(self, now: float) -> bool:
        """A packet came through the tunnel just granted: that says as much as an accept, which may have been lost on its way.

        Returns whether a tunnel is in force.
        """
        if self.state == states.CONFIRMING:
            try:
                self._accept()
            except Refusal:
                self._go("refuse")
            self._idle = now + self.config.idle_timeout
        return self.established

    def data_to_send(self, now: float) -> list[bytes]:
        """Take what is to be sent now. UDP: datagrams. TCP: writes, each to be sent whole, with TCP_NODELAY."""
        if self._udp is not None:
            return self._udp.data_to_send()
        said, self._said = self._said, []
        return said

    def next_timer(self) -> float | None:
        """When handle_timer() wants to be called at the latest; None: never."""
        if self.closed:
            return None
        return min((at for at in (self._pending_at, self._grace, self._idle) if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Call at next_timer(); earlier calls do no harm."""
        if self.closed:
            return
        if self._pending_at is not None and now >= self._pending_at:
            self._say_pending()
        if self._grace is not None and now >= self._grace:
            self._grace = None
            self._read(b"", now, final=True)
        if self._idle is not None and now >= self._idle:
            self._close()

    # Bytes to messages.

    def _read(self, data: bytes, now: float, *, final: bool) -> None:
        try:
            self._reader.feed(data)
            while self.state not in (states.FINISHED, states.CLOSED) or self._udp is not None:
                split = self._mechanism.split if self.state == states.AUTHENTICATING and self._mechanism is not None else None
                frame = self._reader.next(split=split, final=final)
                if frame is None:
                    break
                self._messages += 1
                if self._messages > self.config.max_messages:
                    raise FramingError("too many messages")
                # Only a whole message counts as life: trickled bytes do not keep a connection.
                self._idle = now + self.config.idle_timeout
                self._handle(frame, now)
        except FramingError:
            self._say(xml_write.status_line(status.INVALID_REQUEST), headed=self._in_xml())
            self._close()
        if final:
            self._reader.clear()
        if self.state == states.FINISHED and self._udp is None:
            self._close()

    def _in_xml(self) -> bool:
        """Whether an answer in this state carries Content-length."""
        return self.state in (states.READY, states.CONFIRMING, states.ESTABLISHED)

    def _handle(self, frame: Frame, now: float) -> None:
        if self._pending:
            self._say_pending()
        words = frame.text.split()
        word = words[0].upper() if words else ""
        try:
            if frame.kind == SASL:
                self._sasl(frame.body, now)
            elif frame.kind == XML:
                self._xml(frame.body)
            elif word.startswith("VERSION"):
                self._version(frame.text)
            elif word == "AUTHENTICATE":
                self._authenticate(words[1].upper() if len(words) > 1 else "", now)
            elif frame.text.upper() == _ECHO:
                self._said.append(SUCCESS)
            else:
                raise Refusal(status.INVALID_REQUEST)
        except _OutOfOrder:
            self._say(xml_write.status_line(status.SERVER_SIDE_ERROR, "Out of order"), headed=frame.kind == XML)
        except Refusal as no:
            self._say(xml_write.status_line(no.status, no.text), headed=frame.kind == XML)
            if states.knows(states.SERVER, self.state, "refuse"):
                self._go("refuse")

    def _due(self, event: str) -> None:
        """Refuse a message that may not come now; the state stays."""
        if not states.knows(states.SERVER, self.state, event):
            raise _OutOfOrder

    # Messages to states.

    def _version(self, text: str) -> None:
        self._abandon()
        self._go("version")
        match = _VERSION.match(text)
        version = match[1] if match else ""
        self.session = session = ServerSession(self.session.transport, self.session.peer, version)
        self.established = False
        self._mechanism = None
        self._redirect_due = False
        if self._udp is not None:
            self._messages = 1  # an agent negotiates anew from the same port, again and again
        # Version 1 is older than TSP over UDP (tsp-protocol.md section 2).
        if version not in self.config.versions or (version.startswith("1.") and self._udp is not None):
            raise Refusal(status.UNSUPPORTED_VERSION)
        if self._redirect("version"):
            return
        tunnels, self._auths = self.backend.capabilities(session)
        self._said.append(capability.build(tunnels, self._auths))
        self._go("offer")

    def _authenticate(self, name: str, now: float) -> None:
        self._due("authenticate")
        if name not in self._auths:
            raise Refusal(status.AUTHENTICATION_FAILED)
        self.session.auth_method = name.lower()
        config = self.config
        try:
            self._mechanism = sasl.server_mechanism(name, lookup=self.backend.lookup, realm=config.realm, rng=config.rng,
                                                    version=self.session.version, dsa_key=config.dsa_key)
        except LocalError:
            raise Refusal(status.SERVER_SIDE_ERROR, "Mechanism unavailable") from None
        start = self._mechanism.start()
        if (start or self._mechanism.immediate) and self._redirect("authenticate"):
            return
        self._go("authenticate")
        if self._mechanism.immediate:
            self._sasl(b"", now)
        elif start:
            self._said.append(start)
        else:
            # An old client reads nothing before its next message (tsp-protocol.md sections 3.3, 3.5), and would overlook a redirect now.
            self._redirect_due = True

    def _sasl(self, message: bytes, now: float) -> None:
        if self._mechanism is None:
            raise AssertionError
        if self._redirect_due:
            self._redirect_due = False
            if self._redirect("authenticate"):
                return
        step = self._mechanism.step(message)
        session = self.session
        session.username = self._mechanism.username
        if step.verdict is None:
            self._go("sasl")
            if step.reply:
                self._said.append(step.reply)
            return
        if not step.verdict:
            self.backend.auth_failed(session)
            raise Refusal(status.AUTHENTICATION_FAILED)
        session.authenticated = True
        try:
            self.backend.authenticated(session)
        except Refusal:
            session.authenticated = False
            raise
        self._go("verified")
        self._mechanism = None
        if step.reply:
            # Old clients need rspauth and 200 in two reads: over UDP 200 answers their next datagram, over TCP it waits a little
            # (tsp-protocol.md section 12 row 5).
            self._said.append(step.reply)
            self._pending = SUCCESS
            gap = self.config.rspauth_gap_old if self._old_client else self.config.rspauth_gap
            self._pending_at = now + gap if self._udp is None else None
        else:
            self._said.append(SUCCESS)

    def _xml(self, body: bytes) -> None:
        if not self._in_xml():
            raise _OutOfOrder
        message = read_client(body)
        action = message.action
        self._due(action)
        session = self.session
        if action in ("create", "info", "delete"):
            session.named_ipv4, session.named_ipv6 = message.ipv4, message.ipv6
        if action == "create":
            if message.request is None:
                raise AssertionError
            session.request = request = message.request
            if self._redirect("create", headed=True):
                return
            session.grant = grant = self.backend.create(session, request, message.ipv6 if request.mode == "v4v6" else message.ipv4)
            self._go("create")
            if session.version.startswith("1."):
                self._accept()  # version 1 has no accept (tsp-protocol.md section 2)
            self._said.append(xml_write.info(grant))
        elif action == "accept":
            self._accept()
        elif action == "reject":
            self._abandon()
            self._go("reject")
        elif action == "info":
            self._said.append(xml_write.info(self.backend.info(session)))
            self._go("info")
        else:
            self.backend.delete(session)
            self._said.append(xml_write.with_length(SUCCESS))
            self._go("delete")
            self.established = False

    def _accept(self) -> None:
        if not self.established:
            self.backend.accept(self.session)
        self._go("accept")
        self.established = True

    def _redirect(self, step: str, *, headed: bool = False) -> bool:
        """Send the client elsewhere if the backend says so."""
        brokers = self.backend.redirect(self.session, step)
        if not brokers:
            return False
        self._say(xml_write.redirection(brokers), headed=headed)
        self._go("redirect")
        return True

    # Small things.

    def _say(self, text: bytes, *, headed: bool) -> None:
        """Old clients need Content-length on every answer to XML, refusals included (tsp-protocol.md section 12 row 2)."""
        self._said.append(xml_write.with_length(text) if headed else text)

    def _say_pending(self) -> None:
        if self._udp is None:
            self._said.append(self._pending)
        self._pending = b""
        self._pending_at = None

    def _go(self, event: str) -> None:
        self.state = states.follow(states.SERVER, self.state, event)

    def _abandon(self) -> None:
        """Give back what was granted and not accepted."""
        if self.state == states.CONFIRMING:
            self.backend.reject(self.session)
            self.session.grant = None

    def _close(self) -> None:
        if not self.closed:
            self._abandon()
            self._go("close")


class _OutOfOrder(Exception):
    """A message that may not come in this state."""


def _ignore(_quirk: str) -> None:
    """A broker does not count what clients do differently."""
