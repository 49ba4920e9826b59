# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shorthands of the exchange's tests: short times instead of waiting, and one line to negotiate."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import ExchangeResult, negotiate
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.runtime import Runtime
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import TspError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.rudp import RudpConfig

ALICE = Credentials("alice", "correct horse")
FAST = RudpConfig(rto_initial=0.05, rto_min=0.05, rto_max=0.2)
"""The old client's rules forty times as fast: a silent broker is given up after 0.15 s instead of 6."""


def impatient(**changes: Any) -> World:
    """A world for brokers that keep TCP waiting."""
    return World(reply_timeout=0.3, **changes)


class World:
    """A runtime whose wall clock and sleep are in the test's hand."""

    def __init__(self, **changes: Any) -> None:
        self.now = 1_700_000_000.0
        self.slept: list[float] = []
        self.names: dict[str, list[str]] = {}
        self.lookups: list[str] = []
        self.runtime = Runtime(**{
            "wall": lambda: self.now, "sleep": self._sleep, "lookup": self._lookup, "jitter": lambda: 0.5, "rudp": FAST,
            "connect_timeout": 2.0, "reply_timeout": 10.0, "echo_timeout": 0.8, **changes})

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def _lookup(self, host: str, _port: int, _family: int) -> list[str]:
        self.lookups.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.names[host]


async def ask(*brokers: Any, mode: str = "v6anyv4", world: World | None = None, keep_socket: bool = False, progress: Any = None,
              request: TunnelRequest | None = None, **options: Any) -> ExchangeResult:
    """Negotiate with these brokers (FakeBroker or text), anonymously unless told otherwise."""
    names = tuple(broker if isinstance(broker, str) else broker.name for broker in brokers)
    options = {"auth_method": "anonymous", "deadline": 20.0, **options}
    return await negotiate(request or TunnelRequest(mode=mode), ExchangeOptions(brokers=names, **options), keep_socket=keep_socket,
                           progress=progress, runtime=(world or World()).runtime)


async def fails(*brokers: Any, **kwargs: Any) -> TspError:
    """The error that negotiating with these brokers ends in."""
    try:
        result = await ask(*brokers, **kwargs)
    except TspError as error:
        return error
    raise AssertionError(f"expected a failure, got {result.lease}")
