# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a tunnel needs of a kernel of the BSD family, as a list of steps in order. The counterpart of `linkplan`, out of the same numbers.

    device NAME            the gif exists              mtu NAME N             up NAME
    tunnel NAME A B        its outer ends              no_dad NAME            FreeBSD: no duplicate address detection
    mark NAME TEXT         its description is ours     address NAME CIDR      route NET GATEWAY
    reject NET             nothing else goes there     sysctl NAME=VALUE

Routes name the broker's inner address as their gateway, which the point-to-point address puts on the link. Few of these systems have
metrics, and none has routes by source, so the default routes differ from Linux's:

    metric    OpenBSD: with a priority that any native one wins against. Elsewhere: only while there is no native one (`link` looks).
    replace   two routes that together are the whole, each more specific than a native default route, which stays untouched.
    source    refused.

Sources: ifconfig(8), route(8), gif(4), inet6(4), ip6(4), sysctl(8) of each system.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from ..._tsp.errors import LocalError
from ..linkplan import ALIAS, LinkPlan, LinkStep, cidr_key, sysctl_step
from ..settings import LinkConfig
from .systems import System, device_name

FAMILY = {6: "inet6", 4: "inet"}
LOOPBACK = {6: "::1", 4: "127.0.0.1"}
WHOLE = {6: 128, 4: 32}
HALVES = {6: ("::/1", "8000::/1"), 4: ("0.0.0.0/1", "128.0.0.0/1")}
ANYWHERE = {6: "::/0", 4: "0.0.0.0/0"}
FORWARDING = {6: "net.inet6.ip6.forwarding", 4: "net.inet.ip.forwarding"}
CARRIERS = {"tun": "tun", "sit": "gif", "ip6tnl": "gif", "gif": "gif"}
"""What carries a tunnel here, for each of linkplan.KINDS; none carries IPv6 in UDP by itself."""


def make_plan(numbers: dict[str, Any], link: LinkConfig, device: str, name: str, system: System, kind: str) -> LinkPlan:
    """The steps for a tunnel, in order. numbers: what tunnel_plan computed. device: as the configuration has it. kind: of linkplan.KINDS.

    Raises LocalError: `no_fou`, `no_source_routes`, `bad_device`.
    """
    if kind not in CARRIERS:
        raise LocalError("no_fou", f"This kernel cannot carry IPv6 in UDP: {system.name} has no means for it.",
                         "Choose data plane auto or tun.")
    if link.default_route == "source":
        raise LocalError("no_source_routes", f"{system.name} has no routes by source address.",
                         "Choose default_route metric, replace or none.")
    carrier, device = CARRIERS[kind], device_name(system, device, kind)
    family, mark = numbers["family"], f"{ALIAS}:{name}"
    steps = _gif(numbers, device, system) if carrier == "gif" else []
    if system.marks:
        steps.append(LinkStep(f"mark {device} {mark}", ("ifconfig", device, "description", mark)))
    steps.append(LinkStep(f"mtu {device} {numbers['mtu']}", ("ifconfig", device, "mtu", str(numbers["mtu"]))))
    if system.no_dad and family == 6:
        # The one peer there is would have to answer, and an address that waits for it is no source address yet.
        steps.append(LinkStep(f"no_dad {device}", ("ifconfig", device, "inet6", "no_dad")))
    steps.append(_address(device, numbers["address"], numbers["address_length"], numbers["peer"]))
    steps.append(LinkStep(f"up {device}", ("ifconfig", device, "up")))
    if ip_address(numbers["probe"]) not in (ip_address(numbers["peer"]), ip_address(numbers["address"])):
        steps.append(_route(f"{numbers['probe']}/{WHOLE[family]}", numbers["peer"]))
    if numbers["unreachable"]:
        steps.append(_reject(numbers["unreachable"]))
    steps += [_address(entry["interface"], entry["address"], entry["length"]) for entry in numbers["lan"]]
    if link.forwarding or link.forwarding is None and numbers["lan"]:
        steps.append(sysctl_step(FORWARDING[family], "1"))
    if link.default_route == "metric":
        steps.append(default_route(system, family, numbers["peer"]))
    elif link.default_route == "replace":
        steps += [_route(half, numbers["peer"]) for half in HALVES[family]]
    return LinkPlan(device, carrier, mark, numbers["mtu"], family, tuple(steps))


def default_route(system: System, family: int, gateway: str) -> LinkStep:
    """Of default_route metric."""
    priority = () if system.priority is None else ("-priority", str(system.priority))
    where = ("route", "-n", "{}", f"-{FAMILY[family]}", *priority, "default", gateway)
    return LinkStep(route_key(ANYWHERE[family], gateway), _verb(where, "add"), _verb(where, "delete"))


def route_key(destination: str, gateway: str) -> str:
    """How a route shows."""
    return f"route {ip_network(destination)} {ip_address(gateway)}"


def _gif(numbers: dict[str, Any], device: str, system: System) -> list[LinkStep]:
    local, remote = numbers["tunnel"]["local"], numbers["tunnel"]["remote"]
    # FreeBSD and macOS take outer IPv6 addresses only behind the word inet6, the others tell by the address.
    outer = ("inet6",) if ip_address(local).version == 6 and system.name in ("FreeBSD", "macOS") else ()
    ends = ("ifconfig", device, *outer, "tunnel", local, remote)
    return [LinkStep(f"device {device}", ("ifconfig", device, "create"), ("ifconfig", device, "destroy")),
            LinkStep(f"tunnel {device} {ip_address(local)} {ip_address(remote)}", ends, change=ends)]


def _address(device: str, address: str, length: int, peer: str | None = None) -> LinkStep:
    """alias: beside others that the interface has. With a peer only on our own device."""
    family = ip_address(address).version
    size = ("prefixlen", str(length)) if family == 6 else ("netmask", str(ip_network(f"0.0.0.0/{length}").netmask))
    ends = (address,) if peer is None or ip_address(peer) == ip_address(address) else (address, peer)
    return LinkStep(f"address {device} {cidr_key(address, length)}", ("ifconfig", device, FAMILY[family], "alias", *ends, *size),
                    ("ifconfig", device, FAMILY[family], address, "delete"))


def _route(destination: str, gateway: str) -> LinkStep:
    where = ("route", "-n", "{}", *_destination(destination), gateway)
    return LinkStep(route_key(destination, gateway), _verb(where, "add"), _verb(where, "delete"))


def _reject(destination: str) -> LinkStep:
    """Undone without naming its gateway: FreeBSD shows, and has, another one than it was given."""
    where = ("route", "-n", "{}", *_destination(destination))
    gateway = LOOPBACK[ip_network(destination).version]
    return LinkStep(f"reject {ip_network(destination)}", (*_verb(where, "add"), gateway, "-reject"), _verb(where, "delete"))


def _destination(destination: str) -> tuple[str, ...]:
    network = ip_network(destination)
    family = f"-{FAMILY[network.version]}"
    if network.prefixlen == WHOLE[network.version]:
        return family, "-host", str(network.network_address)
    if network.version == 6:
        return family, str(network.network_address), "-prefixlen", str(network.prefixlen)
    return family, "-net", str(network.network_address), "-netmask", str(network.netmask)


def _verb(words: tuple[str, ...], verb: str) -> tuple[str, ...]:
    return tuple(verb if word == "{}" else word for word in words)
