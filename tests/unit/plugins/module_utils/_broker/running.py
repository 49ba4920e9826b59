# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real broker for tests: in this process, on loopback, on a free port, without a data plane unless one is asked for.

    async with running_broker(tmp_path) as broker: …            # broker.port, broker.log_lines(), broker.broker.policy
    with broker_in_thread(tmp_path) as broker: …                # the same for code without asyncio

Accounts: alice/secret1; bob/secret2; fleet/secret3 (proxy, 1000 tunnels); gone/secret4 (disabled).
`changes` is merged into the configuration: {"auth": {"plain": False}, "redirect": {…}}.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import io
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import config as broker_config
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.keys import server_key
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.logs import Log
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.service import Broker
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import sasl

ACCOUNTS = [
    {"username": "alice", "password": "secret1"},
    {"username": "bob", "password": "secret2"},
    {"username": "fleet", "password": "secret3", "proxy": True, "tunnels": 1000},
    {"username": "gone", "password": "secret4", "enabled": False},
]
REALM = "broker.example"


class RunningBroker:
    """host, port: where it listens (UDP and TCP). host6: the same over IPv6. server: host:port, as a client is configured."""

    host = "127.0.0.1"
    host6 = "::1"

    def __init__(self, broker: Broker, stream: io.StringIO) -> None:
        self.broker = broker
        self._stream = stream

    @property
    def port(self) -> int:
        return self.broker.port

    @property
    def server(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def server6(self) -> str:
        return f"[{self.host6}]:{self.port}"

    def log_text(self) -> str:
        """Everything logged so far."""
        return self._stream.getvalue()

    def log_lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log lines, parsed; those of one event only."""
        lines = [json.loads(line) for line in self.log_text().splitlines()]
        return [line for line in lines if event is None or line["event"] == event]


@functools.lru_cache(maxsize=1)
def shared_key() -> Path:
    """The file of one DSA key for all brokers of this process: making one takes longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="tsp-broker-key-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if sasl.have_passdss():
        server_key(folder / "key.pem")
    return folder / "key.pem"


shared_key()  # ansible-test runs each test in a fork that ends without atexit: the parent has it, and takes it away


def config_data(directory: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The configuration as plain data."""
    data: dict[str, Any] = {
        "name": REALM,
        "listen": {"addresses": ["127.0.0.1", "::1"], "port": 0},
        "modes": ["v6v4", "v6udpv4", "v4v6"],
        "auth": {"anonymous": True, "plain": True, "digest-md5": True, "passdss-3des-1": "auto"},
        "pools": {"ipv6": "2001:db8:f::/64",
                  "prefixes": [{"network": "2001:db8:8000::/33", "lengths": [48, 56, 60, 64], "default": 56}],
                  "ipv4": "198.51.100.0/24", "ipv4_prefixes": [{"network": "203.0.113.0/24", "lengths": [24, 28, 29], "default": 29}]},
        "dns_domain": "tunnels.example",
        "data_plane": "none",
        "store": {"path": str(directory / "leases.db")},
        "key_file": str(shared_key()),
        "accounts": ACCOUNTS,
        "log": {"level": "debug"},
    }
    for key, value in (changes or {}).items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            data[key] = {**data[key], **value}
        else:
            data[key] = value
    return data


@contextlib.asynccontextmanager
async def running_broker(directory: Path, changes: dict[str, Any] | None = None) -> AsyncIterator[RunningBroker]:
    """A broker in this event loop, with its store in `directory`."""
    config = broker_config.from_data(config_data(Path(directory), changes))
    stream = io.StringIO()
    async with Broker(config, Log(config.log.level, "json", stream=stream)) as broker:
        yield RunningBroker(broker, stream)


@contextlib.contextmanager
def broker_in_thread(directory: Path, changes: dict[str, Any] | None = None) -> Iterator[RunningBroker]:
    """A broker in an event loop and a thread of its own."""
    started: list[Any] = []
    ready = threading.Event()

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            async with running_broker(directory, changes) as broker:
                started.extend((broker, lambda: loop.call_soon_threadsafe(stop.set)))
                ready.set()
                await stop.wait()
        except BaseException as exc:  # raised again where the broker was asked for
            if ready.is_set():
                raise
            started.append(exc)
            ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    ready.wait()
    if isinstance(started[0], BaseException):
        thread.join()
        raise started[0]
    broker, stop = started[0], started[1]
    try:
        yield broker
    finally:
        stop()
        thread.join()
