# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whom the agent asks, and what it makes of the answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import brokers
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import ExchangeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import NetworkError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._stage import Stage, make_lease

RECORD = {"t": 0.25, "direction": "C>S", "transport": "udp", "peer": "192.0.2.1:3653", "text": "VERSION=2.0.2\r\n"}


class Exchange:
    """Stands in for `negotiate`: what it was asked with, and a lease or an error."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options: Any = None
        self.error: NetworkError | None = None
        self.lease = make_lease(local="10.0.0.5")
        self.measured = 0
        self.lines: list[str] = []
        self.stage = stage
        monkeypatch.setattr(brokers, "negotiate", self._negotiate)

    async def _negotiate(self, _request: Any, options: Any, **_more: Any) -> ExchangeResult:
        self.options = options
        if self.error is not None:
            raise self.error
        return ExchangeResult(self.lease, transcript=[RECORD])

    def _measure(self, _peer: Any, _source: Any) -> int:
        self.measured += 1
        return 1400

    def ask(self, last: Lease | None = None, listen: bool = False, **said: Any) -> Lease:
        negotiator = brokers.BrokerNegotiator(self.stage.config, str, self._measure, self.lines.append if listen else None)
        lease, _sock, _warnings = asyncio.run(negotiator.negotiate(last, None, **said))
        return lease


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    stage = Stage(tmp_path)
    options = replace(stage.config.options, brokers=("a.example", "b.example", "c.example"), choose="nearest")
    stage.config = replace(stage.config, options=options)
    return Exchange(stage, monkeypatch)


def test_who_gave_the_lease_is_asked_first_and_nobody_nearer(exchange: Exchange) -> None:
    exchange.ask(make_lease(broker="b.example"))
    assert (exchange.options.brokers, exchange.options.choose) == (("b.example", "a.example", "c.example"), "order")


def test_without_a_lease_the_nearest_may_be_chosen_unless_one_is_preferred(exchange: Exchange) -> None:
    exchange.ask()
    assert (exchange.options.brokers, exchange.options.choose) == (("a.example", "b.example", "c.example"), "nearest")
    exchange.stage.config = replace(exchange.stage.config, preferred="c.example")
    exchange.ask()
    assert (exchange.options.brokers, exchange.options.choose) == (("c.example", "a.example", "b.example"), "order")


def test_told_whom_to_ask_it_asks_nobody_else(exchange: Exchange) -> None:
    exchange.ask(make_lease(broker="b.example"), brokers=("c.example",), moved=True)
    assert exchange.options.brokers == ("c.example",) and exchange.options.moved


def test_the_same_path_is_not_measured_again_and_another_one_is(exchange: Exchange) -> None:
    """Measuring takes up to three seconds, which a tunnel that was lost does not have."""
    last = replace(exchange.lease, path_mtu=1300)
    assert exchange.ask(last).path_mtu == 1300 and exchange.measured == 0
    assert exchange.ask(last, moved=True).path_mtu == 1400
    assert exchange.ask(replace(last, local_address=None)).path_mtu == 1400 and exchange.measured == 2


@pytest.mark.parametrize("fails", [False, True])
def test_the_exchange_is_told_to_whoever_listens_and_not_recorded_otherwise(exchange: Exchange, fails: bool) -> None:
    if fails:
        exchange.error = NetworkError("no_answer", "The broker is silent.")
        exchange.error.transcript = [RECORD]
        with pytest.raises(NetworkError):
            exchange.ask(listen=True)
    else:
        exchange.ask(listen=True)
    assert exchange.options.transcript and exchange.lines == ["0.250 C>S udp 192.0.2.1:3653: VERSION=2.0.2"]
    exchange.error = None
    exchange.ask()
    assert not exchange.options.transcript and len(exchange.lines) == 1


@pytest.mark.parametrize("preferred, broker, via, asked", [
    ("", "b.example", None, None), ("b.example", "b.example", None, None), ("B.Example:3653", "b.example", None, None),
    ("a.example", "192.0.2.9", "a.example", None), ("a.example", "b.example", None, ("a.example", "b.example", "c.example"))])
def test_to_whom_a_hangup_leads(exchange: Exchange, preferred: str, broker: str, via: str | None, asked: Any) -> None:
    config = replace(exchange.stage.config, preferred=preferred)
    assert brokers.to_return_to(config, replace(make_lease(broker=broker), via=via)) == asked
