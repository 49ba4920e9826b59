# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Debian's ifupdown: stanzas of our own below /etc/network/interfaces.d. Tried with 0.8.41.

A LAN interface gets a second stanza, which ifup brings up along with the site's; it is not taken down for that. Source: interfaces(5).
"""

from __future__ import annotations

from typing import Any

from .. import lines as shell
from ..backend import Host, Parts, Setup

INTERFACES = "/etc/network/interfaces"
FLAVOUR = "ifupdown"
UP_TIMEOUT = 90.0
DOWN = ["sh", "-c", """ifquery "$0" >/dev/null 2>&1 || exit 0
exec ifdown --force "$0\""""]
"""Take down what the old file describes, with it; an interface that no file knows is no error."""
SETTLE = ["sh", "-c", """if ifquery "$0" >/dev/null 2>&1; then
    ifdown --force "$0" >/dev/null 2>&1
    ip link delete "$0" 2>/dev/null
    exec ifup --force "$0"
fi
echo "iface $0 inet manual" | ifdown --force --interfaces=/dev/stdin "$0" >/dev/null 2>&1
ip link delete "$0" 2>/dev/null
exit 0"""]
"""Bring up what the files say, from nothing, whatever was up before. Where they say nothing: have ifupdown forget the interface."""


class Backend:
    """The port (../backend.py) to ifupdown."""

    NAME = "ifupdown"

    def refuses(self, setup: Setup, host: Host) -> str | None:
        """Why not, or None."""
        flavour = host["interfaces_file"]["flavour"]
        if flavour != FLAVOUR:
            return f"Stanzas are written for Debian's ifupdown, and this host has {flavour}." if flavour else "The program ifup is missing."
        if setup["data_plane"] == "tun":
            return "ifupdown runs no program that would carry the packets."
        for entry in setup["lan"]:
            if entry["governor"] not in ("ifupdown", "none"):
                return f"The LAN interface {entry['interface']} is governed by {entry['governor']}."
        return None

    def parts(self, setup: Setup, host: Host) -> Parts:
        """The stanzas, a line that includes them where the site's file does not, and ifdown and ifup around the change."""
        path, device = f"{INTERFACES}.d/tsp-{setup['name']}", setup["device"]
        made = Parts(files=[{"path": path, "template": "ifupdown.interfaces.j2", "mode": "0644",
                             "vars": {"ifupdown": _stanzas(setup)}}])
        if not host["interfaces_file"]["sources_d"]:
            made.files.append({"path": INTERFACES, "edit": {"editor": "block", "content": f"source {path}\n"}})
        made.stop.append({"argv": [*DOWN, device]})
        made.settle.append({"argv": [*SETTLE, device], "timeout": UP_TIMEOUT})
        made.items = [{**item, "make": True} for item in setup["lan_addresses"]]
        return made


def _stanzas(setup: Setup) -> list[dict[str, Any]]:
    """[{auto, interface, family, method, lines}] in order: the tunnel, then the LAN."""
    numbers, device = setup["numbers"], setup["device"]
    family = numbers["family"]
    link = setup["link"]
    tunnel: dict[str, Any] = {"auto": True, "interface": device, "family": "inet6" if family == 6 else "inet"}
    before: list[str] = []
    after: list[str] = []
    if setup["data_plane"] == "sit":
        tunnel["method"] = "v4tunnel"
        lines = [f"local {link['local']}", f"endpoint {link['remote']}", "ttl 64", f"mtu {link['mtu']}"]
    else:
        tunnel["method"] = "static"
        # The MTU is given to ip: the option `mtu` of inet6 static sets that of IPv6 alone where the device has a larger one.
        up, down = shell.tunnel(link)
        before, after = [f"pre-up {line}" for line in up], [f"post-down {line}" for line in down]
        lines = ["accept_ra 0", "dad-attempts 0"] if family == 6 else []
    lines = [*before, *(f"address {item['cidr']}" for item in setup["addresses"]), *lines]
    for item in setup["routes"]:
        if not item.get("absent"):
            lines += _hooks(shell.route(item))
    for item in setup["rules"]:
        lines += _hooks(shell.rule(item))
    out = [{**tunnel, "lines": lines + after}]
    for entry in setup["lan"]:
        inet6 = family == 6
        out.append({"auto": entry["governor"] == "none", "interface": entry["interface"], "family": "inet6" if inet6 else "inet",
                    "method": "static", "lines": [f"address {entry['cidr']}", *(["dad-attempts 0"] if inet6 else [])]})
    return out


def _hooks(pair: shell.Lines) -> list[str]:
    up, down = pair
    return [*(f"up {line}" for line in up), *(f"down {line}" for line in down)]
