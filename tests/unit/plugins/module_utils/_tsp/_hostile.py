# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Both sides of a session, stopped at any point, and hostile bytes to give them: shared by the property tests and tests/fuzz."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import events, sasl, states
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import ClientConfig, Credentials, TspClient
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, NetworkError, RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.quirks import QUIRKS
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import ServerConfig, TspServer
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._accounts import FakeAccount, counting_rng, lookup_of
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import FakeBackend
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._recordings import TABLES, load, names

TRANSPORTS = ("udp", "tcp")
METHODS = ("anonymous", "plain", "digest-md5") + (("passdss-3des-1",) if sasl.have_passdss() else ())
LAST_WORDS = (events.Completed, events.Failed, events.Redirected)
EVENTS = (events.CapabilitiesReceived, events.Authenticated, events.Granted, events.Deleted, *LAST_WORDS)
PORT = 40000

_key: list[Any] = []


def dsa_key() -> Any:
    """One key for the whole run, made when first needed; None without the package cryptography."""
    if not _key:
        if sasl.have_passdss():
            from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.dsakey import generate_dsa_key
            _key.append(generate_dsa_key())
        else:
            _key.append(None)
    return _key[0]


def corpus() -> list[bytes]:
    """Every distinct text that was ever recorded."""
    found: dict[bytes, None] = {}
    for name in names():
        if name not in TABLES:
            for session in load(name).sessions():
                for message in session.sent("C") + session.sent("S"):
                    found[message.text] = None
    return sorted(found)


def halves(name: str, steps: int) -> tuple[Any, Any]:
    """Client and broker of one mechanism after some good messages."""
    client = sasl.client_mechanism(name, username="alice", password="secret1", server="b.example", rng=counting_rng(),
                                   verify_key=lambda blob: None)
    server = sasl.server_mechanism(name, lookup=lookup_of(FakeAccount()), realm="broker.example", rng=counting_rng(50),
                                   dsa_key=dsa_key() if name == sasl.PASSDSS else None)
    message, to_server = client.first() or server.start(), bool(client.first())
    for _step in range(steps):
        if message:
            message = server.step(message).reply if to_server else client.step(message)
            to_server = not to_server
    return client, server


class Both:
    """A client and a broker of ours over a perfect network, delivered by hand, message by message."""

    def __init__(self, transport: str = "udp", method: str = "anonymous", action: str = "create", host_type: str = "host") -> None:
        self.now = 100.0
        self.transport = transport
        self.backend = FakeBackend()
        needs_key = method == "passdss-3des-1"
        self.server = TspServer(ServerConfig(rng=counting_rng(1000), realm="broker.example", dsa_key=dsa_key() if needs_key else None),
                                self.backend, transport, ("192.0.2.1", PORT))
        self.client = TspClient(ClientConfig(
            transport=transport, server="192.0.2.254", request=TunnelRequest(mode="v6v4", host_type=host_type), action=action,
            local_address=IPv4Address("192.0.2.1"), rng=counting_rng(), auth_method=method,
            credentials=Credentials("alice", "secret1"), verify_key=lambda blob: None))
        self.events: list[Any] = []
        self.to_server: list[bytes] = []
        self.to_client: list[bytes] = []

    def start(self) -> Both:
        if self.transport == "tcp":
            self.server.connect(self.now)
        self.client.connect(self.now)
        self.collect()
        return self

    def collect(self) -> None:
        self.to_server += self.client.data_to_send(self.now)
        self.to_client += self.server.data_to_send(self.now)
        while (event := self.client.next_event()) is not None:
            self.events.append(event)

    def deliver(self, messages: int) -> Both:
        """Deliver up to `messages` messages, in whatever direction they go."""
        for _number in range(messages):
            if self.to_server:
                self.server.receive(self.to_server.pop(0), self.now)
            elif self.to_client:
                self.client.receive(self.to_client.pop(0), self.now)
            else:
                timer = self.server.next_timer()
                if timer is None or timer > self.now + 0.1:
                    break
                self.now = timer
                self.server.handle_timer(self.now)
            self.collect()
        return self


def wrap_for(both: Both, side: str) -> Callable[[bytes], bytes]:
    """How a hostile text gets its UDP header: the number that `side` will look at, so that it is read and not ignored."""
    if both.transport == "tcp":
        return lambda text: text

    def wrap(text: bytes) -> bytes:
        if side == "client" and both.client._udp is not None:
            return both.client._udp._sequence.to_bytes(4, "big") + bytes(4) + text
        wrap.number += 1  # type: ignore[attr-defined]
        return (0xF0000000 + wrap.number).to_bytes(4, "big") + bytes(4) + text  # type: ignore[attr-defined]

    wrap.number = 0x300  # type: ignore[attr-defined]
    return wrap


def attack_client(both: Both, texts: list[bytes], piece: int = 0) -> list[Any]:
    """Give `texts` to the client and let its time pass. Returns its events and checks what must always hold."""
    wrap = wrap_for(both, "client")
    client = both.client
    for text in texts:
        data = wrap(text)
        for at in range(0, len(data), piece or len(data) or 1):
            client.receive(data[at:at + (piece or len(data))], both.now)
            both.collect()
    steps = 0
    while (timer := client.next_timer()) is not None and steps < 60:
        steps += 1
        both.now = max(both.now, timer)
        client.handle_timer(both.now)
        again = client.next_timer()
        assert again is None or again > both.now, "a timer that does not move is a busy loop"
        both.collect()
    assert steps < 60, "the client does not end"
    if not client.closed:
        client.receive_eof(both.now)
        both.collect()
    check_client(both)
    return both.events


def check_client(both: Both) -> None:
    """Invariants of a client, whatever it was given."""
    client = both.client
    assert client.state in states.CLIENT
    assert all(isinstance(event, EVENTS) for event in both.events)
    last = [event for event in both.events if isinstance(event, LAST_WORDS)]
    assert len(last) <= 1 and (not last or both.events[-1] is last[0]), "exactly one last word, and it is the last"
    assert bool(last) is client.closed
    assert set(client.quirks) <= set(QUIRKS) and all(count > 0 for count in client.quirks.values())
    if last and isinstance(last[0], events.Failed):
        error = last[0].error
        assert isinstance(error, (RemoteError, NetworkError, LocalError)) and error.code and error.message.isprintable()
        assert "secret1" not in str(error.to_dict()) + repr(error) and error.code != "internal"


def attack_server(both: Both, texts: list[bytes], piece: int = 0) -> list[bytes]:
    """Give `texts` to the broker. Returns what it said and checks what must always hold."""
    wrap = wrap_for(both, "server")
    server, said = both.server, []
    for text in texts:
        data = wrap(text)
        for at in range(0, len(data), piece or len(data) or 1):
            open_before = not server.closed
            server.receive(data[at:at + (piece or len(data))], both.now)
            answers = server.data_to_send(both.now)
            if both.transport == "udp" and open_before:
                assert len(answers) == 1 and answers[0][:8] == data[:8], "each datagram gets exactly one answer"
            said += answers
    for _step in range(20):
        timer = server.next_timer()
        if timer is None:
            break
        both.now = max(both.now, timer)
        server.handle_timer(both.now)
        again = server.next_timer()
        assert again is None or again > both.now, "a timer that does not move is a busy loop"
        said += server.data_to_send(both.now)
    assert server.closed, "an idle session ends"
    assert server.state in states.SERVER
    for answer in said:
        text = answer[8:] if both.transport == "udp" else answer
        assert b"\0" not in text and (not text or text.endswith(b"\r\n"))
    return said
