# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The task `tunnel_info`: the tunnels of a host, what agents say of theirs, and what leases and the kernel tell of the others.

A tunnel that no agent keeps has the keys of an agent's status (`_agent/status.py`, schema 2); what nobody knows of it is null. It is
"native" when a device of the host has the lease's address, else "absent"; whether anything passes, nobody looks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Protocol

from .._agent import statusview
from .._agent.counters import of_device
from .._agent.status import Facts, Status
from .._apply.runner import Completed, HostRunner
from .._tsp.errors import LocalError
from .._tsp.lease import Lease
from . import leasestore

FACTS_DIR = "/etc/ansible/facts.d"
SUFFIX = ".fact"
SPEC: dict[str, Any] = {
    "runtime_dirs": {"type": "list", "elements": "path", "default": []},
    "facts_dir": {"type": "path", "default": FACTS_DIR},
    "lease_dir": {"type": "path", "default": "leases"},
}


class Commands(Protocol):
    """The port to the host's programs; `HostRunner` is the real one."""

    def run(self, argv: Sequence[str], timeout: float = ...) -> Completed:
        """Run a command."""


def run(params: dict[str, Any], *, commands: Commands | None = None, now: datetime | None = None) -> dict[str, Any]:
    """{changed: false, tunnels: [...], warnings}. params: as SPEC leaves them."""
    now = now or datetime.now(timezone.utc)
    warnings: list[str] = []
    tunnels = [statusview.read(path, now) for path in statusview.find(params["runtime_dirs"] or statusview.usual_folders())]
    for tunnel in tunnels:
        if "problem" in tunnel:
            warnings.append(tunnel["problem"])
    tunnels = [tunnel for tunnel in tunnels if "problem" not in tunnel]
    kept = {tunnel["name"] for tunnel in tunnels}
    leases = {name: lease for name, lease in _leases(params["facts_dir"], warnings).items() if name not in kept}
    if leases:
        devices = _devices(commands or HostRunner(), warnings)
        tunnels += [native(name, lease, now, devices) for name, lease in leases.items()]
    return {"changed": False, "tunnels": sorted(tunnels, key=lambda tunnel: str(tunnel["name"])), "warnings": warnings}


def native(name: str, lease: Lease, now: datetime, devices: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    """The status of a tunnel that no agent keeps. devices: {address: {device, mtu}} of the host, None where nobody can look."""
    address = str(lease.grant.inner_address(lease.grant.client))
    found = (devices or {}).get(address)
    facts = Facts(name, "" if found is None else found["device"], "native" if found or devices is None else "absent",
                  lease.obtained_at, now, 0.0, lease=lease, numbers=found)
    counters = None if found is None else of_device(found["device"])
    why = "" if counters else "Nobody looked at the device." if devices is None else f"No device of the host has {address}." \
        if found is None else f"The kernel does not count packets of {found['device']}."
    return {**Status(now).build(facts), "pid": None, "tunnel_status": None, "since": None, "started_at": None,
            "packets": None if counters is None else counters.to_dict(), "packets_why": why, "loss": None, "connected": None,
            "stale": "", "duration_s": None, "data_plane_why": "No agent keeps it.", "negotiations": None, "failures": None,
            "failures_total": None, "lost_count": None, "missed": None}


def on_controller(paths: dict[str, str], now: datetime | None = None) -> dict[str, Any]:
    """The same for a device that cannot be looked at: out of the leases that the controller keeps for it. paths: name -> lease file."""
    now = now or datetime.now(timezone.utc)
    warnings: list[str] = []
    tunnels = [native(name, lease, now, None) for name, lease in _loaded(paths, warnings).items()]
    return {"changed": False, "tunnels": tunnels, "warnings": warnings}


def _leases(folder: str, warnings: list[str]) -> dict[str, Lease]:
    """name -> lease. A fact of somebody else's is none of ours, and not worth a word."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    return _loaded({name[:-len(SUFFIX)]: os.path.join(folder, name) for name in names if name.endswith(SUFFIX)}, warnings, strangers=True)


def _loaded(paths: dict[str, str], warnings: list[str], strangers: bool = False) -> dict[str, Lease]:
    out = {}
    for name, path in paths.items():
        try:
            lease = leasestore.load(path)
        except LocalError as exc:
            if not strangers or exc.code == "lease_unreadable":
                warnings.append(str(exc))
            continue
        if lease is not None:
            out[name] = lease
    return out


def _devices(commands: Commands, warnings: list[str]) -> dict[str, dict[str, Any]] | None:
    """{address: {device, mtu}}; None where there is no ip to ask."""
    done = commands.run(("ip", "-j", "addr", "show"))
    try:
        if done.rc:
            raise ValueError(done.words)
        links = [entry for entry in json.loads(done.stdout or "[]") if entry]
        return {str(item["local"]): {"device": str(entry["ifname"]), "mtu": int(entry["mtu"])}
                for entry in links if "UP" in entry["flags"] for item in entry.get("addr_info", ()) if item.get("local")}
    except (ValueError, TypeError, KeyError) as exc:
        warnings.append(f"The addresses of this host cannot be told, ip -j addr show does not work: {exc}.")
        return None
