# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client and a broker joined in memory: a fake clock, and a network that loses, repeats, delays and reorders by a seed."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Callable

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import rudp
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import ClientConfig, Credentials, TspClient
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import BrokerAddress, Completed, Event, Failed, Redirected
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Endpoint, Grant, Keepalive
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.messages import Refusal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import ServerConfig, ServerSession, TspServer
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._accounts import FakeAccount

CLIENT_V4 = IPv4Address("192.0.2.1")
SERVER_V4 = IPv4Address("192.0.2.254")
PEER = ("192.0.2.1", 40000)


def seeded(seed: int = 0) -> Callable[[int], bytes]:
    """A source of bytes that repeats itself with the seed."""
    source = random.Random(seed)
    return lambda n: bytes(source.getrandbits(8) for _again in range(n))


def a_grant(mode: str = "v6v4", **changes: Any) -> Grant:
    """A tunnel like the ones in the recorded sessions."""
    if mode == "v4v6":
        grant = Grant(mode, Endpoint(IPv4Address("198.51.100.2"), IPv6Address("2001:db8:1::1")),
                      Endpoint(IPv4Address("198.51.100.1"), IPv6Address("2001:db8:1::2")),
                      keepalive=Keepalive(30, IPv4Address("198.51.100.1")), lifetime=604800)
    else:
        grant = Grant(mode, Endpoint(CLIENT_V4, IPv6Address("2001:db8:4000::5")), Endpoint(SERVER_V4, IPv6Address("2001:db8:4000::4")),
                      keepalive=Keepalive(30, IPv6Address("2001:db8:4000::4")), lifetime=604800)
    return replace(grant, **changes)


class FakeBackend:
    """A broker with one account, which writes down what it is asked (`calls`) and can be told to refuse or redirect."""

    def __init__(self, *, tunnels: str = "V6V4 V6UDPV4 V4V6", auths: str = "ANONYMOUS PLAIN DIGEST-MD5 PASSDSS-3DES-1") -> None:
        self.offer = frozenset(tunnels.split()), frozenset(auths.split())
        self.accounts = {"alice": FakeAccount("alice", "secret1")}
        self.calls: list[str] = []
        self.refusals: dict[str, Refusal] = {}
        self.redirects: dict[str, tuple[BrokerAddress, ...]] = {}
        self.grant: Grant | None = None
        self.request: TunnelRequest | None = None
        self.client_address: Any = None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.refusals:
            raise self.refusals[name]

    def capabilities(self, session: ServerSession) -> tuple[frozenset[str], frozenset[str]]:
        self._call("capabilities")
        return self.offer

    def redirect(self, session: ServerSession, step: str) -> tuple[BrokerAddress, ...]:
        return self.redirects.get(step, ())

    def lookup(self, username: str) -> FakeAccount | None:
        return self.accounts.get(username)

    def authenticated(self, session: ServerSession) -> None:
        self._call("authenticated")

    def auth_failed(self, session: ServerSession) -> None:
        self._call("auth_failed")

    def create(self, session: ServerSession, request: TunnelRequest, client_address: Any) -> Grant:
        self.request, self.client_address = request, client_address
        self._call("create")
        if self.grant is not None:
            return self.grant
        grant = a_grant({"v6anyv4": "v6v4"}.get(request.mode, request.mode))
        if request.host_type == "router" and request.mode != "v4v6":
            grant = replace(grant, prefix=ip_network(f"2001:db8:4100::/{request.wanted_prefix_length}"), dns_servers=request.dns_servers)
        return grant

    def accept(self, session: ServerSession) -> None:
        self._call("accept")

    def reject(self, session: ServerSession) -> None:
        self._call("reject")

    def info(self, session: ServerSession) -> Grant:
        self._call("info")
        return self.grant or a_grant()

    def delete(self, session: ServerSession) -> None:
        self._call("delete")


@dataclass(frozen=True)
class Network:
    """What happens to a datagram. delay: seconds one way, uniformly between the two. TCP: only the delay, in order, and `piece` bytes
    at a time (0: whole writes)."""

    loss: float = 0.0
    duplication: float = 0.0
    delay: tuple[float, float] = (0.0005, 0.0005)
    piece: int = 0
    seed: int = 0
    drop: Callable[[str, int], bool] = field(default=lambda _side, _number: False)
    """(side that sends, number of its datagram from 0) -> lose it."""


def client_config(transport: str = "udp", **changes: Any) -> ClientConfig:
    """A configuration that suits FakeBackend; username and password go into the credentials."""
    username, password = changes.pop("username", "alice"), changes.pop("password", "secret1")
    values: dict[str, Any] = {
        "transport": transport, "server": "192.0.2.254", "request": TunnelRequest(mode="v6anyv4"), "local_address": CLIENT_V4,
        "rng": seeded(1), "auth_method": "anonymous", "credentials": Credentials(username, password), "allow_plaintext": True,
        "verify_key": lambda _blob: None}
    values.update(changes)
    return ClientConfig(**values)


class ConnectionPair:
    """Runs one session. Everything that a test may ask is an attribute.

    events: the client's. sent: side -> [(time, bytes)] as handed to the network. steps: how often anything at all happened.
    """

    def __init__(self, config: ClientConfig, backend: FakeBackend | None = None, network: Network | None = None,
                 server_config: ServerConfig | None = None) -> None:
        self.network = network or Network()
        self.backend = backend or FakeBackend()
        self.client = TspClient(config)
        self.server = TspServer(server_config or ServerConfig(rng=seeded(2)), self.backend, config.transport, PEER)
        self.now = 1000.0
        self.events: list[Event] = []
        self.sent: dict[str, list[tuple[float, bytes]]] = {"client": [], "server": []}
        self.rtos: list[float] = []
        self.steps = 0
        self._random = random.Random(self.network.seed)
        self._wire: list[tuple[float, int, str, bytes]] = []
        self._order = 0
        self._arrival = {"client": 0.0, "server": 0.0}

    @property
    def last(self) -> Event:
        """The client's last word so far."""
        return self.events[-1]

    def run(self, seconds: float = 400.0, until: Callable[[], bool] | None = None) -> ConnectionPair:
        """Run until both are silent for good, `until` says so, or `seconds` of fake time have passed."""
        end = self.now + seconds
        if not self.steps:
            self.client.connect(self.now)
        self._collect()
        while not (until is not None and until()):
            due = [at for at in (self.client.next_timer(), self.server.next_timer()) if at is not None]
            due += [self._wire[0][0]] if self._wire else []
            if not due or min(due) > end:
                break
            self.steps += 1
            assert self.steps < 20000, "a busy loop"
            self.now = max(self.now, min(due))
            self._step()
            self._collect()
        return self

    def _step(self) -> None:
        if self._wire and self._wire[0][0] <= self.now:
            _at, _order, to, data = heapq.heappop(self._wire)
            (self.client if to == "client" else self.server).receive(data, self.now)
            return
        for side in (self.client, self.server):
            at = side.next_timer()
            if at is not None and at <= self.now:
                side.handle_timer(self.now)
                again = side.next_timer()
                assert again is None or again > self.now, "a timer that does not move"

    def _collect(self) -> None:
        for name, side, other in (("client", self.client, "server"), ("server", self.server, "client")):
            for data in side.data_to_send(self.now):
                self.sent[name].append((self.now, data))
                if side.config is self.client.config and self.client.config.transport == "tcp" or self.server._udp is None:
                    self._stream(other, data)
                else:
                    self._datagram(name, other, data)
        while (event := self.client.next_event()) is not None:
            self.events.append(event)
        if self.client._udp is not None:
            self.rtos.append(self.client._udp.rto)

    def _stream(self, to: str, data: bytes) -> None:
        piece = self.network.piece or len(data)
        for at in range(0, len(data), piece):
            self._arrival[to] = max(self._arrival[to] + 1e-6, self.now + self._delay())
            self._put(self._arrival[to], to, data[at:at + piece])

    def _datagram(self, name: str, to: str, data: bytes) -> None:
        if self.network.drop(name, len(self.sent[name]) - 1) or self._random.random() < self.network.loss:
            return
        for _copy in range(2 if self._random.random() < self.network.duplication else 1):
            self._put(self.now + self._delay(), to, data)

    def _delay(self) -> float:
        low, high = self.network.delay
        return low + (high - low) * self._random.random()

    def _put(self, at: float, to: str, data: bytes) -> None:
        self._order += 1
        heapq.heappush(self._wire, (at, self._order, to, data))

    # What tests ask.

    def texts(self, side: str) -> list[bytes]:
        """What a side said, without RUDP headers."""
        cut = rudp.HEADER_SIZE if self.client.config.transport == "udp" else 0
        return [data[cut:] for _at, data in self.sent[side]]

    def times(self, side: str) -> list[float]:
        """When a side sent, in seconds since its first."""
        first = self.sent[side][0][0]
        return [round(at - first, 3) for at, _data in self.sent[side]]

    def check_last_word(self) -> None:
        """There is exactly one last word, and it is the last."""
        last = [event for event in self.events if isinstance(event, (Completed, Failed, Redirected))]
        assert len(last) == 1 and last[0] is self.events[-1], self.events
