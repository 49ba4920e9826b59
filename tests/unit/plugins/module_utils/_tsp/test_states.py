# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state tables: their own rules hold, the code uses them, and the diagram shows them."""

from __future__ import annotations

import re
from functools import lru_cache

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import client, dsakey, server, states, xml_write
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import BrokerAddress
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.messages import Refusal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import ServerConfig, TspServer
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import (
    CLIENT_V4,
    ConnectionPair,
    FakeBackend,
    Network,
    a_grant,
    client_config,
    seeded,
)
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._script import CAPABILITY, INFO, LIST, SUCCESS, Script

TABLES = [(states.CLIENT, client), (states.SERVER, server)]


def reachable(table):
    found, todo = set(), [next(iter(table))]
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            todo += table[state].values()
    return found


@pytest.mark.parametrize("table, _module", TABLES)
def test_every_state_can_be_reached_and_left(table, _module):
    assert reachable(table) == set(table)
    for state in table:
        assert any(states.is_final(table, end) for end in reachable({state: table[state], **table})), state


def walked(monkeypatch):
    """The arrows that a handful of sessions take: (table, state, event)."""
    seen = set()
    follow = states.follow

    def note(table, state, event):
        seen.add((id(table), state, event))
        return follow(table, state, event)

    monkeypatch.setattr(states, "follow", note)
    brokers = {step: (BrokerAddress("ipv4", "192.0.2.9"),) for step in ("version", "authenticate", "create")}
    for transport in ("udp", "tcp"):
        for action in ("create", "info", "delete", "capabilities"):
            ConnectionPair(client_config(transport, auth_method="digest-md5", action=action)).run(100)
        for step, entries in brokers.items():
            backend = FakeBackend()
            backend.redirects = {step: entries}
            for method in ("digest-md5", "plain"):
                ConnectionPair(client_config(transport, auth_method=method), backend).run(100)
        for call in ("capabilities", "authenticated", "create", "info", "delete", "accept"):
            backend = FakeBackend()
            backend.refusals = {call: Refusal(310)}
            ConnectionPair(client_config(transport, action=call if call in ("info", "delete") else "create"), backend).run(100)
        for username in ("alice", "mallory"):
            ConnectionPair(client_config(transport, auth_method="passdss-3des-1", username=username), None, None, _with_key()).run(100)
        backend = FakeBackend(auths="PLAIN")
        ConnectionPair(client_config(transport), backend).run(100)
        backend = FakeBackend()
        backend.grant = a_grant("v4v6")
        ConnectionPair(client_config(transport), backend).run(100)
    lost = Network(drop=lambda side, number: side == "server" and number > 2)
    ConnectionPair(client_config("udp"), None, lost).run(100)
    refused = ServerConfig(rng=seeded(1), versions=("1.0.1",))
    ConnectionPair(client_config("udp"), None, None, refused).run(100)
    ConnectionPair(client_config("tcp", version="1.0.1"), None, None, refused).run(100)
    for answers in ([CAPABILITY, SUCCESS, INFO, SUCCESS], [CAPABILITY, SUCCESS, b"1200 Go\r\n" + LIST]):
        for action in ("create", "info", "delete"):
            Script(answers, action=action).run()
    _broker_alone(brokers)
    return seen


def _with_key():
    return ServerConfig(rng=seeded(2), dsa_key=_key())


@lru_cache(maxsize=1)
def _key():
    return dsakey.generate_dsa_key()


def _broker_alone(brokers):
    """What our own client never does: other mechanisms, everything after an accept."""
    backend = FakeBackend()
    broker = TspServer(ServerConfig(rng=seeded(1)), backend, "tcp", ("192.0.2.1", 4000))
    create = xml_write.create(TunnelRequest(mode="v6v4"), CLIENT_V4)
    info, delete = (xml_write.about(action, "v6v4", False, ()) for action in ("info", "delete"))
    for text in (b"VERSION=2.0.2\r\n", b"AUTHENTICATE ANONYMOUS\r\n", create, xml_write.REJECT, create, xml_write.ACCEPT,
                 xml_write.ACCEPT, info):
        broker.receive(text, 1.0)
    backend.refusals = {"info": Refusal(310)}
    broker.receive(info, 1.0)
    broker.receive(delete, 1.0)
    for text in (b"VERSION=2.0.2\r\n", b"AUTHENTICATE X\r\n"):
        broker.receive(text, 1.0)


def test_every_arrow_is_walked(monkeypatch):
    """No decoration: what the tables allow, sessions do. (What rule 5 adds to every state is left out.)"""
    seen = walked(monkeypatch)
    missing = [(state, event) for table, _module in TABLES for state, events in table.items() for event in events
               if event not in ("fail", "close", "version") and (id(table), state, event) not in seen]
    assert missing == []


def test_what_is_not_in_a_table_does_not_happen():
    assert states.follow(states.CLIENT, states.IDLE, "connect") == states.WAIT_CAPABILITY
    with pytest.raises(KeyError):
        states.follow(states.CLIENT, states.IDLE, "grant")
    assert not states.knows(states.SERVER, states.HELLO, "create")


def test_final_states():
    assert [state for state in states.CLIENT if states.is_final(states.CLIENT, state)] == ["COMPLETED", "REDIRECTED", "FAILED"]
    assert [state for state in states.SERVER if states.is_final(states.SERVER, state)] == ["CLOSED"]


@pytest.mark.parametrize("table, _module", TABLES)
def test_the_diagram_shows_the_table(table, _module):
    text = states.mermaid(table)
    assert text.startswith("stateDiagram-v2\n    [*] --> ")
    drawn = {}
    for source, target, events in re.findall(r"^    (\w+) --> (\w+): (.+)$", text, re.MULTILINE):
        for event in events.split(", "):
            drawn.setdefault(source, {})[event] = target
    for state, events in table.items():
        assert drawn.get(state, {}) == {event: target for event, target in events.items() if event not in ("fail", "close", "version")}
