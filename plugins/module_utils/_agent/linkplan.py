# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a tunnel needs of the kernel, as a list of steps in order, each with the key under which it shows when it is done.

A pure function of a lease's numbers and the configuration. `link` makes it true.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from .settings import LinkConfig

ALIAS = "tunnelbroker.tsp"
"""A device of ours carries the alias `tunnelbroker.tsp:<name>`; one that does not is somebody else's."""
UNREACHABLE_METRIC = 65535
"""Metric of the route to nowhere that covers the delegated prefix: everything more specific or better wins."""
PEER_METRIC = 64
REPLACING_METRIC = 1
"""Metric of a default route that is to win: below it there is only 0, which IPv4 routes made by hand have."""
RULE_PRIORITY = 4652
"""Of the IPv4 rules by source: behind `local`, before `main`. The next number is used too."""
SYSCTL = "sysctl"
"""First word of a step that sets a kernel variable: ("sysctl", "net/ipv6/conf/all/forwarding", "1"); interface names may hold dots."""
FORWARDING = {6: "net/ipv6/conf/all/forwarding", 4: "net/ipv4/ip_forward"}
FORWARDING_OF = {6: "net/ipv6/conf/{}/force_forwarding", 4: "net/ipv4/conf/{}/forwarding"}
"""The same for the packets that come in by one interface. IPv6 has it since Linux 6.17."""
KINDS = {"v6udpv4": ("tun", "fou"), "v6v4": ("sit",), "v4v6": ("ip6tnl",)}
"""What can carry each mode: tun (the agent holds it open), fou (sit over UDP), sit and ip6tnl (the kernel's own)."""
Undo = tuple[str, ...]


@dataclass(frozen=True)
class LinkStep:
    """key: how the kernel's state shows that it holds. do, undo: argv, or ("sysctl", name, value); undo None: goes with the device.

    change: in place of do where the device is there already, with other ends.
    """

    key: str
    do: tuple[str, ...]
    undo: Undo | None = None
    change: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LinkPlan:
    """device: name of the tunnel device; kind: see KINDS. replace: a default route of somebody else that would win has to go.

    table: number of our routing table, where the plan has one.
    """

    device: str
    kind: str
    alias: str
    mtu: int
    family: int
    steps: tuple[LinkStep, ...]
    replace: bool = False
    table: int | None = None

    @property
    def device_key(self) -> tuple[Any, ...]:
        """Plans with the same one can share a device: sit can be given other ends, and UDP around it, while it is in use."""
        ends = tuple(step.do for step in self.steps if step.key.startswith("tunnel ") and step.change is None)
        return (self.device, "sit" if self.kind == "fou" else self.kind, *ends)


def make_plan(numbers: dict[str, Any], link: LinkConfig, device: str, name: str, *, kind: str | None = None,
              force_forwarding: bool = False) -> LinkPlan:
    """The steps for a tunnel, in order. numbers: what tunnel_plan computed out of the lease. kind: one of KINDS, the first by default.

    force_forwarding: this kernel can forward IPv6 for single interfaces.
    """
    kind = kind or KINDS[numbers["mode"]][0]
    ip = ("ip", "-6") if numbers["family"] == 6 else ("ip", "-4")
    alias = f"{ALIAS}:{name}"
    steps = _device(numbers, device, kind)
    steps += [
        LinkStep(f"alias {device} {alias}", ("ip", "link", "set", "dev", device, "alias", alias)),
        LinkStep(f"mtu {device} {numbers['mtu']}", ("ip", "link", "set", "dev", device, "mtu", str(numbers["mtu"]))),
        LinkStep(f"up {device}", ("ip", "link", "set", "dev", device, "up")),
        _address(ip, device, numbers["address_cidr"])]
    # Without a default route the broker's end, and whom we ping, must still be reached through the tunnel.
    for peer in dict.fromkeys((numbers["peer"], numbers["probe"])):
        if ip_address(peer) != ip_address(numbers["address"]):
            steps.append(_route(ip, f"{peer}/{numbers['address_length']}", device, PEER_METRIC))
    steps += _lan(numbers, ip)
    steps += _forwarding(numbers, link, device, force_forwarding)
    table = own_table(device) if link.default_route == "source" and numbers["family"] == 4 else None
    steps += _default_route(numbers, link, device, ip, table)
    return LinkPlan(device, kind, alias, numbers["mtu"], numbers["family"], tuple(steps), link.default_route == "replace", table)


def beside(plan: LinkPlan, state: set[str]) -> LinkPlan:
    """The plan with metrics that nobody else's routes to the same place have: a kernel keeps one route of a metric, whatever its device,
    and two tunnels of one broker lead to the same end. state: keys of the kernel's routes."""
    found = [key.rsplit(" ", 2) for key in state if key.startswith("route ") and " table " not in key]
    taken = {(where, metric) for where, device, metric in found if device != plan.device}
    return replace(plan, steps=tuple(_with_free_metric(step, taken, plan.replace) for step in plan.steps))


def _with_free_metric(step: LinkStep, taken: set[tuple[str, str]], replacing: bool) -> LinkStep:
    if not step.key.startswith("route ") or " table " in step.key or replacing and step.undo is not None:
        return step
    where, device, metric = step.key.rsplit(" ", 2)
    free = int(metric)
    while (where, str(free)) in taken:
        free += 1
    at = step.do.index("metric") + 1
    return replace(step, key=f"{where} {device} {free}", do=(*step.do[:at], str(free), *step.do[at + 1:]))


def own_table(device: str) -> int:
    """The routing table of a device: the same one at every start, another one for another tunnel."""
    return 46530000 + zlib.crc32(device.encode()) % 10000


def sysctl_step(name: str, value: str) -> LinkStep:
    """A variable of the kernel; its undo is what was there before."""
    return LinkStep(f"sysctl {name}={value}", (SYSCTL, name, value))


def cidr_key(address: str, length: Any) -> str:
    """An address with its length, in its shortest form."""
    return f"{ip_address(address)}/{length}"


def _device(numbers: dict[str, Any], device: str, kind: str) -> list[LinkStep]:
    local, remote = numbers["tunnel"]["local"], numbers["tunnel"]["remote"]
    key, gone = f"tunnel {device} {local} {remote}", ("ip", "link", "del", "dev", device)
    if kind == "tun":
        return []
    if kind == "ip6tnl":
        how = ("ip", "-6", "tunnel", "add", device, "mode", "ipip6", "local", local, "remote", remote, "encaplimit", "none")
        return [LinkStep(key, how, gone)]
    ends: tuple[str, ...] = ("type", "sit", "mode", "ip6ip", "local", local, "remote", remote, "ttl", "64")
    steps = []
    if kind == "sit":
        ends += ("encap", "none")
    else:
        # A NAT knows us by this port, so it must be the one that packets come from. The broker's side of a NAT that translates
        # addresses may drop what has no checksum.
        port, theirs = str(numbers["tunnel"]["local_port"]), str(numbers["tunnel"]["remote_port"])
        ends += ("encap", "fou", "encap-sport", port, "encap-dport", theirs, "encap-csum")
        key += f" fou {port} {theirs}"
        # With the broker's endpoint the kernel takes UDP from there only.
        where = (port, "local", local, "peer", remote, "peer_port", theirs)
        steps.append(LinkStep(f"fou {' '.join(where)}", ("ip", "fou", "add", "port", *where, "ipproto", "41"),
                              ("ip", "fou", "del", "port", *where)))
    return [LinkStep(key, ("ip", "link", "add", "name", device, *ends), gone, ("ip", "link", "set", "dev", device, *ends)), *steps]


def _lan(numbers: dict[str, Any], ip: tuple[str, ...]) -> list[LinkStep]:
    steps = []
    if numbers["unreachable"]:
        metric = str(UNREACHABLE_METRIC)
        route = (*ip, "route", "add", "unreachable", numbers["unreachable"], "metric", metric)
        steps.append(LinkStep(f"unreachable {ip_network(numbers['unreachable'])} {metric}", route,
                              (*ip, "route", "del", "unreachable", numbers["unreachable"], "metric", metric)))
    for entry in numbers["lan"]:
        step = _address(ip, entry["interface"], entry["cidr"])
        steps.append(LinkStep(step.key, step.do, (*ip, "addr", "del", entry["cidr"], "dev", entry["interface"])))
    return steps


def _forwarding(numbers: dict[str, Any], link: LinkConfig, device: str, force_forwarding: bool) -> list[LinkStep]:
    """For the LAN and the tunnel alone where the kernel can, so that nothing else of this host becomes a router."""
    family = numbers["family"]
    interfaces = [entry["interface"] for entry in numbers["lan"]]
    if not (link.forwarding or link.forwarding is None and interfaces):
        return []
    if interfaces and (family == 4 or force_forwarding):
        return [sysctl_step(FORWARDING_OF[family].format(interface), "1") for interface in (*interfaces, device)]
    return [sysctl_step(FORWARDING[family], "1")]


def _default_route(numbers: dict[str, Any], link: LinkConfig, device: str, ip: tuple[str, ...], table: int | None) -> list[LinkStep]:
    destination, steps = numbers["default_route"]["destination"], []
    if link.default_route == "metric":
        steps.append(_route(ip, destination, device, link.metric))
    elif link.default_route == "replace":
        step = _route(ip, destination, device, REPLACING_METRIC)
        # Not left to the end of the device: the native one that had the same metric must find its place free.
        steps.append(replace(step, undo=tuple("del" if word == "add" else word for word in step.do)))
    elif link.default_route == "source" and table is None:
        steps += [_route(ip, destination, device, link.metric, source) for source in numbers["sources"]]
    elif link.default_route == "source":
        steps.append(_route(ip, destination, device, link.metric, table=table))
        for source in numbers["sources"]:
            # What the host knows better than by a default route (its own LANs) goes there first.
            steps.append(_rule(ip, source, RULE_PRIORITY, "main", ("suppress_prefixlength", "0")))
            steps.append(_rule(ip, source, RULE_PRIORITY + 1, str(table)))
    return steps


def _address(ip: tuple[str, ...], device: str, cidr: str) -> LinkStep:
    nodad = ("nodad",) if ip[1] == "-6" else ()
    return LinkStep(f"address {device} {cidr_key(*cidr.split('/'))}", (*ip, "addr", "add", cidr, "dev", device, *nodad))


def _route(ip: tuple[str, ...], destination: str, device: str, metric: int, source: str | None = None,
           table: int | None = None) -> LinkStep:
    where = (destination, *(() if source is None else ("from", source)), "dev", device, "metric", str(metric),
             *(() if table is None else ("table", str(table))))
    key = route_key(destination, device, metric, source, None if table is None else str(table))
    return LinkStep(key, (*ip, "route", "add", *where))


def _rule(ip: tuple[str, ...], source: str, priority: int, table: str, more: tuple[str, ...] = ()) -> LinkStep:
    words = ("from", source, "lookup", table, *more, "priority", str(priority))
    return LinkStep(rule_key(source, priority, table), (*ip, "rule", "add", *words), (*ip, "rule", "del", *words))


def route_key(destination: str, device: str | None, metric: Any, source: str | None = None, table: str | None = None) -> str:
    """How a route shows."""
    origin = "" if source is None else f" from {ip_network(source)}"
    return f"route {ip_network(destination)}{origin} {device} {metric}{'' if table is None else f' table {table}'}"


def rule_key(source: str, priority: Any, table: str) -> str:
    """How a rule shows."""
    return f"rule {priority} {ip_network(source)} {table}"
