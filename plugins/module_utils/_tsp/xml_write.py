# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The messages that we send, as bytes laid out the way the old client and its brokers do (tsp-protocol.md sections 1.5, 4.1, 4.3).

Old parsers compare text: double quotes, one blank between tag and attribute, no white space around addresses, no prolog, lower case,
CR LF, IPv6 in eight full groups (templates cut prefixes as text). Hence templates of strings and no XML library. Everything that is
put in here is an address, a number, or a name that was checked against DNS_NAME, so nothing needs escaping.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Union

from .events import BrokerAddress
from .lease import Endpoint, Grant, Keepalive
from .request import TunnelRequest
from .status import REDIRECT_BASE, phrase

Address = Union[IPv4Address, IPv6Address]

ACCEPT = b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'
REJECT = b'Content-length: 35\r\n<tunnel action="reject"></tunnel>\r\n'

DEFAULT_PORT = 3653


def with_length(body: bytes) -> bytes:
    """`body` behind its Content-length line, spelled as old clients compare it."""
    return b"Content-length: %d\r\n" % len(body) + body


def status_line(status: int, text: str = "") -> bytes:
    """`status` and a reason, ours unless a printable one is given; CR LF."""
    shown = "".join(c for c in text if " " <= c <= "~")[:80].strip() or phrase(status)
    return f"{status} {shown}\r\n".encode("ascii")


def full(address: Address) -> str:
    """IPv6 in eight full groups, lower case; IPv4 as ever. (`address.exploded` is the same, twenty times slower.)"""
    if address.version == 4:
        return str(address)
    digits = f"{int(address):032x}"
    return ":".join([digits[at:at + 4] for at in range(0, 32, 4)])


def _address(indent: str, address: Address) -> str:
    return f'{indent}<address type="ipv{address.version}">{full(address)}</address>\r\n'


def create(request: TunnelRequest, client: Address) -> bytes:
    """A create request (section 4.1). client: our end of the tunnel's outside, IPv6 with v4v6."""
    lines = [f'<tunnel action="create" type="{request.mode}" proxy="{"yes" if request.proxy else "no"}">\r\n <client>\r\n',
             f'  <address type="ipv{client.version}">{client}</address>\r\n']
    if request.keepalive:
        target = '<address type="ipv4">127.0.0.1' if request.mode == "v4v6" else '<address type="ipv6">::'
        lines.append(f'  <keepalive interval="{request.keepalive_interval}">\r\n    {target}</address>\r\n  </keepalive>\r\n')
    if request.host_type == "router":
        lines.append(f'  <router>\r\n   <prefix length="{request.wanted_prefix_length}"/>\r\n')
        if request.dns_servers:
            lines.append("   <dns_server>\r\n")
            lines += [f'     <address type="dn">{name}</address>\r\n' for name in request.dns_servers]
            lines.append("   </dns_server>\r\n")
        lines.append("  </router>\r\n")
    lines.append(" </client>\r\n</tunnel>\r\n")
    return with_length("".join(lines).encode("ascii"))


def about(action: str, mode: str, proxy: bool, addresses: Iterable[Address]) -> bytes:
    """A delete or info request: about the caller's own tunnel, named by its client addresses where they are known."""
    lines = [f'<tunnel action="{action}" type="{mode}" proxy="{"yes" if proxy else "no"}">\r\n <client>\r\n']
    lines += [f'  <address type="ipv{address.version}">{address}</address>\r\n' for address in addresses]
    lines.append(" </client>\r\n</tunnel>\r\n")
    return with_length("".join(lines).encode("ascii"))


def info(grant: Grant) -> bytes:
    """The broker's answer to create and info: `200 Success` and the tunnel (section 4.2)."""
    lifetime = "" if grant.lifetime is None else f' lifetime="{grant.lifetime}"'
    lines = [f'200 Success\r\n<tunnel action="info" type="{grant.mode}"{lifetime}>\r\n  <server>\r\n']
    lines += _end(grant.server)
    lines.append("  </server>\r\n  <client>\r\n")
    lines += _end(grant.client)
    if grant.prefix is not None or grant.dns_servers:
        lines.append("    <router>\r\n")
        if grant.prefix is not None:
            lines.append(f'      <prefix length="{grant.prefix.prefixlen}">{full(grant.prefix.network_address)}</prefix>\r\n')
        if grant.dns_servers:
            lines.append("      <dns_server>\r\n")
            lines += [f'        <address type="dn">{name}</address>\r\n' for name in grant.dns_servers]
            lines.append("      </dns_server>\r\n")
        lines.append("    </router>\r\n")
    if grant.keepalive is not None:
        lines.append(_keepalive(grant, grant.keepalive))
    lines.append("  </client>\r\n</tunnel>\r\n")
    return with_length("".join(lines).encode("ascii"))


def _end(end: Endpoint) -> list[str]:
    lines = [_address("    ", address) for address in (end.ipv4, end.ipv6) if address is not None]
    if end.dns_name is not None:
        lines.append(f'    <address type="dn">{end.dns_name}</address>\r\n')
    return lines


def _keepalive(grant: Grant, keepalive: Keepalive) -> str:
    # Old clients need somebody to ping: our end of the tunnel where nobody else is named.
    target = keepalive.address if keepalive.address is not None else grant.inner_address(grant.server)
    if target is None:
        raise AssertionError
    return f'    <keepalive interval="{keepalive.interval}">\r\n{_address("      ", target)}    </keepalive>\r\n'


def redirection(brokers: Iterable[BrokerAddress], status: int = REDIRECT_BASE + 200) -> bytes:
    """A status line and the list of brokers to go to (section 6), without Content-length."""
    lines = [f'{status} Redirection\r\n<tunnel action="list" type="broker">\r\n  <broker>\r\n']
    for broker in brokers:
        address = broker.address
        if broker.port is not None and broker.port != DEFAULT_PORT:
            address = f"[{address}]:{broker.port}" if broker.family == "ipv6" else f"{address}:{broker.port}"
        lines.append(f'    <address type="{broker.family}">{address}</address>\r\n')
    lines.append("  </broker>\r\n</tunnel>\r\n")
    return "".join(lines).encode("ascii")
