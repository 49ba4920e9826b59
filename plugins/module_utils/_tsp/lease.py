# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Grant and Lease: what a broker granted, parsed into real types.

A `Grant` is the content of the broker's info message (RFC 5572 section 4.7.2). A `Lease` is a Grant plus who gave it, over what,
when, and what had been asked: the one value that crosses between the parts of the collection. Neither can exist unchecked:
constructing one validates it, and nothing downstream validates again. No field holds free text from the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Union

from .errors import LocalError, RemoteError
from .request import DNS_NAME, TunnelRequest

SCHEMA = 1
GRANTED_MODES = ("v6v4", "v6udpv4", "v4v6")
MAX_LIFETIME = 10 * 365 * 86400
UNUSABLE: dict[int, tuple[Any, ...]] = {
    6: tuple(IPv6Network(text) for text in ("::/8", "fe80::/10", "ff00::/8")),
    4: tuple(IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"))}
"""What no delegated prefix may hold any part of: loopback, link-local, multicast, IPv4 in the guise of IPv6."""
SIX_TO_FOUR = 0x2002 << 112
"""RFC 3056: 2002:V4ADDR::/48 belongs to the host with that IPv4 address."""

Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]


def _refuse(message: str) -> None:
    raise RemoteError("bad_grant", f"The broker granted something unusable: {message}.",
                      "Nothing was changed. Report it to the broker's operator.")


@dataclass(frozen=True)
class Endpoint:
    """One end of a tunnel. udp_port: the local UDP port (client) or the broker's (server) with v6udpv4, else None."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    dns_name: str | None = None
    udp_port: int | None = None


@dataclass(frozen=True)
class Keepalive:
    """interval in seconds (> 0); address: whom to ping inside the tunnel, None when the broker named nobody usable."""

    interval: int
    address: Address | None = None


@dataclass(frozen=True)
class Grant:
    """A validated info message. lifetime in seconds, None when the broker named none (tsp-protocol.md sections 4.2, 4.4).

    Raises RemoteError `bad_grant`: wrong family, loopback, multicast or unspecified addresses, a delegated prefix containing the outer
    address of either end, a name that is not a DNS name, a number out of range.
    """

    mode: str
    client: Endpoint
    server: Endpoint
    prefix: Network | None = None
    dns_servers: tuple[str, ...] = ()
    keepalive: Keepalive | None = None
    lifetime: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in GRANTED_MODES:
            _refuse("tunnel type is not v6v4, v6udpv4 or v4v6")
        for side, end in (("client", self.client), ("server", self.server)):
            for family, address in (("IPv4", end.ipv4), ("IPv6", end.ipv6)):
                if address is None:
                    _refuse(f"the {side}'s {family} address is missing")
                elif address.is_multicast or address.is_unspecified or address.is_link_local or _is_disguised(address) or (
                        address.is_loopback and address.version == self.inner_version):
                    _refuse(f"the {side}'s {family} address {address} cannot be a tunnel address")
            if end.ipv4 == IPv4Address("255.255.255.255"):
                _refuse(f"the {side}'s IPv4 address is the broadcast address")
            if end.dns_name is not None and not DNS_NAME.match(end.dns_name):
                _refuse(f"the {side}'s name is not a DNS name")
            if end.udp_port is not None and not 1 <= end.udp_port <= 65535:
                _refuse(f"the {side}'s UDP port is out of range")
        if self.client.ipv4 == self.server.ipv4 and self.client.ipv6 == self.server.ipv6:
            _refuse("both ends have the same addresses")
        if self.prefix is not None:
            if self.prefix.version != self.inner_version:
                _refuse(f"the delegated prefix {self.prefix} is of the wrong family for {self.mode}")
            if _is_disguised(self.prefix.network_address) or any(self.prefix.overlaps(other) for other in UNUSABLE[self.prefix.version]):
                _refuse(f"the delegated prefix {self.prefix} cannot be used on a network")
            for outer in (self.outer_address(self.client), self.outer_address(self.server)):
                if outer is not None and _holds_outer(self.prefix, outer):
                    _refuse(f"the delegated prefix {self.prefix} contains the tunnel's own outer endpoint {outer}")
        for name in self.dns_servers:
            if not DNS_NAME.match(name):
                _refuse("a DNS server's name is not a DNS name")
        if self.keepalive is not None:
            if not 1 <= self.keepalive.interval <= 86400:
                _refuse(f"the keepalive interval {self.keepalive.interval} is out of range")
            target = self.keepalive.address
            if target is not None and (target.version != self.inner_version or target.is_loopback or target.is_multicast
                                       or target.is_unspecified or _is_disguised(target)):
                _refuse(f"the keepalive address {target} cannot be pinged through the tunnel")
        if self.lifetime is not None and not 1 <= self.lifetime <= MAX_LIFETIME:
            _refuse(f"the lifetime {self.lifetime} is out of range")

    def check_outer(self, peer_is_loopback: bool) -> None:
        """Refuse loopback outer endpoints, unless the broker itself was reached over loopback (tests, benchmarks, demos).

        The client calls this before it reports a grant. Raises RemoteError `bad_grant`.
        """
        for side, end in (("client", self.client), ("server", self.server)):
            outer = self.outer_address(end)
            if outer is not None and outer.is_loopback and not peer_is_loopback:
                _refuse(f"the {side}'s outer address {outer} is a loopback address")

    @property
    def inner_version(self) -> int:
        """IP version that travels inside the tunnel: 6, or 4 with v4v6."""
        return 4 if self.mode == "v4v6" else 6

    def inner_address(self, end: Endpoint) -> Address | None:
        """The address of `end` inside the tunnel."""
        return end.ipv4 if self.mode == "v4v6" else end.ipv6

    def outer_address(self, end: Endpoint) -> Address | None:
        """The address of `end` that the encapsulated packets travel between."""
        return end.ipv6 if self.mode == "v4v6" else end.ipv4


def _is_disguised(address: Address) -> bool:
    """IPv4 written as IPv6 (::ffff:192.0.2.1), or an address with a zone, which may be followed by anything."""
    return isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or "%" in str(address))


def _holds_outer(prefix: Network, outer: Address) -> bool:
    """Whether packets to this end of the tunnel would be routed into the delegated prefix, and so into the tunnel again.

    The families inside and outside differ, so an IPv4 end is found by the IPv6 addresses that stand for it: its 6to4 network.
    """
    if prefix.version == outer.version:
        return outer in prefix
    return outer.version == 4 and isinstance(prefix, IPv6Network) and prefix.overlaps(
        IPv6Network((SIX_TO_FOUR | int(outer) << 80, 48)))


@dataclass(frozen=True)
class Lease:
    """A grant in force. JSON on disk, a dict in facts (docs/lease-schema.md); times are aware UTC datetimes.

    broker: host[:port] as configured or as redirected to; via: the configured broker whose redirection led there, None when it was
    asked directly. transport: udp | tcp (| udp6 | tcp6). auth_method: lower case SASL name. username: who asked, None when
    anonymous. quirks: tolerances used towards this broker, name to count.
    warnings: sentences about what was granted otherwise than asked. local_address: the address of the host that asked at which the
    tunnel ends there, another one than the client's outer one where a NAT stands between; None by proxy, and where there was none.
    path_mtu: bytes that the path to the broker carries unfragmented, None by proxy and where nobody looked.
    """

    broker: str
    transport: str
    protocol_version: str
    auth_method: str
    grant: Grant
    request: TunnelRequest
    obtained_at: datetime
    username: str | None = None
    quirks: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    via: str | None = None
    local_address: Address | None = None
    path_mtu: int | None = None

    @property
    def expires_at(self) -> datetime | None:
        """obtained_at + lifetime; None when the broker set no lifetime."""
        return None if self.grant.lifetime is None else self.obtained_at + timedelta(seconds=self.grant.lifetime)

    def expired(self, now: datetime, margin: float = 0.0) -> bool:
        """Whether less than `margin` seconds are left at `now` (aware)."""
        return self.expires_at is not None and now + timedelta(seconds=margin) >= self.expires_at

    def answers(self, request: TunnelRequest, username: str | None, now: datetime) -> bool:
        """Whether this lease still answers `request` of `username`: same question, same asker, not expired."""
        return self.request == request and self.username == username and not self.expired(now)

    def with_udp_port(self, port: int | None) -> Lease:
        """The same lease with the client's local UDP port filled in."""
        return replace(self, grant=replace(self.grant, client=replace(self.grant.client, udp_port=port)))

    def to_dict(self) -> dict[str, Any]:
        """The public form, JSON types only (schema 1). Holds no secret."""
        grant = self.grant

        def end(value: Endpoint) -> dict[str, Any]:
            return {"ipv4": str(value.ipv4), "ipv6": str(value.ipv6), "dns_name": value.dns_name, "udp_port": value.udp_port}

        keepalive = grant.keepalive
        return {
            "schema": SCHEMA,
            "broker": self.broker,
            "via": self.via,
            "transport": self.transport,
            "protocol_version": self.protocol_version,
            "auth_method": self.auth_method,
            "username": self.username,
            "mode": grant.mode,
            "client": end(grant.client),
            "server": end(grant.server),
            "local_address": None if self.local_address is None else str(self.local_address),
            "path_mtu": self.path_mtu,
            "prefix": None if grant.prefix is None else str(grant.prefix),
            "dns_servers": list(grant.dns_servers),
            "keepalive": None if keepalive is None else {
                "interval": keepalive.interval, "address": None if keepalive.address is None else str(keepalive.address)},
            "lifetime": grant.lifetime,
            "obtained_at": _iso(self.obtained_at),
            "expires_at": None if self.expires_at is None else _iso(self.expires_at),
            "request": self.request.to_dict(),
            "quirks": dict(sorted(self.quirks.items())),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Lease:
        """Inverse of to_dict. Everything is checked again: raises LocalError `lease_invalid`, never anything else."""
        try:
            if not isinstance(data, dict) or data.get("schema") != SCHEMA:
                raise ValueError(f"schema {SCHEMA} expected")

            def end(value: dict[str, Any]) -> Endpoint:
                return Endpoint(IPv4Address(_text(value["ipv4"])), IPv6Address(_text(value["ipv6"])), value.get("dns_name"),
                                _whole(value.get("udp_port")))

            keepalive = data.get("keepalive")
            grant = Grant(
                mode=data["mode"], client=end(data["client"]), server=end(data["server"]),
                prefix=None if data.get("prefix") is None else ip_network(_text(data["prefix"])),
                dns_servers=tuple(data.get("dns_servers") or ()),
                keepalive=None if keepalive is None else Keepalive(
                    _whole(keepalive["interval"]) or 0,
                    None if keepalive.get("address") is None else ip_address(_text(keepalive["address"]))),
                lifetime=_whole(data.get("lifetime")))
            username = data.get("username")
            for name in ("broker", "transport", "protocol_version", "auth_method"):
                if not isinstance(data[name], str) or not data[name].isprintable():
                    raise ValueError(f"{name} is not a line of text")
            if username is not None and not isinstance(username, str):
                raise ValueError("username is not text")
            via = data.get("via")
            if via is not None and (not isinstance(via, str) or not via.isprintable()):
                raise ValueError("via is not a line of text")
            local = data.get("local_address")
            if local is not None and "%" in _text(local):
                raise ValueError("local_address has a zone")
            path_mtu = _whole(data.get("path_mtu"))
            if path_mtu is not None and not 68 <= path_mtu <= 65535:
                raise ValueError("path_mtu is out of range")
            lease = cls(
                broker=data["broker"], transport=data["transport"], protocol_version=data["protocol_version"],
                auth_method=data["auth_method"], grant=grant, request=TunnelRequest.from_dict(data["request"]),
                obtained_at=_from_iso(data["obtained_at"]), username=username,
                quirks={str(k): _whole(v) or 0 for k, v in (data.get("quirks") or {}).items()},
                warnings=tuple(str(w) for w in data.get("warnings") or ()), via=via,
                local_address=None if local is None else ip_address(local), path_mtu=path_mtu)
            lease.to_dict()  # the end of its life must be a date, too
            return lease
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, LocalError, RemoteError) as exc:
            detail = f"{type(exc).__name__}: {exc}"
            if isinstance(exc, KeyError):
                detail = f"it has no {exc}."
            elif isinstance(exc, (LocalError, RemoteError)):
                detail = exc.message
            raise LocalError("lease_invalid", f"The stored lease cannot be used: {detail}",
                             "Delete the lease file, or set renew: true, to ask the broker again.") from None


def _text(value: Any) -> str:
    """Addresses are text: a number would be taken for one as well."""
    if not isinstance(value, str):
        raise ValueError("an address is not text")
    return value


def _whole(value: Any) -> int | None:
    """A JSON number without a fraction, or None; no text, no true."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError("a number is not a whole number")
    return value


def _iso(value: datetime) -> str:
    return value.astimezone(timezone.utc).replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ")


def _from_iso(value: str) -> datetime:
    return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
