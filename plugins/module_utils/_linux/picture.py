# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The tunnel as items of the kernel's state: device, addresses, routes, rules, LAN, forwarding. Pure functions of plan and host."""

from __future__ import annotations

import re
import zlib
from ipaddress import ip_address
from typing import Any

from .._apply import items
from .._apply.items import Item
from .._tsp.errors import LocalError
from .backend import Host

UNREACHABLE_METRIC = 65535
"""Metric of the route to nowhere that covers the delegated prefix: everything more specific or better wins."""
PEER_METRIC = 64
BEST_METRIC = 1
"""Linux takes metric 0 of an IPv6 route for 1024, so that this is the best that both families have."""
DEFAULT_ROUTES = ("none", "metric", "source", "replace")
RULE_PRIORITY = 4653
TABLE = 4653
"""Priorities of the rules of a source-specific default route with IPv4, and the first number of its table: of the name, see `table_of`."""
TABLES = 1000
DEVICE_KINDS = {"sit": "sit", "fou": "sit", "ip6tnl": "ip6tnl"}


def link(numbers: dict[str, Any], device: str, data_plane: str) -> Item | None:
    """The tunnel's device; None with a TUN device, which is the agent's own."""
    if data_plane == "tun":
        return None
    tunnel = numbers["tunnel"]
    fou = (tunnel["local_port"], tunnel["remote_port"]) if data_plane == "fou" else None
    return items.link(device, DEVICE_KINDS[data_plane], tunnel["local"], tunnel["remote"], numbers["mtu"], fou=fou)


def peer_routes(numbers: dict[str, Any], device: str) -> list[Item]:
    """The broker's end and whom we ping: reached through the tunnel whatever becomes of the default route."""
    wanted = dict.fromkeys((numbers["peer"], numbers["probe"]))
    return [items.route(f"{peer}/{numbers['address_length']}", device, PEER_METRIC) for peer in wanted
            if ip_address(peer) != ip_address(numbers["address"])]


def unreachable(numbers: dict[str, Any]) -> list[Item]:
    """The delegated prefix to nowhere, below everything that is really there."""
    if not numbers["unreachable"]:
        return []
    return [items.route(numbers["unreachable"], None, UNREACHABLE_METRIC, kind="unreachable")]


def lan_addresses(numbers: dict[str, Any]) -> list[Item]:
    """Our address on each LAN interface."""
    return [items.address(entry["interface"], entry["cidr"]) for entry in numbers["lan"]]


def default_route(numbers: dict[str, Any], device: str, choice: str, metric: int, name: str, host: Host
                  ) -> tuple[list[Item], list[Item], list[str]]:
    """(routes, rules, sentences) of the default route through the tunnel.

    metric: beside a native one, with `metric`. source: for packets from our address and from the prefix only: IPv6 routes have a
    source, IPv4 has rules and a table of its own, after everything but the default route of the main table. replace: before every
    native one; one that has the best metrics (0 and 1) itself is taken away, and comes back with the teardown.
    Raises LocalError `invalid_option`.
    """
    if choice not in DEFAULT_ROUTES:
        raise LocalError("invalid_option", f"default_route {choice!r} is unknown.", f"Use one of {', '.join(DEFAULT_ROUTES)}.")
    if isinstance(metric, bool) or not isinstance(metric, int) or not 1 <= metric < 2 ** 31:
        raise LocalError("invalid_option", f"metric {metric!r} is not a number from 1 to {2 ** 31 - 1}.", "Leave it out for 2048.")
    family, destination = numbers["family"], numbers["default_route"]["destination"]
    native = [route for route in host["default_routes"] if route["family"] == family and route["device"] != device and not route["from"]]
    if choice == "none":
        return [], [], []
    if choice == "metric":
        better = [route for route in native if route["metric"] > metric]
        said = [f"The native default route through {route['device']} has metric {route['metric']}: with {metric} the tunnel's wins."
                for route in better]
        return [items.route(destination, device, metric)], [], said
    if choice == "source":
        said = [] if native else ["There is no native default route: only packets that carry a source address of the tunnel have one."]
        if family == 6:
            return [items.route(destination, device, metric, source=source) for source in numbers["sources"]], [], said
        table = table_of(name)
        rules = []
        for source in numbers["sources"]:
            # What the main table knows better than by a default route (the LAN, say) goes there.
            rules += [items.rule(source, "main", RULE_PRIORITY, suppress_prefixlength=0), items.rule(source, table, RULE_PRIORITY + 1)]
        return [items.route(destination, device, metric, table=table)], rules, said
    taken = {(route["device"], route["gateway"], route["metric"]) for route in native if route["metric"] <= BEST_METRIC}
    # What an earlier run has taken away is not seen any more, and must stay away.
    taken |= {(item["device"], item["gateway"], item["metric"]) for made in host["ours"].values() for item in made.get("items", ())
              if item["kind"] == "route" and item.get("absent") and item["family"] == family and item["destination"] == destination}
    away = [items.route(destination, gone, number, gateway=gateway, make=True, absent=True)
            for gone, gateway, number in sorted(taken, key=lambda entry: (entry[2], entry[0], entry[1] or ""))]
    said = [f"The native default route through {item['device']} with metric {item['metric']} goes for as long as the tunnel is there."
            for item in away]
    return [*away, items.route(destination, device, BEST_METRIC)], [], said


def table_of(name: str) -> int:
    """The routing table of a tunnel: a number out of its name, so that it stays the same and two tunnels have two."""
    return TABLE + zlib.crc32(name.encode("utf-8")) % TABLES


def advertised(host: Host, remembered: set[str]) -> list[str]:
    """The interfaces with a default route out of router advertisements; also those whose accept_ra an earlier run of ours keeps at 2."""
    names = {route["device"] for route in host["default_routes"] if route["family"] == 6 and route["protocol"] == "ra"}
    for name in remembered:
        found = re.match(r"net/ipv6/conf/([^/]+)/accept_ra\Z", name)
        if found:
            names.add(found.group(1))
    return sorted(name for name in names if name in host["links"])


def device_sysctls(numbers: dict[str, Any], device: str) -> list[Item]:
    """What the tunnel's device must not be left to the host's defaults for.

    Inside IPv6: nobody at the far end, or who sends packets in the broker's name, shall hand out addresses and default routes by router
    advertisements. Inside IPv4: answers come in where our default route does not lead (metric, source), which a host that filters
    strictly by the reverse path (RFC 3704) would drop; of the two values for a packet the larger one counts, and 2 is the looser.
    """
    if numbers["family"] == 6:
        return [items.sysctl(f"net/ipv6/conf/{device}/accept_ra", "0")]
    return [items.sysctl(f"net/ipv4/conf/{device}/rp_filter", "2")]


def forwarding(numbers: dict[str, Any], device: str, host: Host) -> list[Item]:
    """What makes this host forward between its LANs and the tunnel, and as little else as the kernel allows.

    IPv4 forwards by the interface that a packet came in by. IPv6 does so since Linux 6.17 (force_forwarding); before it forwards on
    all interfaces or on none, and a host that forwards drops the default routes that it has from router advertisements, unless
    accept_ra is 2 there (Linux ip-sysctl). That comes first, hence. Where accept_ra is 0, a service listens in the kernel's place.
    """
    interfaces = [entry["interface"] for entry in numbers["lan"]] + [device]
    if numbers["family"] == 4:
        return [items.sysctl(f"net/ipv4/conf/{name}/forwarding", "1") for name in interfaces]
    if any(entry["has_force_forwarding"] for entry in host["links"].values()):
        return [items.sysctl(f"net/ipv6/conf/{name}/force_forwarding", "1") for name in interfaces]
    remembered = {item["name"] for made in host["ours"].values() for item in made.get("items", ()) if item["kind"] == "sysctl"}
    listening = [name for name in advertised(host, remembered) if name != device and host["links"][name]["accept_ra"]]
    kept = [items.sysctl(f"net/ipv6/conf/{name}/accept_ra", "2") for name in listening]
    return [*kept, items.sysctl("net/ipv6/conf/all/forwarding", "1")]
