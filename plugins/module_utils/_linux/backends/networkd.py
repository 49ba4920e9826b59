# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""systemd-networkd: a .netdev and a .network for the tunnel, and drop-ins beside the site's own files for the LAN.

Tried with 252. `networkctl reload` wants 244, SuppressPrefixLength= 245. What other versions do differently is not used: forwarding
(IPForward= until 255, IPv6Forwarding= since) and the reverse path filter (255) are variables of the kernel, in sysctl.d. Nor does the
uplink need a drop-in to go on listening to router advertisements: the default of IPv6AcceptRA= goes by networkd's own settings, not by
the kernel's forwarding, and a default route that networkd added outlives it. Sources: systemd.netdev(5), systemd.network(5),
networkctl(1).
"""

from __future__ import annotations

import posixpath
from typing import Any

from ..._apply import items
from ..backend import Host, Parts, Setup

FOLDER = "/etc/systemd/network"
FIRST = "05"
"""Of all .network files that match an interface the first one counts; sites begin with 10, as distributions and netplan do."""
OLDEST = 245
KINDS = ("sit", "fou", "ip6tnl")
RELOAD_TIMEOUT = 60.0
SETTLE = """of() { sed -n "s/^$1=//p" "$netdev" 2>/dev/null; }
device=$0 netdev=$1 fou=$2
port=$(of FOUSourcePort)
if link=$(ip -d -o link show dev "$device" 2>/dev/null); then
    case $link in *" encap fou "*) over=udp ;; *) over= ;; esac
    case $link in
    *" remote $(of Remote) local $(of Local) "*"${port:+ encap-sport $port encap-dport $(of FOUDestinationPort) }"*) ;;
    *) over=other ;;
    esac
    test "$over" = "${port:+udp}" || ip link delete "$device"
fi
networkctl reload || exit
port=$(sed -n 's/^Port=//p' "$fou" 2>/dev/null)
there() { ip fou show | grep -q "^port $port ipproto 41"; }
test -z "$port" || there || ip fou add port "$port" ipproto 41 || there
"""
"""Have networkd do what the files say. It makes a missing device again, but leaves one alone that has other ends by now, and so that
goes first; nor does it make a UDP port again that it made once already."""


class Backend:
    """The port (../backend.py) to systemd-networkd."""

    NAME = "networkd"

    def refuses(self, setup: Setup, host: Host) -> str | None:
        """Why not, or None."""
        if setup["data_plane"] not in KINDS:
            return "systemd-networkd runs no program that would carry the packets."
        if not host["tools"]["networkctl"]:
            return "The program networkctl is missing."
        version = host["systemd_version"]
        if version and version < OLDEST:
            return f"systemd-networkd {version} is too old: {OLDEST} is the first that reloads its files and knows all that is needed."
        for entry in setup["lan"]:
            if entry["governor"] != "none" and not entry["network_file"]:
                return f"The LAN interface {entry['interface']} is governed by {entry['governor']}."
            others = sharing(entry, host)
            if others:
                return f"{entry['network_file']} is also that of {', '.join(others)}: an address there would be on all of them."
        return None

    def parts(self, setup: Setup, host: Host) -> Parts:
        """The files, and the command that makes networkd follow them."""
        tunnel = f"{FOLDER}/{FIRST}-tsp-{setup['name']}"
        made = Parts(files=[_file(f"{tunnel}.netdev", "networkd.netdev.j2"), _file(f"{tunnel}.network", "networkd.network.j2")])
        if setup["data_plane"] == "fou":
            made.files.insert(0, _file(f"{tunnel}-fou.netdev", "networkd.fou.netdev.j2"))
        for entry in setup["lan"]:
            _lan(entry, tunnel, setup, made)
        # Made by hand where networkd waits for a carrier, which a LAN that is not plugged in yet does not have.
        made.items += [{**item, "make": True} for item in setup["lan_addresses"]]
        made.settle.append(settle(setup["device"], f"{tunnel}.netdev", f"{tunnel}-fou.netdev"))
        return made


def settle(device: str, netdev: str, fou: str) -> dict[str, Any]:
    """The command that has networkd do what the files say: the device, its .netdev, and that of its UDP port."""
    return {"argv": ["sh", "-c", SETTLE, device, netdev, fou], "timeout": RELOAD_TIMEOUT}


def sharing(entry: dict[str, Any], host: Host) -> list[str]:
    """Other interfaces that the .network file of a LAN interface matches as well."""
    return sorted(name for name, link in host["links"].items()
                  if name != entry["interface"] and entry["network_file"] and link["network_file"] == entry["network_file"])


def drop_in(path: str, template: str, **variables: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(directory, file): a file of ours that extends a .network or .netdev, wherever that lies. path: FILE.d/OURS.conf."""
    return {"path": posixpath.dirname(path), "mode": "0755"}, _file(path, template, **variables)


def _lan(entry: dict[str, Any], tunnel: str, setup: Setup, made: Parts) -> None:
    """Our address on a LAN interface: beside what networkd has there already, or in a file of its own where nobody governs it."""
    interface = entry["interface"]
    if entry["network_file"]:
        directory, file = drop_in(f"{FOLDER}/{posixpath.basename(entry['network_file'])}.d/tsp-{setup['name']}.conf",
                                  "networkd.lan.conf.j2", entry=entry)
        made.directories.append(directory)
        made.files.append(file)
    else:
        made.files.append(_file(f"{tunnel}-{interface}.network", "networkd.lan.network.j2", entry=entry))
        # networkd sets these on all interfaces that it manages, and does not set them back.
        taken = [items.sysctl(f"net/ipv6/conf/{interface}/accept_ra", "0"),
                 items.sysctl(f"net/ipv4/conf/{interface}/promote_secondaries", "1")]
        made.items += [item for item in taken if item["name"] not in {other["name"] for other in setup["sysctls"]}]


def _file(path: str, template: str, **variables: Any) -> dict[str, Any]:
    return {"path": path, "template": template, "mode": "0644", **({"vars": variables} if variables else {})}
