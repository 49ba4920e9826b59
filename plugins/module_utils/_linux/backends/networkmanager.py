# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""NetworkManager: a profile of type ip-tunnel, and for the LAN a dispatcher script beside the site's own profiles.

Tried with 1.42. Unreachable routes want 1.36 (`type` of a route), routing rules 1.18, their suppress_prefixlength 1.20: what an older
one leaves out is missed in the kernel by the transaction. Where connectivity checks are on and fail, NetworkManager adds 20000 to the
metric of a default route. Sources: nm-settings-keyfile(5), nm-settings(5), NetworkManager-dispatcher(8).
"""

from __future__ import annotations

import uuid
from typing import Any

from ..._apply.items import Item
from ..backend import Host, Parts, Setup

PROFILES = "/etc/NetworkManager/system-connections"
DISPATCHER = "/etc/NetworkManager/dispatcher.d"
MODES = {"sit": 3, "ip6tnl": 7}
"""NMIPTunnelMode: the keyfile holds the number. 7 is ipip6, IPv4 in IPv6."""
IGNORE_ENCAPSULATION_LIMIT = 1
NO_GATEWAY = {4: "0.0.0.0", 6: "::"}
MAIN_TABLE = 254
UP_TIMEOUT = 90.0
SETTLE = """nmcli connection load "$0" || exit
ip link delete "$2" 2>/dev/null
test ! -e "$0" || exec nmcli connection up uuid "$1\""""
"""Read this profile and no other (also to learn that it is gone), take away a device that it may not fit, since NetworkManager refuses
to activate a profile on a device with other ends, and bring up what the profile says, when there is one. A `nmcli connection down`
would keep it from coming up by itself ever after."""


class Backend:
    """The port (../backend.py) to NetworkManager."""

    NAME = "networkmanager"

    def refuses(self, setup: Setup, host: Host) -> str | None:
        """Why not, or None."""
        if setup["data_plane"] not in MODES:
            return "NetworkManager has no property for a tunnel over UDP."
        if not host["tools"]["nmcli"]:
            return "The program nmcli is missing."
        for entry in setup["lan"]:
            if entry["governor"] != "networkmanager":
                return f"NetworkManager does not manage the LAN interface {entry['interface']}."
        return None

    def parts(self, setup: Setup, host: Host) -> Parts:
        """The profile, a dispatcher script where there is a LAN, and the command that makes NetworkManager follow."""
        name = setup["name"]
        profile, identity = f"{PROFILES}/tsp-{name}.nmconnection", uuid_of(name)
        made = Parts(files=[{"path": profile, "template": "networkmanager.nmconnection.j2", "mode": "0600", "owner": "root",
                             "group": "root", "vars": {"networkmanager": _profile(setup, identity)}}])
        if setup["lan"]:
            made.files.append({"path": f"{DISPATCHER}/50-tsp-{name}", "template": "networkmanager.dispatcher.j2", "mode": "0755",
                               "owner": "root", "group": "root"})
        made.settle.append({"argv": ["sh", "-c", SETTLE, profile, identity, setup["device"]], "timeout": UP_TIMEOUT})
        # The profile of a LAN interface is the site's. The dispatcher adds our address when it comes up; now it is up already.
        made.items = [{**item, "make": True} for item in setup["lan_addresses"]]
        return made


def uuid_of(name: str) -> str:
    """The uuid of the profile: always the same for a tunnel's name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"tag:tunnelbroker.tsp:linux/{name}"))


def _profile(setup: Setup, identity: str) -> dict[str, Any]:
    """{uuid, mode, flags, ipv4, ipv6}: the last two are the lines of those sections."""
    family, kind = setup["numbers"]["family"], setup["data_plane"]
    lines = ["method=manual", "may-fail=false"]
    lines += [f"address{number}={item['cidr']}" for number, item in enumerate(setup["addresses"], 1)]
    if family == 6:
        # An interface identifier out of the device's own address (eui64) cannot be made for a sit device.
        lines.append("addr-gen-mode=stable-privacy")
    for number, item in enumerate((item for item in setup["routes"] if not item.get("absent")), 1):
        lines += _route(number, item)
    for number, item in enumerate(setup["rules"], 1):
        lines.append(_rule(number, item))
    return {"uuid": identity, "mode": MODES[kind], "flags": IGNORE_ENCAPSULATION_LIMIT if kind == "ip6tnl" else 0,
            "ipv4": ["method=disabled"] if family == 6 else lines, "ipv6": ["method=disabled"] if family == 4 else lines}


def _route(number: int, item: Item) -> list[str]:
    """One route: `destination,next hop,metric`, and its attributes in a line of their own."""
    gateway = item["gateway"] or NO_GATEWAY[item["family"]]
    attributes = []
    if item["type"] != "unicast":
        attributes.append(f"type={item['type']}")
    if item["from"]:
        attributes.append(f"from={item['from']}")
    if item["table"] != "main":
        attributes.append(f"table={item['table']}")
    lines = [f"route{number}={item['destination']},{gateway},{item['metric']}"]
    return lines + ([f"route{number}_options={','.join(attributes)}"] if attributes else [])


def _rule(number: int, item: Item) -> str:
    table = MAIN_TABLE if item["table"] == "main" else item["table"]
    suppress = "" if item["suppress_prefixlength"] is None else f" suppress_prefixlength {item['suppress_prefixlength']}"
    return f"routing-rule{number}=priority {item['priority']} from {item['from']} table {table}{suppress}"
