# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What carries a tunnel, on a host whose kernel could carry all of them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.applier.port import SetUp
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.config import parse
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.tunnel import Tunnel
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent.test_applier import lease


class FakeApplier:
    """Remembers what it is to set up; without a device, which would need a real one."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    async def fou_missing(self) -> str:
        return ""

    async def set_up(self, _lease: Any, kind: str, _sock: Any) -> SetUp:
        self.kinds.append(kind)
        return SetUp([], {"mtu": 1472}, "tsp0")

    async def take_down(self) -> list[str]:
        return []


@pytest.mark.parametrize(("mode", "changes", "kind"), [
    ("v6udpv4", {}, "fou"), ("v6udpv4", {"link": {"data_plane": "tun"}}, "tun"),
    ("v6udpv4", {"hooks": {"script": "/up"}}, "fou"), ("v6udpv4", {"hooks": {"script": "/up", "script_sets_up": True}}, "tun"),
    ("v6v4", {"hooks": {"script": "/up", "script_sets_up": True}}, "sit")])
def test_what_carries_it(mode: str, changes: dict[str, Any], kind: str) -> None:
    """An old template that sets a tunnel up finds the TUN device that it knows, and no device of another kind, or none at all."""
    config = parse({"request": {"mode": "v6anyv4"}, "broker": {"brokers": ["192.0.2.1"], "auth_method": "anonymous"}, **changes})
    applier = FakeApplier()

    async def run() -> str | None:
        tunnel = Tunnel(config, applier, lambda _sequence: True, lambda _error: None)  # type: ignore[arg-type]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await tunnel.up(lease(mode=mode), sock if mode == "v6udpv4" else None)
        found = tunnel.data_plane if tunnel.data_plane_why else "without a reason"
        await tunnel.down()
        return found
    assert asyncio.run(run()) == kind and applier.kinds == [kind]
