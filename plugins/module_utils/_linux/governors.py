# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Who governs which interface of a host: systemd-networkd, NetworkManager (each also on behalf of netplan), ifupdown, or nobody.

What runs counts, not what is installed: Debian installs ifupdown beside everything else, and an interface may be left out by the
service that governs the others.
"""

from __future__ import annotations

import posixpath
import re
from fnmatch import fnmatchcase
from typing import Any

from .look import Look

NETIF = "/run/systemd/netif/links"
"""One file per interface index. systemd calls their form private, but networkctl of before version 250 has no other to offer that
programs can read, and the two keys used here are as they were since version 209."""
GOVERNED = ("pending", "initialized", "configuring", "configured", "failed", "linger")
INTERFACES = "/etc/network/interfaces"
IFSTATE = "/run/network/ifstate"
NETPLAN_FOLDERS = ("/etc/netplan", "/lib/netplan", "/run/netplan")
NETPLAN_TYPES = {"bridge": "bridges", "bond": "bonds", "vlan": "vlans", "vrf": "vrfs", "dummy": "dummy-devices", "sit": "tunnels",
                 "gre": "tunnels", "ip6gre": "tunnels", "ipip": "tunnels", "ip6tnl": "tunnels", "vti": "tunnels", "vti6": "tunnels",
                 "vxlan": "tunnels", "wireguard": "tunnels"}
"""Kind of a device to the section of netplan that can define it; everything else is matched by `ethernets` (or `wifis`)."""
NOBODY: dict[str, Any] = {"governor": "none", "network_file": None, "connection": None, "netplan_type": None, "netplan_id": None,
                          "renderer": None}
OUR_FILE = "tsp-x"
"""Stands for the names of our files below /etc/network/interfaces.d."""


def system_wide(look: Look, tools: dict[str, str | None], units: dict[str, dict[str, str]], systemd: bool) -> dict[str, bool]:
    """{networkd, networkmanager, netplan, ifupdown}: whether each is at work on this host at all."""

    def active(unit: str) -> bool:
        return units.get(unit, {}).get("ActiveState") in ("active", "activating", "reloading")

    networking = units.get("networking.service", {})
    return {
        "networkd": active("systemd-networkd.service"),
        "networkmanager": active("NetworkManager.service") if systemd else bool(look.names("/run/NetworkManager/devices")),
        "netplan": tools["netplan"] is not None and any(
            name.endswith(".yaml") for folder in NETPLAN_FOLDERS for name in look.names(folder)),
        "ifupdown": tools["ifup"] is not None and look.exists(INTERFACES) and (
            active("networking.service") or networking.get("UnitFileState") == "enabled" if systemd else look.exists(IFSTATE)),
    }


def of_links(look: Look, tools: dict[str, str | None], active: dict[str, bool], links: dict[str, dict[str, Any]],
             warnings: list[str]) -> dict[str, dict[str, Any]]:
    """For each interface {governor, network_file, connection, netplan_type, netplan_id, renderer}."""
    managed = _networkmanager(look, tools, warnings) if active["networkmanager"] else {}
    up = _ifstate(look) if active["ifupdown"] else set()
    out: dict[str, dict[str, Any]] = {}
    for name, link in links.items():
        by_networkd = _networkd(look, link["index"]) if active["networkd"] else None
        connection, profile = managed.get(name, (None, ""))
        kind = _netplan_type(look, name, link["kind"])
        if by_networkd is not None:
            out[name] = {**NOBODY, "governor": "networkd", "network_file": by_networkd}
            found = re.search(r"/\d+-netplan-([^/]+)\.network\Z", by_networkd)
            if found:
                out[name].update(governor="netplan", netplan_type=kind, netplan_id=found.group(1), renderer="networkd")
        elif connection is not None:
            out[name] = {**NOBODY, "governor": "networkmanager", "connection": connection}
            if profile.startswith("netplan-"):
                out[name].update(governor="netplan", netplan_type=kind, netplan_id=profile[len("netplan-"):], renderer="NetworkManager")
        elif name in up and name != "lo":
            out[name] = {**NOBODY, "governor": "ifupdown"}
        elif name in managed:
            out[name] = {**NOBODY, "governor": "networkmanager"}
        else:
            out[name] = dict(NOBODY)
    return out


def _networkd(look: Look, index: int) -> str | None:
    """The .network file by which networkd governs an interface; None when it leaves it alone."""
    state = dict(line.split("=", 1) for line in (look.text(f"{NETIF}/{index}") or "").splitlines() if "=" in line)
    return state.get("NETWORK_FILE") if state.get("ADMIN_STATE") in GOVERNED else None


def _networkmanager(look: Look, tools: dict[str, str | None], warnings: list[str]) -> dict[str, tuple[str | None, str]]:
    """Interfaces that NetworkManager manages: uuid of the connection (None: managed, but without one) and its name."""
    if tools["nmcli"] is None:
        warnings.append("NetworkManager runs, but nmcli is not there: which interfaces it governs cannot be told.")
        return {}
    done = look.run(("nmcli", "-t", "-f", "DEVICE,STATE,CON-UUID,CONNECTION", "device"))
    if done.rc:
        warnings.append(f"NetworkManager does not say which interfaces it governs: {done.words}.")
        return {}
    out: dict[str, tuple[str | None, str]] = {}
    for line in done.stdout.splitlines():
        # Terse output: fields between colons, a colon or backslash inside one behind a backslash.
        fields = [re.sub(r"\\(.)", r"\1", field) for field in re.findall(r"(?:\A|(?<=:))((?:[^:\\]|\\.)*)(?=:|\Z)", line)]
        if len(fields) == 4:
            name, state, uuid, profile = fields
            # "connected (externally)": somebody else configured it, and NetworkManager only shows it.
            if state != "unmanaged" and "external" not in state:
                out[name] = (uuid or None, profile)
    return out


def _ifstate(look: Look) -> set[str]:
    """Logical interfaces that ifup has brought up. Lines `eth0=eth0`, with the physical one first."""
    return {line.split("=")[0].strip() for line in (look.text(IFSTATE) or "").splitlines() if line.strip()}


def _netplan_type(look: Look, name: str, kind: str) -> str:
    if kind in NETPLAN_TYPES:
        return NETPLAN_TYPES[kind]
    return "wifis" if look.exists(f"/sys/class/net/{name}/phy80211") else "ethernets"


def interfaces_file(look: Look, tools: dict[str, str | None]) -> dict[str, Any]:
    """{sources_d, flavour}: whether /etc/network/interfaces includes a file of ours in interfaces.d; whose ifup it is
    (ifupdown | ifupdown2 | ifupdown-ng, null without any)."""
    sources = False
    for words in (line.split() for line in (look.text(INTERFACES) or "").splitlines()):
        if len(words) < 2 or words[0] not in ("source", "source-directory", "source-dir"):
            continue
        for pattern in words[1:]:
            path = posixpath.join(posixpath.dirname(INTERFACES), pattern)
            if words[0] != "source":
                path = f"{path.rstrip('/')}/*"
            sources = sources or fnmatchcase(f"{INTERFACES}.d/{OUR_FILE}", path)
    flavour = None
    if tools["ifup"] is not None:
        program = look.real(tools["ifup"])
        flavour = "ifupdown2" if "ifupdown2" in program else "ifupdown-ng" if posixpath.basename(program) == "ifupdown" else "ifupdown"
    return {"sources_d": sources, "flavour": flavour}
