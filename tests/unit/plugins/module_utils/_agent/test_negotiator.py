# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent makes of an exchange, and what it tells the exchange."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import brokers
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.config import parse
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import ExchangeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent.test_applier import lease


@pytest.fixture
def sock() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        yield made


def test_a_broker_that_fails_is_asked_again_as_soon_as_the_user_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange has delays of its own, which would count instead."""
    told: list[ExchangeOptions] = []

    async def granted(_request: Any, options: ExchangeOptions, **_more: Any) -> ExchangeResult:
        told.append(options)
        return ExchangeResult(lease())
    monkeypatch.setattr(brokers, "negotiate", granted)
    config = parse({"request": {"mode": "v6anyv4"}, "broker": {"brokers": ["192.0.2.1"], "auth_method": "anonymous"},
                    "retry": {"longest_delay": 30}})
    asyncio.run(brokers.BrokerNegotiator(config, str, lambda *_words: 1400).negotiate(None, None))
    assert [options.longest_delay for options in told] == [30]


def test_who_stops_waiting_leaves_no_port_behind(monkeypatch: pytest.MonkeyPatch, sock: socket.socket) -> None:
    """The path is measured for up to three seconds, and meanwhile the agent may be told to stop, or be elsewhere."""
    measuring, go_on = threading.Event(), threading.Event()

    async def granted(*_words: Any, **_more: Any) -> ExchangeResult:
        return ExchangeResult(lease(), socket=sock)

    def measure(*_words: Any) -> None:
        measuring.set()
        go_on.wait(60)

    async def run() -> None:
        task = asyncio.ensure_future(brokers.BrokerNegotiator(config, str, measure).negotiate(None, None))
        while not measuring.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert sock.fileno() < 0, "another negotiation can have its port"
        go_on.set()
    monkeypatch.setattr(brokers, "negotiate", granted)
    config = parse({"request": {"mode": "v6anyv4"}, "broker": {"brokers": ["192.0.2.1"], "auth_method": "anonymous"}})
    asyncio.run(run())
