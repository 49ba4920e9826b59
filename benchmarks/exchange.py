# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one exchange costs: milliseconds over loopback, datagram pairs over UDP.

Client and broker core run in one process on one event loop, so a figure holds the work of both ends. Start-up is excluded: imports,
key generation and the first exchanges do not count. Each time is the median of 200 exchanges, and of three such medians the lowest,
because a busy machine only ever adds to them.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _collection  # noqa: E402, F401  pylint: disable=unused-import
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import negotiate  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.dsakey import generate_dsa_key  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._real import RealBroker  # noqa: E402

RUNS, WARM_UP, SERIES = 200, 20, 3
METHODS = {"anonymous": "anonymous", "plain": "plain", "digest": "digest-md5", "passdss": "passdss-3des-1"}
TARGETS: dict[str, tuple[str, float]] = {
    **{f"udp_pairs_{name}": ("=", pairs) for name, pairs in (("anonymous", 4), ("plain", 5), ("digest", 6), ("passdss", 6))},
    "udp_ms_anonymous": ("<=", 2.0), "udp_ms_digest": ("<=", 3.0), **{f"tcp_ms_{name}": ("<", 10.0) for name in METHODS}}
"""Figure -> (relation, bound); run.py compares, nothing fails."""


async def _measure(transport: str, method: str, dsa_key: Any) -> tuple[float, float, float]:
    """(median ms, slowest ms, signalling datagrams from the client in one exchange)."""
    mode = "v6udpv4" if transport == "udp" else "v6v4"
    request = TunnelRequest(mode=mode)
    async with RealBroker(dsa_key=dsa_key) as broker:
        options = ExchangeOptions(
            brokers=(broker.name,), auth_method=method, credentials=Credentials("alice", "secret1"), transports=transport,
            server_key_policy="accept_new")
        clock, times = asyncio.get_running_loop().time, []
        before = 0
        for number in range(WARM_UP + RUNS):
            if number == WARM_UP:
                before, times = broker.datagrams, []
            began = clock()
            await negotiate(request, options)
            times.append((clock() - began) * 1000.0)
        return statistics.median(times), max(times), (broker.datagrams - before) / RUNS


def run(say: Callable[[str], None] = lambda _sentence: None) -> dict[str, float]:
    """All figures of this file."""
    figures: dict[str, float] = {}
    dsa_key = generate_dsa_key()
    for name, method in METHODS.items():
        for transport in ("udp", "tcp"):
            series = [run_sync(lambda transport=transport, method=method: _measure(transport, method, dsa_key)) for _n in range(SERIES)]
            median, slowest, pairs = min(series)
            figures[f"{transport}_ms_{name}"] = round(median, 3)
            if transport == "udp":
                figures[f"udp_pairs_{name}"] = pairs
            say(f"{transport} {method}: median {median:.2f} ms, slowest {slowest:.2f} ms of {RUNS}; medians of all series "
                + ", ".join(f"{one[0]:.2f}" for one in series))
    return figures


if __name__ == "__main__":
    for figure, value in run(print).items():
        print(f"{figure:24} {value:g}")
