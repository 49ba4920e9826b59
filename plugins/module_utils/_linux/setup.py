# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The whole set-up of a tunnel on a Linux host as one value, out of a lease, of what linux_info found, and of a few choices.

`linux_setup` returns a dict of JSON types, which templates see as `linux`:

    name, device, backend, data_plane   data_plane: sit | fou | ip6tnl | tun
    why, warnings                       sentences: mode, data plane, backend, default route; and what deserves a look
    numbers                             of tunnel_plan (_module/plan.py)
    lan                                 numbers.lan, each with {governor, network_file, connection, netplan_type, netplan_id, renderer}
    uplink                              {device, governor, network_file, connection, netplan_type, netplan_id, renderer, dynamic, ra,
                                        needs_accept_ra}: the interface that holds the tunnel's outer address
    ra_interfaces                       the same for each interface that has a default route from router advertisements
    default_route, metric               the choice; default_route_overwrites: a native one must go for it
    forwarding                          whether this host forwards
    link, addresses, routes, rules, lan_addresses, sysctls     items (_apply/items.py); addresses: of the tunnel's device
    modules                             kernel modules to load at boot
    keepalive                           {interval, address} or null: who is pinged, where nobody else keeps the NAT awake
    firewall, mss_clamp                 of firewall.py
    tools, management                   of linux_info
    files, directories, stop, start, settle, services, items, absent_files, probe     options of the module apply_config

With the agent as backend `items`, `sysctls` and `settle` are empty: it makes and takes away everything itself while it runs.
"""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address, ip_interface
from typing import Any

from .._apply import items
from .._apply.items import Item
from .._apply.kernel import key
from .._module.plan import LINK_MTU, tunnel_plan
from .._tsp.errors import LocalError
from .._tsp.lease import Lease
from . import check, common, picture, registry
from .backend import Host, Parts, Setup
from .choose import Registry, agent_reasons, choose_backend, data_plane_of, is_dynamic, mode_of, modules_of
from .firewall import firewall as firewall_of
from .firewall import parts as firewall_parts

GOVERNED = ("governor", "network_file", "connection", "netplan_type", "netplan_id", "renderer")
NOWHERE: dict[str, Any] = {"governor": "none", "network_file": None, "connection": None, "netplan_type": None, "netplan_id": None,
                           "renderer": None}
FIREWALL_OPTIONS = ("tcp", "udp", "forward_tcp", "forward_udp", "peers")
FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def linux_setup(lease: Lease | dict[str, Any], host: Host, *, name: str = "tsp", device: str = "tsp0", backend: str = "auto",
                data_plane: str = "auto", mode: str | None = None, lan_interfaces: Any = (), default_route: str = "metric",
                metric: int | str = 2048, mtu: int | str | None = None, link_mtu: int | str | None = None,
                forwarding: bool | str = "auto", keepalive_interval: int | str = 0, firewall: bool = False,
                mss_clamp: bool = False, firewall_options: dict[str, Any] | None = None, radvd: bool = False, probe: bool = True,
                probe_count: int | str = 1, probe_timeout: float | str = 15.0, known: Registry = registry.backend) -> Setup:
    """The setup (module docstring). mode: what the play asks for (to say why another was asked of the broker). keepalive_interval:
    seconds at most between pings, 0 leaves it to the broker. firewall_options: further arguments of firewall.py's function. known: how
    backends are found, for tests.

    Raises LocalError, before anything is touched: those of check.py, choose.py, firewall.py and tunnel_plan; `address_gone`.
    """
    if not isinstance(lease, Lease):
        lease = Lease.from_dict(lease)
    check.check_shape(host)
    check.check_host(host)
    check.check_device(device, name, host)
    outer = str(lease.local_address or lease.grant.outer_address(lease.grant.client))
    uplink = _uplink(outer, device, host)
    if link_mtu in (None, "", "auto") and lease.path_mtu is None and uplink["device"]:
        link_mtu = min(LINK_MTU, host["links"][uplink["device"]]["mtu"])
    numbers = tunnel_plan(lease, lan_interfaces=lan_interfaces, mtu=mtu, link_mtu=link_mtu)
    check.check_lan(numbers, device, uplink["device"], name, host)
    check.check_radvd(_truth(radvd, "radvd"), host)
    carried, why_carried = data_plane_of(numbers["mode"], host, data_plane)
    link = picture.link(numbers, device, carried)
    check.check_tunnel(numbers, device, None if link is None else link["type"], name, host)
    routes, rules, said = picture.default_route(numbers, device, default_route, _whole(metric, "metric"), name, host)
    setup: Setup = {
        "name": name, "device": device, "data_plane": carried, "numbers": numbers,
        "lan": [{**entry, **_governed(host["links"][entry["interface"]])} for entry in numbers["lan"]],
        "uplink": uplink, "default_route": default_route, "metric": _whole(metric, "metric"),
        "default_route_overwrites": any(item.get("absent") for item in routes),
        "forwarding": bool(numbers["lan"]) if forwarding == "auto" else _truth(forwarding, "forwarding"),
        "link": link,
        "addresses": [items.address(device, numbers["address_cidr"])],
        "routes": [*picture.peer_routes(numbers, device), *picture.unreachable(numbers), *routes], "rules": rules,
        "lan_addresses": picture.lan_addresses(numbers),
        "tools": host["tools"], "management": host["management"],
    }
    setup["sysctls"] = [*picture.device_sysctls(numbers, device),
                        *(picture.forwarding(numbers, device, host) if setup["forwarding"] else [])]
    setup["ra_interfaces"] = [_with_ra(interface, host, _everywhere(setup)) for interface in picture.advertised(host, set())
                              if interface != device]
    uplink["needs_accept_ra"] = any(entry["device"] == uplink["device"] and entry["needs_accept_ra"] for entry in setup["ra_interfaces"])
    reasons = agent_reasons(lease, carried, is_dynamic(host["links"].get(uplink["device"]), outer))
    chosen_name, chosen, why_backend = choose_backend(backend, reasons, setup, host, known)
    setup["backend"] = chosen_name
    setup["modules"] = _modules(lease, carried, chosen_name, host)
    setup["keepalive"] = _keepalive(numbers, carried, chosen_name, _whole(keepalive_interval, "keepalive_interval"))
    setup["why"] = [_why_mode(lease, mode, host, data_plane), why_carried, why_backend, *said]
    setup["warnings"] = []
    if uplink["device"] is None:
        if chosen is not None:
            raise LocalError("address_gone", f"The lease is for a tunnel that ends at {outer}, which is no address of this host any more.",
                             "Ask the broker again (tunnel_renew: true), or let the agent keep the tunnel (linux_backend: agent).")
        setup["warnings"].append(f"{outer}, where the tunnel of this lease ends, is no address of this host: the agent will ask again.")
    elif chosen is not None and backend != "auto" and reasons:
        setup["warnings"].append(f"{registry.TITLES[chosen_name]} does not look after the tunnel, and it needs that: {'; '.join(reasons)}.")
    check.check_writable(chosen_name, host)
    setup["mss_clamp"] = _truth(mss_clamp, "mss_clamp")
    setup["firewall"] = _firewall(setup, _truth(firewall, "firewall"), firewall_options or {})
    setup["probe"] = None if not _truth(probe, "probe") else {
        "address": numbers["probe"], "source": numbers["address"], "interface": device, "count": _whole(probe_count, "probe_count"),
        "timeout": _seconds(probe_timeout)}
    _assemble(setup, host, chosen)
    return setup


def _assemble(setup: Setup, host: Host, chosen: Any) -> None:
    """The options of apply_config: what is common, what the backend adds, the firewall."""
    parts = [common.kernel_parts(setup, host)]
    if chosen is None:
        setup["sysctls"] = []
        parts = [common.kernel_parts(setup, host), firewall_parts(setup, host)]
        made: list[Item] = []
    else:
        own = chosen.parts(setup, host)
        parts += [own, common.keepalive_parts(setup, host), firewall_parts(setup, host)]
        made = _merged([setup["link"], *setup["addresses"], *setup["routes"], *setup["rules"], *setup["lan_addresses"], *setup["sysctls"]],
                       own.items)
    for field in fields(Parts):
        setup[field.name] = [entry for part in parts for entry in getattr(part, field.name)]
    setup["items"] = made
    setup["absent_files"] = []


def _merged(neutral: list[Item], own: list[Item]) -> list[Item]:
    """The neutral items, those of the backend in the place of those that they are, and what it has beside them at the end."""
    by_key = {key(item): item for item in own}
    out = [by_key.pop(key(item), item) for item in neutral]
    return out + list(by_key.values())


def _firewall(setup: Setup, enabled: bool, options: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(options) - set(FIREWALL_OPTIONS))
    if unknown:
        raise LocalError("firewall_invalid", f"firewall_options: {', '.join(unknown)} is not known.",
                         f"The keys are {', '.join(FIREWALL_OPTIONS)}.")
    return firewall_of(setup, enabled=enabled, mss_clamp=setup["mss_clamp"], **options)


def _uplink(outer: str, device: str, host: Host) -> dict[str, Any]:
    """The interface that holds the tunnel's outer address; device None when no interface does."""
    for name, link in host["links"].items():
        if name != device and any(ip_interface(cidr).ip == ip_address(outer) for cidr in link["addresses"]):
            return {**_with_ra(name, host, False), "dynamic": is_dynamic(link, outer)}
    return {"device": None, **NOWHERE, "ra": False, "needs_accept_ra": False, "dynamic": False}


def _with_ra(name: str, host: Host, forwards: bool) -> dict[str, Any]:
    """An interface, and whether its default route came from router advertisements: `needs_accept_ra` where networkd is the one that
    listens to them, since it may stop when the host forwards. (Version 252 goes by its own IPForward= alone.)"""
    link = host["links"][name]
    advertised = name in picture.advertised(host, set())
    networkd = link["governor"] == "networkd" or link["renderer"] == "networkd"
    return {"device": name, **_governed(link), "ra": advertised, "needs_accept_ra": bool(advertised and networkd and forwards)}


def _everywhere(setup: Setup) -> bool:
    """Whether IPv6 is forwarded between all interfaces, not between some."""
    return any(item["name"] == "net/ipv6/conf/all/forwarding" for item in setup["sysctls"])


def _governed(link: dict[str, Any]) -> dict[str, Any]:
    return {name: link[name] for name in GOVERNED}


def _modules(lease: Lease, carried: str, backend: str, host: Host) -> list[str]:
    """What the tunnel needs; with an agent also what it may go on with, once the broker grants the other kind of tunnel."""
    wanted = modules_of(carried)
    if backend == registry.AGENT and lease.request.mode == "v6anyv4":
        wanted = [*wanted, *(kind for kind in ("fou", "sit") if host["kinds"][kind]["available"])]
    how = {"ip6_tunnel": "ip6tnl"}
    return [module for module in dict.fromkeys(wanted) if host["kinds"][how.get(module, module)]["how"] != "builtin"]


def _keepalive(numbers: dict[str, Any], carried: str, backend: str, longest: int) -> dict[str, Any] | None:
    if carried != "fou" or backend == registry.AGENT:
        return None
    told = numbers["keepalive"] or {"interval": common.KEEPALIVE_INTERVAL, "address": numbers["probe"]}
    return {"interval": min(told["interval"], longest or told["interval"]), "address": told["address"]}


def _why_mode(lease: Lease, asked: str | None, host: Host, data_plane: str) -> str:
    granted, requested = lease.grant.mode, lease.request.mode
    if asked and asked != requested:
        return mode_of(asked, host, data_plane)[1]
    if requested == "v6anyv4":
        how = {"v6v4": "there is no NAT between this host and the broker", "v6udpv4": "there is a NAT between this host and the broker"}
        return f"{granted}: the broker chose it, since {how.get(granted, 'it offers nothing else')}."
    return f"{granted}, as asked."


def _truth(value: Any, name: str) -> bool:
    """A boolean out of one or of text (Jinja makes text of everything in a string)."""
    if isinstance(value, bool):
        return value
    if str(value).lower() not in FLAGS:
        raise LocalError("invalid_option", f"{name} {value!r} is neither true nor false.", "")
    return FLAGS[str(value).lower()]


def _whole(value: int | str, name: str) -> int:
    try:
        if isinstance(value, bool) or int(value) < 0:
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise LocalError("invalid_option", f"{name} {value!r} is not a whole number.", "") from None


def _seconds(value: float | str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise LocalError("invalid_option", f"probe_timeout {value!r} is not a number of seconds.", "") from None
