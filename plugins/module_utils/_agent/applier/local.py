# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Both parts in one process: where the agent has its rights all the time (no user to change to, a test)."""

from __future__ import annotations

import socket

from ..._tsp.lease import Lease
from .host import HostApplier
from .port import SetUp


class LocalApplier:
    """port.Applier by plain calls."""

    def __init__(self, host: HostApplier) -> None:
        self._host = host

    async def recover(self) -> bool:
        return self._host.recover()

    async def fou_missing(self) -> str:
        return self._host.fou_missing()

    async def set_up(self, lease: Lease, kind: str, sock: socket.socket | None) -> SetUp:
        # With tun the socket stays the caller's: what is closed in there is a copy.
        return self._host.set_up(lease, kind, sock.dup() if sock is not None and kind == "tun" else sock)

    async def free_port(self) -> None:
        self._host.free_port()

    async def take_down(self) -> list[str]:
        return self._host.take_down()

    async def echo_socket(self, address: str) -> socket.socket | None:
        return self._host.echo_socket(address)

    async def advertise(self, lease: Lease) -> None:
        self._host.advertise(lease)

    async def load(self) -> Lease | None:
        return self._host.load()

    async def save(self, lease: Lease) -> None:
        self._host.save(lease)
