# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a client session needs to know, checked before a byte is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Callable

from . import sasl
from .errors import LocalError
from .lease import Address, Grant
from .request import TunnelRequest
from .rudp import RudpConfig
from .xml_write import DEFAULT_PORT

ACTIONS = ("create", "delete", "info", "capabilities")

_VERSION = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\Z")
_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]*):([0-9]{1,5})\Z")


@dataclass(frozen=True)
class Credentials:
    """Who asks. None, None is anonymous. The password never shows in a repr."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ClientConfig:
    """What one session needs to know.

    transport: udp | tcp. server: host[:port] exactly as configured (it is hashed by DIGEST-MD5). local_address: of our socket, fills
    the client address where the request names none. rng(n) gives n random bytes. version: 2.0.2 | 2.0.1 | 2.0.0 | 1.0.1 | ...
    action: create | delete | info | capabilities. grant: the tunnel meant by delete and info, where it is known.
    auth_method: any | anonymous | plain | digest-md5 | passdss-3des-1; `any` uses PLAIN only with allow_plaintext.
    verify_key(blob): called with the broker's PASSDSS key, raises RemoteError to refuse it; None: PASSDSS cannot be used.
    peer_is_loopback: the broker was reached over loopback, so loopback endpoints are allowed in its answer.
    strict: a prefix of another length than asked is refused instead of warned about.
    reply_timeout: seconds that a broker may take for one whole answer over TCP, trickled bytes or not.
    grace: seconds of silence over TCP after which an answer without its end is taken as it is.
    """

    transport: str
    server: str
    request: TunnelRequest
    local_address: IPv4Address | IPv6Address
    rng: Callable[[int], bytes] = field(repr=False)
    version: str = "2.0.2"
    action: str = "create"
    grant: Grant | None = None
    auth_method: str = "any"
    credentials: Credentials = Credentials()
    allow_plaintext: bool = False
    verify_key: Callable[[bytes], None] | None = field(default=None, repr=False)
    peer_is_loopback: bool = False
    strict: bool = False
    rudp: RudpConfig = RudpConfig()
    reply_timeout: float = 30.0
    grace: float = 2.0


def port_of(server: str) -> int:
    """The port in a server string (host, host:port, [address]:port; a bare IPv6 address has none)."""
    match = _PORT.match(server)
    return int(match[1]) if match else DEFAULT_PORT


def check_config(config: ClientConfig) -> Address | None:
    """Refuse what cannot work before a byte is sent. Returns the client address for a create, where it is known also for others."""
    request = config.request

    def refuse(message: str, hint: str = "") -> None:
        raise LocalError("invalid_request", message, hint)

    if config.transport not in ("udp", "tcp"):
        refuse(f"transport {config.transport!r} is unknown.", "Use udp or tcp.")
    if config.action not in ACTIONS:
        refuse(f"action {config.action!r} is unknown.", f"Use one of {', '.join(ACTIONS)}.")
    if not _VERSION.match(config.version):
        refuse(f"version {config.version!r} is not a TSP version.", "Use 2.0.2, 2.0.1, 2.0.0 or 1.0.1.")
    if config.version.startswith("1.") and (config.transport == "udp" or request.mode in ("v6udpv4", "v4v6")):
        refuse(f"TSP {config.version} has no UDP and no modes v6udpv4 and v4v6.", "Use version 2.0.0 or later.")
    if not config.server or not config.server.isprintable() or " " in config.server:
        refuse("The broker's name is not a host or host:port.")
    if config.auth_method.lower() not in sasl.AUTH_METHODS:
        refuse(f"auth_method {config.auth_method!r} is unknown.", f"Use one of {', '.join(sasl.AUTH_METHODS)}.")
    if config.action == "create" and request.mode == "v6udpv4" and config.transport == "tcp":
        refuse("A v6udpv4 tunnel travels in the UDP session that negotiated it and cannot be asked for over TCP.")
    version = 6 if request.mode == "v4v6" else 4
    address: Address | None = request.client_ipv6 if version == 6 else request.client_ipv4
    if address is None and config.local_address.version == version:
        address = config.local_address
    if address is None and config.action == "create":
        raise LocalError("client_address_missing",
                         f"Mode {request.mode} needs the client's IPv{version} address, and the broker was reached over IPv{10 - version}.",
                         f"Set client_ipv{version}, or name the broker by an IPv{version} address.")
    return address
