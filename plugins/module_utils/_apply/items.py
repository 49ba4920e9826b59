# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What of the kernel's state a plan is about, in neutral words: an item is a dict of JSON types, whoever makes it true.

    {"kind": "link", "device": "tsp0", "type": "sit" | "ip6tnl", "local": ip, "remote": ip, "mtu": 1480, "encap": null}
    {"kind": "link", …, "encap": {"type": "fou", "sport": 40000, "dport": 3653}}           sit over UDP, and the port that takes it
    {"kind": "address", "device": "eth1", "cidr": "2001:db8:1::1/64"}
    {"kind": "route", "family": 6, "destination": "::/0", "device": "tsp0" | null, "gateway": ip | null, "metric": 2048,
                      "type": "unicast" | "unreachable", "from": network | null, "table": "main" | number}
    {"kind": "rule", "family": 4, "from": network, "table": number | "main", "priority": 4653, "suppress_prefixlength": 0 | null}
    {"kind": "sysctl", "name": "net/ipv6/conf/all/forwarding", "value": "1"}

A route may have "absent": true: it shall not be there (a native default route that ours replaces), and comes back with the teardown.
Each has `make`: true when the transaction itself makes it (with ip or through /proc/sys), false when a configuration system of the
host does, out of files, and the transaction waits for it. All items are verified in the kernel before a change is confirmed, taken
back when it is not, and taken away, or put back to what they were, with the tunnel.
"""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from typing import Any

Item = dict[str, Any]


def link(device: str, kind: str, local: str, remote: str, mtu: int, *, fou: tuple[int, int] | None = None, make: bool = False) -> Item:
    """A tunnel device. kind: sit | ip6tnl. fou: (our UDP port, the broker's)."""
    encap = None if fou is None else {"type": "fou", "sport": fou[0], "dport": fou[1]}
    return {"kind": "link", "device": device, "type": kind, "local": local, "remote": remote, "mtu": mtu, "encap": encap, "make": make}


def address(device: str, cidr: str, *, make: bool = False) -> Item:
    """An address with its prefix length on an interface."""
    return {"kind": "address", "device": device, "cidr": str(ip_interface(cidr)), "make": make}


def route(destination: str, device: str | None, metric: int, *, kind: str = "unicast", gateway: str | None = None,
          source: str | None = None, table: int | str = "main", make: bool = False, absent: bool = False) -> Item:
    """A route. source: a source-specific one (IPv6 only: `from`). absent: one that shall not be there; the transaction takes it away."""
    network = ip_network(destination)
    return {"kind": "route", "family": network.version, "destination": str(network), "device": device, "gateway": gateway,
            "metric": metric, "type": kind, "from": source, "table": table, "make": make,
            **({"absent": True} if absent else {})}


def rule(source: str, table: int | str, priority: int, *, suppress_prefixlength: int | None = None, make: bool = False) -> Item:
    """A routing rule for packets from a network."""
    network = ip_network(source)
    return {"kind": "rule", "family": network.version, "from": str(network), "table": table, "priority": priority,
            "suppress_prefixlength": suppress_prefixlength, "make": make}


def sysctl(name: str, value: str, *, make: bool = True) -> Item:
    """A variable of the kernel, its name with slashes (interface names may hold dots)."""
    return {"kind": "sysctl", "name": name, "value": value, "make": make}


def describe(item: Item) -> str:
    """The item for people, in one phrase."""
    kind = item["kind"]
    if kind == "link":
        how = "" if item["encap"] is None else f" over UDP {item['encap']['sport']}"
        return f"tunnel {item['device']} ({item['type']}{how}) from {item['local']} to {item['remote']}"
    if kind == "address":
        return f"address {item['cidr']} on {item['device']}"
    if kind == "route":
        source = f" from {item['from']}" if item["from"] else ""
        where = "unreachable" if item["type"] == "unreachable" else f"through {item['device']}"
        gateway = f" by {item['gateway']}" if item["gateway"] else ""
        table = "" if item["table"] == "main" else f" in table {item['table']}"
        return f"route to {item['destination']}{source} {where}{gateway} with metric {item['metric']}{table}"
    if kind == "rule":
        return f"rule {item['priority']}: from {item['from']} to table {item['table']}"
    if kind == "fou":
        return f"UDP port {item['port']} of the kernel"
    return f"{item['name'].replace('/', '.')} = {item['value']}"
