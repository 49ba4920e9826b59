# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Items of the kernel's state as lines of a shell script, for configuration systems that run commands: (lines that make it, lines that
take it away). Every line can be run again; none holds anything but words that were parsed before."""

from __future__ import annotations

from .._apply.items import Item

Lines = tuple[list[str], list[str]]


def tunnel(link: Item) -> Lines:
    """The device, not up yet, after whatever had its name or its UDP port."""
    device, ends = link["device"], f"local {link['local']} remote {link['remote']}"
    new = f"ip link add name {device} mtu {link['mtu']} type"
    before = f"ip link delete {device} 2>/dev/null || true"
    after = f"ip link delete {device} || true"
    if link["type"] == "ip6tnl":
        return [before, f"{new} ip6tnl mode ipip6 {ends} encaplimit none hoplimit 64"], [after]
    if link["encap"] is None:
        return [before, f"{new} sit mode ip6ip {ends} ttl 64"], [after]
    encap = link["encap"]
    port = f"port {encap['sport']} ipproto 41"
    ports = f"encap-sport {encap['sport']} encap-dport {encap['dport']} encap-csum"
    return ([before, f"ip fou delete {port} 2>/dev/null || true", f"ip fou add {port}",
             f"{new} sit mode ip6ip {ends} ttl 64 encap {encap['type']} {ports}"],
            [after, f"ip fou delete {port} || true"])


def route(item: Item) -> Lines:
    """A route; nothing to take away where it goes with its device."""
    table = "" if item["table"] == "main" else f" table {item['table']}"
    source = f" from {item['from']}" if item["from"] else ""
    ip = f"ip -{item['family']} route"
    if item["type"] != "unicast":
        what = f"{item['type']} {item['destination']} metric {item['metric']}{table}"
        return [f"{ip} replace {what}"], [f"{ip} delete {what} || true"]
    via = f" via {item['gateway']}" if item["gateway"] else ""
    return [f"{ip} add {item['destination']}{source}{via} dev {item['device']} metric {item['metric']}{table}"], []


def rule(item: Item) -> Lines:
    """A routing rule. The same rule twice would be refused, and leave things half made."""
    suppress = "" if item["suppress_prefixlength"] is None else f" suppress_prefixlength {item['suppress_prefixlength']}"
    what = f"from {item['from']} lookup {item['table']}{suppress} priority {item['priority']}"
    ip = f"ip -{item['family']} rule"
    return [f"{ip} delete {what} 2>/dev/null || true", f"{ip} add {what}"], [f"{ip} delete {what} || true"]


def lan_address(item: Item, family: int) -> Lines:
    """An address on an interface that is not ours."""
    nodad = " nodad" if family == 6 else ""
    what = f"{item['cidr']} dev {item['device']}"
    return [f"ip -{family} address replace {what}{nodad}"], [f"ip -{family} address delete {what} || true"]
