# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""netplan with systemd-networkd as its renderer: a file of ours that is merged with the site's, and drop-ins for what netplan cannot say.

Tried with 0.106; a tunnel's `ttl` wants 0.103. netplan's keys know no source of a route, no rule that leaves out default routes, and
nothing of the encapsulation limit of IPv6 tunnels: that stands in drop-ins beside the files that netplan generates for networkd. Not for
NetworkManager as renderer, which gets no unreachable routes through netplan. Sources: netplan(5), netplan-generate(8).
"""

from __future__ import annotations

from typing import Any

from ..._apply.items import Item
from ..backend import Host, Parts, Setup
from . import networkd

FOLDER = "/etc/netplan"
GENERATED = "/run/systemd/network"
MODES = {"sit": "sit", "ip6tnl": "ipip6"}
GENERATE_TIMEOUT = 120.0
GENERATE = """generated=/run/systemd/network
was=$(mktemp -d /run/tsp-netplan.XXXXXX) || exit
trap 'rm -r "$was"' EXIT
ln "$generated"/*-netplan-* "$was" 2>/dev/null
netplan generate || exit
for old in "$was"/*; do
    new=$generated/${old##*/}
    if test -e "$new" && test "$(cat "$old")" = "$(cat "$new")"; then mv -f "$old" "$new"; fi
done
"""
"""netplan writes all files anew, and networkd takes down and sets up again each interface whose file is not the very same one as before.
So those with the same content get their old ones back. (After a `systemctl daemon-reload`, which runs netplan as well, that is too late:
then all interfaces of netplan are set up again once, as by `netplan apply`.)"""


class Backend:
    """The port (../backend.py) to netplan."""

    NAME = "netplan"

    def refuses(self, setup: Setup, host: Host) -> str | None:
        """Why not, or None."""
        if setup["data_plane"] not in MODES:
            return "netplan has no key for a tunnel over UDP."
        if not host["tools"]["netplan"]:
            return "The program netplan is missing."
        if setup["uplink"]["renderer"] == "NetworkManager" or not host["governors"]["networkd"]:
            return "This collection hands the tunnel on to systemd-networkd alone, and netplan has NetworkManager here."
        for entry in setup["lan"]:
            if entry["governor"] != "netplan":
                return f"netplan does not define the LAN interface {entry['interface']}."
            if entry["renderer"] != "networkd":
                return f"netplan hands the LAN interface {entry['interface']} on to NetworkManager."
            others = networkd.sharing(entry, host)
            if others:
                return f"netplan's {entry['netplan_id']} is also {', '.join(others)}: an address there would be on all of them."
        return networkd.Backend().refuses({**setup, "lan": []}, host)

    def parts(self, setup: Setup, host: Host) -> Parts:
        """Our file, drop-ins where they are needed, and the command that makes netplan and networkd follow them."""
        name, device = setup["name"], setup["device"]
        said: list[Item] = []
        unsaid: list[Item] = []
        for item in setup["routes"]:
            if not item.get("absent"):
                (unsaid if item["from"] else said).append(item)
        made = Parts(files=[{"path": f"{FOLDER}/90-tsp-{name}.yaml", "template": "netplan.yaml.j2", "mode": "0600",
                             "vars": {"netplan": {"mode": MODES[setup["data_plane"]], "routes": said, "lan": _lan(setup)}}}])
        if setup["data_plane"] == "ip6tnl":
            _drop_in(made, f"10-netplan-{device}.netdev", name, "netplan.netdev.conf.j2")
        if unsaid or setup["rules"]:
            _drop_in(made, f"10-netplan-{device}.network", name, "netplan.network.conf.j2", routes=unsaid)
        made.items += [{**item, "make": True} for item in setup["lan_addresses"]]
        argv = networkd.settle(device, f"{GENERATED}/10-netplan-{device}.netdev", "")["argv"]
        made.settle.append({"argv": [*argv[:2], GENERATE + argv[2], *argv[3:]], "timeout": GENERATE_TIMEOUT})
        return made


def _lan(setup: Setup) -> dict[str, list[Item]]:
    """The LAN interfaces by the section of netplan that defines them: type to entries of setup.lan."""
    out: dict[str, list[Item]] = {}
    for entry in setup["lan"]:
        out.setdefault(entry["netplan_type"], []).append(entry)
    return out


def _drop_in(made: Parts, file: str, name: str, template: str, **variables: Any) -> None:
    directory, own = networkd.drop_in(f"{networkd.FOLDER}/{file}.d/tsp-{name}.conf", template, **variables)
    made.directories.append(directory)
    made.files.append(own)
