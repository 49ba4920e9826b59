# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Where a tunnel ends and of which mode it is: the judgement on what the client asked, said of itself, and was seen to be.

| asked | address named | transport | granted |
|---|---|---|---|
| v6anyv4 | the one seen, or none | any | v6v4 where it is offered, else as below |
| v6anyv4 | another (NAT) | UDP over IPv4 | v6udpv4 |
| v6anyv4 | another (NAT) | TCP | 303: the tunnel would need this very UDP socket |
| v6anyv4 | any, proxy | any | v6v4 |
| v6udpv4 | any | UDP over IPv4, no proxy | v6udpv4, else 303 |
| v6v4, v4v6 | the one seen, or none | over IPv4; over IPv6 | as asked |
| v6v4, v4v6 | another | any | 501, 502; with proxy and the right to it: as asked |
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from .._tsp import status
from .._tsp.request import TunnelRequest
from .._tsp.server import Refusal
from .pools import Address

NEVER4 = tuple(IPv4Network(n) for n in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
NEVER6 = tuple(IPv6Network(n) for n in ("::/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8"))


@dataclass(frozen=True)
class Placement:
    """mode granted; outer end of the client; port: its UDP port with v6udpv4, else None; proxy: the end is not the asker itself."""

    mode: str
    outer: Address
    port: int | None
    proxy: bool


def place(request: TunnelRequest, named: Address | None, transport: str, peer: tuple[str, int], *, offered: Collection[str],
          may_proxy: bool, own: Collection[Address]) -> Placement:
    """Judge. offered: modes; own: outer addresses of this broker. Raises Refusal with the reason for the log in its text."""
    seen = ip_address(peer[0].partition("%")[0])
    mode = request.mode
    if mode == "v6anyv4":
        mode = _any(request, named, transport, seen, offered)
    if mode not in offered:
        raise Refusal(status.UNSUPPORTED_TUNNEL_TYPE, f"{mode} is not offered")
    if mode == "v6udpv4":
        if request.proxy:
            raise Refusal(status.UNSUPPORTED_TUNNEL_TYPE, "v6udpv4 ends at the asker's own socket, so nobody can ask for another")
        if transport != "udp" or seen.version != 4:
            raise Refusal(status.UNSUPPORTED_TUNNEL_TYPE, "v6udpv4 must be asked for over UDP and IPv4")
        return Placement(mode, seen, peer[1], False)
    version, bad = (6, status.INVALID_IPV6) if mode == "v4v6" else (4, status.INVALID_IPV4)
    outer = seen if named is None and not request.proxy else named
    if outer is None or outer.version != version:
        raise Refusal(bad, f"an IPv{version} address is needed for {mode}")
    if outer != seen:
        if not request.proxy:
            how = "use v6udpv4 behind NAT" if version == 4 else "ask from there"
            raise Refusal(bad, f"{outer} is not the address this came from, {seen}: {how}")
        if not may_proxy:
            raise Refusal(bad, "this account may not ask for others (proxy)")
    loopback_to_itself = outer == seen and outer.is_loopback
    networks = NEVER6 if version == 6 else NEVER4
    if not loopback_to_itself and (outer.is_loopback or outer in own or any(outer in network for network in networks)):
        raise Refusal(bad, f"{outer} cannot be a tunnel endpoint")
    return Placement(mode, outer, None, request.proxy and outer != seen)


def _any(request: TunnelRequest, named: Address | None, transport: str, seen: Address, offered: Collection[str]) -> str:
    direct = named is None or named == seen
    if "v6v4" in offered and (request.proxy or direct and seen.version == 4):
        return "v6v4"
    if request.proxy:
        raise Refusal(status.UNSUPPORTED_TUNNEL_TYPE, "a proxy can only have v6v4, which is not offered")
    if transport != "udp" or seen.version != 4:
        why = "" if direct else f"named {named}, seen as {seen}: "
        raise Refusal(status.UNSUPPORTED_TUNNEL_TYPE, f"{why}only v6udpv4 would go, asked for over UDP and IPv4")
    return "v6udpv4"
