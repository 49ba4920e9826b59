# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The client's half of one TSP session, sans-IO: bytes and the time come in, bytes and events go out.

One `TspClient` is one session over one connected socket (RFC 5572 section 4; tsp-protocol.md sections 1-6). What to do next after a
failure (another transport, version or broker) is the policy of `_exchange`, not of this file.

    client = TspClient(config)
    client.connect(now)
    loop:
        for data in client.data_to_send(now): send it       # UDP: one datagram each; TCP: one write each
        while (event := client.next_event()) is not None: look at it
        wait for bytes or for client.next_timer()
        client.receive(data, now) | client.receive_eof(now) | client.handle_timer(now)

Events, in order: CapabilitiesReceived, Authenticated, Granted or Deleted where the action has them, then exactly one of the
last words Completed, Failed, Redirected. `Granted` is in force only with the `Completed` behind it: on UDP a broker may still refuse
our accept. After a last word call data_to_send() once more (an accept or a reject may wait there), then let go of the socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Callable

from .events import Event
from .lease import Grant
from .request import TunnelRequest
from .rudp import RudpConfig

ACTIONS = ("create", "delete", "info", "capabilities")


@dataclass(frozen=True)
class Credentials:
    """Who asks. None, None is anonymous. The password never shows in a repr."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ClientConfig:
    """What one session needs to know.

    transport: udp | tcp. server: host[:port] exactly as configured (it is hashed by DIGEST-MD5). local_address: of our socket, fills
    the client address where the request names none. rng(n) gives n random bytes. version: 2.0.2 | 2.0.1 | 2.0.0 | 1.0.1 | ...
    action: create | delete | info | capabilities. grant: the tunnel meant by delete and info, where it is known.
    auth_method: any | anonymous | plain | digest-md5 | passdss-3des-1; `any` uses PLAIN only with allow_plaintext.
    verify_key(blob): called with the broker's PASSDSS key, raises RemoteError to refuse it; None: PASSDSS cannot be used.
    peer_is_loopback: the broker was reached over loopback, so loopback endpoints are allowed in its answer.
    strict: a prefix of another length than asked is refused instead of warned about.
    reply_timeout: seconds that a broker may take for one whole answer over TCP, trickled bytes or not.
    grace: seconds of silence over TCP after which an answer without its end is taken as it is.
    """

    transport: str
    server: str
    request: TunnelRequest
    local_address: IPv4Address | IPv6Address
    rng: Callable[[int], bytes] = field(repr=False)
    version: str = "2.0.2"
    action: str = "create"
    grant: Grant | None = None
    auth_method: str = "any"
    credentials: Credentials = Credentials()
    allow_plaintext: bool = False
    verify_key: Callable[[bytes], None] | None = field(default=None, repr=False)
    peer_is_loopback: bool = False
    strict: bool = False
    rudp: RudpConfig = RudpConfig()
    reply_timeout: float = 30.0
    grace: float = 2.0


class TspClient:
    """One session. Times are monotonic seconds; none of the verbs blocks, none raises for what the broker does.

    `quirks` counts the tolerances that were needed, by name (quirks.py explains each). `state` is a state of states.CLIENT.
    Raises LocalError at construction when the configuration contradicts itself.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.quirks: dict[str, int] = {}
        self.state = ""

    @property
    def closed(self) -> bool:
        """Whether the last word was said; everything received from now on is ignored."""
        raise NotImplementedError

    def connect(self, now: float) -> None:
        """Start the session: the VERSION line becomes ready to send. Call once, when the socket is connected."""
        raise NotImplementedError

    def receive(self, data: bytes, now: float) -> None:
        """What came from the broker: UDP exactly one datagram, TCP any piece of the stream."""
        raise NotImplementedError

    def receive_eof(self, now: float) -> None:
        """TCP: the broker closed its side."""
        raise NotImplementedError

    def data_to_send(self, now: float) -> list[bytes]:
        """Take what is to be sent now. UDP: datagrams. TCP: writes (send each whole, with TCP_NODELAY)."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When handle_timer() wants to be called at the latest; None: never."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Call at next_timer(); earlier calls do no harm."""
        raise NotImplementedError

    def next_event(self) -> Event | None:
        """Take the oldest event; None: no more at the moment."""
        raise NotImplementedError
