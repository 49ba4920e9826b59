# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts and leases for tests of `_linux`. The hosts were recorded on Debian 12 (_recorded.py): uplink eth1 with 198.51.100.31, LAN eth2,
and up0 with a default route out of router advertisements (not on `netplan`); eth0 is nobody's, and whoever looked came in by it."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import Completed
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.backend import Parts
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.info import gather
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._recorded import Recorded, load
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease as any_lease

FIXTURES = Path(__file__).resolve().parents[4] / "fixtures"
HOSTS = ("networkd", "netplan", "networkmanager", "ifupdown")
UPLINK = "198.51.100.31"
OUTER6 = "2001:db8:ee::31"


def record(name: str) -> dict[str, Any]:
    """The record of a host, to be changed."""
    return load(FIXTURES, name)


def seen(told: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What linux_info makes of a record."""
    return gather(Recorded(told, Completed))


def host(name: str = "networkd") -> dict[str, Any]:
    """`host` of linux_info, to be changed. eth1 has an IPv6 address as well, for tunnels of IPv4 in IPv6."""
    made = copy.deepcopy(seen(record(name))[0])
    made["links"]["eth1"]["addresses"].append(f"{OUTER6}/64")
    return made


def lease(mode: str = "v6v4", prefix: str | None = None, lifetime: int | None = 604800, **changes: Any) -> Lease:
    """A lease for a tunnel that ends at eth1, also behind a NAT."""
    local = IPv6Address(OUTER6) if mode == "v4v6" else IPv4Address(UPLINK)
    return any_lease(mode, prefix, grant_changes={"lifetime": lifetime}, **{"local_address": local, **changes})


class Plain:
    """A backend that leaves everything to the neutral picture."""

    def __init__(self, name: str, refusal: str | None = None) -> None:
        self.NAME = name
        self.refusal = refusal

    def refuses(self, setup: dict[str, Any], host: dict[str, Any]) -> str | None:
        return self.refusal

    def parts(self, setup: dict[str, Any], host: dict[str, Any]) -> Parts:
        return Parts(files=[{"path": f"/etc/{self.NAME}", "template": f"{self.NAME}.j2", "mode": "0644"}])


def known(**refusals: str) -> Any:
    """A registry of such backends; those named refuse."""

    def backend(name: str) -> Any:
        return None if name == "agent" else Plain(name, refusals.get(name))

    return backend
