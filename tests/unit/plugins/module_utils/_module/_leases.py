# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Leases for tests, one per mode, built through the real types."""

from __future__ import annotations

from datetime import datetime, timezone
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Endpoint, Grant, Keepalive, Lease
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc)


def grant(mode: str = "v6v4", prefix: str | None = None, **changes: Any) -> Grant:
    """A grant of `mode` with addresses out of the documentation ranges."""
    udp = mode == "v6udpv4"
    inner = (IPv4Address("192.0.2.2"), IPv4Address("192.0.2.1")) if mode == "v4v6" else (
        IPv4Address("198.51.100.7"), IPv4Address("203.0.113.1"))
    values: dict[str, Any] = {
        "mode": mode,
        "client": Endpoint(inner[0], IPv6Address("2001:db8:f00::2"), "host.tunnels.example", 40000 if udp else None),
        "server": Endpoint(inner[1], IPv6Address("2001:db8:f00::1"), None, 3653 if udp else None),
        "prefix": None if prefix is None else ip_network(prefix),
        "keepalive": Keepalive(30, IPv4Address("192.0.2.1") if mode == "v4v6" else IPv6Address("2001:db8:f00::1")),
        "lifetime": 604800,
    }
    return Grant(**{**values, **changes})


def lease(mode: str = "v6v4", prefix: str | None = None, request: TunnelRequest | None = None, grant_changes: dict[str, Any] | None = None,
          **changes: Any) -> Lease:
    """A lease of `mode`, obtained NOW for user alice at broker.example."""
    values: dict[str, Any] = {
        "broker": "broker.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "digest-md5",
        "grant": grant(mode, prefix, **(grant_changes or {})),
        "request": request or TunnelRequest(mode=mode, host_type="router" if prefix else "host"),
        "obtained_at": NOW, "username": "alice",
    }
    return Lease(**{**values, **changes})
