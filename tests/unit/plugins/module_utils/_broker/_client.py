# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A blocking client for tests: the project's client core over one plain socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import events
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import ClientConfig, Credentials, TspClient
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Grant
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.rudp import RudpConfig

PASSWORDS = {"alice": "secret1", "bob": "secret2", "fleet": "secret3", "gone": "secret4"}
LAST_WORDS = (events.Completed, events.Failed, events.Redirected)


@dataclass
class Outcome:
    """What came of a session. socket: open still."""

    socket: socket.socket
    events: list[Any] = field(default_factory=list)

    @property
    def grant(self) -> Grant:
        assert isinstance(self.events[-1], events.Completed), self.events[-1]
        return next(e.grant for e in self.events if isinstance(e, events.Granted))

    @property
    def error(self) -> RemoteError:
        assert isinstance(self.events[-1], events.Failed), self.events[-1]
        return self.events[-1].error

    @property
    def local(self) -> tuple[str, int]:
        return self.socket.getsockname()[:2]


@contextmanager
def asking(host: str, port: int, *, user: str | None = "alice", password: str | None = None, method: str | None = None,
           transport: str = "udp", action: str = "create", version: str = "2.0.2", source: tuple[str, int] | None = None,
           tcp_close: bool = True, **request: Any) -> Iterator[Outcome]:
    """Run one session and keep its socket for the body. user None: anonymous. request: fields of TunnelRequest."""
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    with one:
        if source is not None:
            one.bind(source)
        one.settimeout(30)
        one.connect((host, port))
        client = TspClient(ClientConfig(
            transport=transport, server=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", version=version, action=action,
            request=TunnelRequest(**request), local_address=ip_address(one.getsockname()[0]),
            peer_is_loopback=ip_address(host).is_loopback, auth_method=method or ("anonymous" if user is None else "digest-md5"),
            credentials=Credentials(user, password if password is not None or user is None else PASSWORDS.get(user, "")),
            allow_plaintext=True, strict=False, verify_key=lambda _key: None, rudp=RudpConfig(), rng=os.urandom))
        outcome = Outcome(one)
        client.connect(time.monotonic())
        while True:
            for data in client.data_to_send(time.monotonic()):
                one.send(data)
            while (event := client.next_event()) is not None:
                outcome.events.append(event)
            if outcome.events and isinstance(outcome.events[-1], LAST_WORDS):
                break
            data = one.recv(8192)
            if data or transport == "udp":
                client.receive(data, time.monotonic())
            else:
                client.receive_eof(time.monotonic())
        for data in client.data_to_send(time.monotonic()):
            one.send(data)
        if transport == "tcp" and tcp_close:
            one.shutdown(socket.SHUT_WR)
            while one.recv(4096):
                pass
        yield outcome


def grant(broker: Any, **arguments: Any) -> Grant:
    """The grant of a session with a RunningBroker; the socket is closed."""
    host = broker.host6 if arguments.pop("over6", False) else broker.host
    with asking(host, broker.port, **arguments) as outcome:
        return outcome.grant


def error(broker: Any, **arguments: Any) -> RemoteError:
    """The error of one."""
    host = broker.host6 if arguments.pop("over6", False) else broker.host
    with asking(host, broker.port, **arguments) as outcome:
        return outcome.error
