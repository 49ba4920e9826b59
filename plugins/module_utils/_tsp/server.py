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
    both:               call handle_timer(now) at next_timer(); forget the session when `closed`

`closed` only says that the signalling is over and may be forgotten. Whether a tunnel is in force says `established`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Callable, Protocol, Union

from .events import BrokerAddress
from .lease import Grant
from .request import TunnelRequest

Address = Union[IPv4Address, IPv6Address]


class Refusal(Exception):
    """A backend's no: a TSP status code and, where the standard phrase does not do, a short printable reason."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(f"{status} {text}".strip())
        self.status = status
        self.text = text


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
    TCP, which old clients must receive in two reads. grace: seconds after which a line without its end is taken as it is (TCP).
    max_messages: a session's limit of messages."""

    rng: Callable[[int], bytes] = field(repr=False)
    realm: str = "tunnelbroker"
    versions: tuple[str, ...] = ("2.0.2", "2.0.1", "2.0.0", "1.0.1", "1.0.0")
    dsa_key: Any = field(default=None, repr=False)
    idle_timeout: float = 30.0
    rspauth_gap: float = 0.005
    grace: float = 0.5
    max_messages: int = 64


def is_signalling(datagram: bytes) -> bool:
    """Whether a datagram on the broker's port is TSP text and not an IPv6 packet (first nibble F, tsp-protocol.md sections 7, 12 row 22).

    First nibble 0 counts as well: some clients number their messages from 1 (section 12 row 8).
    """
    return len(datagram) >= 8 and (datagram[0] >> 4) in (0xF, 0x0)


def stateless_reply(datagram: bytes) -> bytes | None:
    """The answer to an ECHO REQUEST datagram, which needs no session (tsp-protocol.md section 6); None for anything else."""
    raise NotImplementedError


class TspServer:
    """One session with one client. Times are monotonic seconds. `session` is the backend's view of it."""

    def __init__(self, config: ServerConfig, backend: Backend, transport: str, peer: tuple[str, int]) -> None:
        self.config = config
        self.backend = backend
        self.session = ServerSession(transport, peer)
        self.state = ""

    @property
    def closed(self) -> bool:
        """The session may be forgotten; TCP: send what data_to_send() still gives, then close."""
        raise NotImplementedError

    @property
    def established(self) -> bool:
        """A tunnel was granted and accepted in this session. A new VERSION on UDP starts afresh: False until the next accept."""
        raise NotImplementedError

    def receive(self, data: bytes, now: float) -> None:
        """What came from the client: UDP exactly one datagram, TCP any piece of the stream."""
        raise NotImplementedError

    def receive_eof(self, now: float) -> None:
        """TCP: the client closed its side."""
        raise NotImplementedError

    def data_to_send(self, now: float) -> list[bytes]:
        """Take what is to be sent now. UDP: datagrams. TCP: writes, each to be sent whole, with TCP_NODELAY."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When handle_timer() wants to be called at the latest; None: never."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Call at next_timer(); earlier calls do no harm."""
        raise NotImplementedError
