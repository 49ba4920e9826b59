# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What follows from a lease: every number and network that templates write, computed in this one place.

`tunnel_plan` turns a lease and a few choices of the play into a plain dict of JSON types, so that a template holds no arithmetic:

    mode               v6v4 | v6udpv4 | v4v6
    family             IP version inside the tunnel: 6, or 4 with v4v6
    tunnel             {local, remote: outer addresses (text), local as the host itself has it behind a NAT;
                        encapsulation: ipv6ip | udp | ipip6; local_port, remote_port: UDP ports with v6udpv4, else null}
    address            our address inside the tunnel (text), address_length its length (128, or 32 with v4v6),
                       address_cidr both together, peer the broker's address inside the tunnel
    mtu                bytes an inner packet may have; overhead: bytes that the encapsulation adds
    mss                {ipv6, ipv4}: largest TCP segment through the tunnel, for clamping
    ra_mtu             MTU to advertise on the LAN, null with v4v6 (there are no router advertisements for IPv4)
    prefix             the delegated network (text) or null; prefix_length its length or null
    lan                [{interface, network, address, length, cidr, netmask (IPv4 only), subnet}], one per LAN interface;
                       our address there is the ::1 (the next one where ::1 is an end of the tunnel)
    router             whether packets are forwarded: true as soon as there is a delegated prefix
    unreachable        network to route to nowhere so that unused parts of the prefix do not loop back into the tunnel, or null
    unreachable_ipv4   the same as {address, netmask} for devices that write IPv4 networks so; null with IPv6 and without one
    default_route      {destination: ::/0 or 0.0.0.0/0, gateway: the broker's inner address}
    sources            networks whose packets may leave through the tunnel (for source-specific routes): our address, the prefix
    keepalive          {interval, address} or null; address is always set here (the broker's inner address where it named none)
    probe              whom to ping to prove the tunnel

The MTU is that of the path to the broker (measured with the lease, else 1500, unless told) less the headers of the encapsulation: IPv4
20, with UDP 28, IPv6 40. Inner IPv6 never goes below 1280 (RFC 8200 section 5): on a smaller link the outer packets are fragmented instead.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import chain
from typing import Any

from .._tsp.errors import LocalError
from .._tsp.lease import Lease, Network

OVERHEAD = {"v6v4": 20, "v6udpv4": 28, "v4v6": 40}
ENCAPSULATION = {"v6v4": "ipv6ip", "v6udpv4": "udp", "v4v6": "ipip6"}
MTU_FLOOR = {6: 1280, 4: 576}
MTU_CEILING = 65535
LINK_MTU = 1500
IP_AND_TCP_HEADERS = {6: 60, 4: 40}
LAN_LENGTH = 64
TSP_PORT = 3653


def tunnel_plan(lease: Lease | dict[str, Any], *, lan_interfaces: Any = (), mtu: int | str | None = None,
                link_mtu: int | str | None = None) -> dict[str, Any]:
    """The plan (module docstring) for `lease`, an object or its dict.

    lan_interfaces: names, or dicts {name, subnet}: subnet is the number of the network inside the prefix (0 first; text
    may be decimal, or hexadecimal with 0x); interfaces without one get the lowest numbers left, in order; networks that hold an end of
    the tunnel come last. mtu: None or "auto" computes,
    a number overrides. link_mtu: MTU of the link under the tunnel; None or "auto" is what the lease says of the path, else 1500.

    Raises LocalError: `lease_invalid`, `mtu_invalid`, `lan_invalid` (contradiction in the choices), `no_prefix` (LAN interfaces
    without a delegated prefix), `prefix_too_small` (more LAN interfaces than networks).
    """
    if not isinstance(lease, Lease):
        lease = Lease.from_dict(lease)
    grant = lease.grant
    family = grant.inner_version
    if link_mtu is None or link_mtu in ("", "auto"):
        link_mtu = lease.path_mtu or LINK_MTU
    size = _mtu(grant.mode, family, mtu, link_mtu)
    address, peer = grant.inner_address(grant.client), grant.inner_address(grant.server)
    whole = 128 if family == 6 else 32
    target = str(peer)
    if grant.keepalive is not None and grant.keepalive.address is not None:
        target = str(grant.keepalive.address)
    lan = _lan(grant.prefix, _interfaces(lan_interfaces), {str(address), str(peer), target})
    udp = grant.mode == "v6udpv4"
    prefix = grant.prefix
    return {
        "mode": grant.mode,
        "family": family,
        "tunnel": {
            "local": str(lease.local_address or grant.outer_address(grant.client)),
            "remote": str(grant.outer_address(grant.server)),
            "encapsulation": ENCAPSULATION[grant.mode],
            "local_port": grant.client.udp_port if udp else None,
            "remote_port": (grant.server.udp_port or TSP_PORT) if udp else None,
        },
        "address": str(address),
        "address_length": whole,
        "address_cidr": f"{address}/{whole}",
        "peer": str(peer),
        "mtu": size,
        "overhead": OVERHEAD[grant.mode],
        "mss": {"ipv6": size - IP_AND_TCP_HEADERS[6], "ipv4": size - IP_AND_TCP_HEADERS[4]},
        "ra_mtu": size if family == 6 else None,
        "prefix": None if prefix is None else str(prefix),
        "prefix_length": None if prefix is None else prefix.prefixlen,
        "lan": lan,
        "router": prefix is not None,
        "unreachable": _unreachable(prefix, lan),
        "unreachable_ipv4": _with_netmask(_unreachable(prefix, lan)),
        "default_route": {"destination": "::/0" if family == 6 else "0.0.0.0/0", "gateway": str(peer)},
        "sources": [f"{address}/{whole}"] + ([] if prefix is None else [str(prefix)]),
        "keepalive": None if grant.keepalive is None else {"interval": grant.keepalive.interval, "address": target},
        "probe": target,
    }


def lan_names(wanted: Any) -> list[str]:
    """The names of LAN interfaces as a play wrote them. Raises LocalError `lan_invalid`."""
    return [name for name, _number_ in _interfaces(wanted)]


def _mtu(mode: str, family: int, wanted: int | str | None, link_mtu: int | str) -> int:
    floor = MTU_FLOOR[family]
    if wanted is None or wanted in ("", "auto"):
        link = _number(link_mtu, "mtu_invalid", "link_mtu")
        if not MTU_FLOOR[4] <= link <= MTU_CEILING:
            raise LocalError("mtu_invalid", f"link_mtu {link} is out of range.", f"Use {MTU_FLOOR[4]} to {MTU_CEILING}, usually 1500.")
        return max(floor, link - OVERHEAD[mode])
    value = _number(wanted, "mtu_invalid", "mtu")
    if not floor <= value <= MTU_CEILING - OVERHEAD[mode]:
        raise LocalError("mtu_invalid", f"mtu {value} is out of range for a {mode} tunnel.",
                         f"Use auto, or {floor} to {MTU_CEILING - OVERHEAD[mode]}; IPv6 does not work below 1280.")
    return value


def _interfaces(wanted: Any) -> list[tuple[str, int | None]]:
    """[(name, subnet number or None)] out of what a play wrote, each name and each number once."""
    if isinstance(wanted, (str, dict)):
        wanted = [wanted] if wanted else []
    out: list[tuple[str, int | None]] = []
    for item in wanted or ():
        entry = {"name": item} if isinstance(item, str) else item
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
            raise LocalError("lan_invalid", "A LAN interface has no name.", "Write a name, or {name: eth1, subnet: 1}.")
        unknown = set(entry) - {"name", "subnet"}
        if unknown:
            raise LocalError("lan_invalid", f"LAN interface {entry['name']}: {', '.join(sorted(map(str, unknown)))} is not known.",
                             "The keys are name and subnet.")
        number = entry.get("subnet")
        if number is not None:
            number = _number(number, "lan_invalid", f"The subnet of LAN interface {entry['name']}")
            if number < 0:
                raise LocalError("lan_invalid", f"The subnet of LAN interface {entry['name']} is negative.", "Count from 0.")
        if entry["name"] in (name for name, _number_ in out):
            raise LocalError("lan_invalid", f"LAN interface {entry['name']} is named twice.", "Name each interface once.")
        if number is not None and number in (other for _name, other in out):
            raise LocalError("lan_invalid", f"Subnet {number} is given to two LAN interfaces.", "Give each its own number.")
        out.append((entry["name"], number))
    return out


def _lan(prefix: Network | None, interfaces: list[tuple[str, int | None]], ends: set[str]) -> list[dict[str, Any]]:
    if not interfaces:
        return []
    if prefix is None:
        raise LocalError("no_prefix", f"The lease has no delegated prefix for LAN interface {interfaces[0][0]}.",
                         "Ask with host_type: router (and prefix_length), or name no LAN interface.")
    length = _lan_length(prefix, interfaces)
    room = 1 << (length - prefix.prefixlen)
    taken = {number for _name, number in interfaces if number is not None}
    highest = max(taken, default=0)
    if highest >= room or len(interfaces) > room:
        asked = f"subnet {highest}" if highest >= room else f"{len(interfaces)} LAN interfaces"
        raise LocalError("prefix_too_small", f"The delegated prefix {prefix} holds {room} network{'s' if room > 1 else ''} "
                         f"of length {length}, too few for {asked}.", "Ask for a shorter prefix_length, or use fewer interfaces.")
    step = 1 << (prefix.max_prefixlen - length)
    first = int(prefix.network_address)
    held = {(int(end) - first) // step for end in map(ip_address, ends) if end in prefix}
    free = chain((n for n in range(room) if n not in held), sorted(held))
    out: list[dict[str, Any]] = []
    for name, number in interfaces:
        if number is None:
            number = next(n for n in free if n not in taken)
        network = ip_network((str(prefix.network_address + number * step), length))
        address = network.network_address + 1
        while str(address) in ends:
            address += 1
        out.append({"interface": name, "network": str(network), "address": str(address), "length": length,
                    "cidr": f"{address}/{length}", "netmask": str(network.netmask) if prefix.version == 4 else None,
                    "subnet": number})
    return out


def _lan_length(prefix: Network, interfaces: list[tuple[str, int | None]]) -> int:
    """Length of one LAN network: 64 with IPv6 (RFC 4291 section 2.5.1); with IPv4 the prefix cut into as few parts as do."""
    if prefix.version == 6:
        if prefix.prefixlen > LAN_LENGTH:
            raise LocalError("prefix_too_small", f"The delegated prefix {prefix} is longer than 64 bits: a LAN needs a /64.",
                             "Ask for prefix_length 64 or less, or name no LAN interface.")
        return LAN_LENGTH
    parts = max([len(interfaces)] + [number + 1 for _name, number in interfaces if number is not None])
    length = prefix.prefixlen + (parts - 1).bit_length()
    if length > 30:
        raise LocalError("prefix_too_small", f"The delegated prefix {prefix} cannot be cut into {parts} "
                         f"network{'s' if parts > 1 else ''} with room for hosts.",
                         "Ask for a shorter prefix_length, or use fewer interfaces.")
    return length


def _unreachable(prefix: Network | None, lan: list[dict[str, Any]]) -> str | None:
    """The delegated prefix, unless the whole of it is one LAN network.

    Without this route a packet to an unused part of the prefix would leave by our default route, and come back, until its hop
    limit is spent.
    """
    if prefix is None or any(entry["network"] == str(prefix) for entry in lan):
        return None
    return str(prefix)


def _with_netmask(network: str | None) -> dict[str, str] | None:
    parsed = None if network is None else ip_network(network)
    if parsed is None or parsed.version == 6:
        return None
    return {"address": str(parsed.network_address), "netmask": str(parsed.netmask)}


def _number(value: Any, code: str, name: str) -> int:
    """An int out of an int or of text (Jinja makes text of everything in a string)."""
    try:
        if isinstance(value, bool):
            raise ValueError("a boolean")
        return int(value, 0) if isinstance(value, str) else int(value)
    except (TypeError, ValueError):
        raise LocalError(code, f"{name} is not a number.", "Write a plain number.") from None
