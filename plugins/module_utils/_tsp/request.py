# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What is asked of a broker: plain data, checked before a byte is sent."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from .errors import LocalError

MODES = ("v6anyv4", "v6v4", "v6udpv4", "v4v6")
HOST_TYPES = ("host", "router")
DNS_NAME = re.compile(r"(?=.{1,253}\Z)(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?\Z")
"""What we let through as a DNS name, in requests and from the wire (RFC 1123, underscores tolerated)."""


@dataclass(frozen=True)
class TunnelRequest:
    """A request for one tunnel (RFC 5572 section 4.7). Raises LocalError `invalid_request` when it contradicts itself.

    client_ipv4 / client_ipv6: None means the address of the socket that speaks to the broker.
    prefix_length: bits, 1-128 (v4v6: 1-32) for a router; None lets the default apply (48, v4v6: 24).
    keepalive_interval: seconds wished for; the broker decides.
    """

    mode: str = "v6anyv4"
    host_type: str = "host"
    prefix_length: int | None = None
    dns_servers: tuple[str, ...] = ()
    client_ipv4: IPv4Address | None = None
    client_ipv6: IPv6Address | None = None
    proxy: bool = False
    keepalive: bool = True
    keepalive_interval: int = 30

    def __post_init__(self) -> None:
        def refuse(message: str, hint: str = "") -> None:
            raise LocalError("invalid_request", message, hint)

        if self.mode not in MODES:
            refuse(f"mode {self.mode!r} is unknown.", f"Use one of {', '.join(MODES)}.")
        if self.host_type not in HOST_TYPES:
            refuse(f"host_type {self.host_type!r} is unknown.", "Use host or router.")
        for name in ("prefix_length", "keepalive_interval"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, type(None))):
                refuse(f"{name} {number!r} is not a whole number.")
        longest = 32 if self.mode == "v4v6" else 128
        if self.prefix_length is not None:
            if self.host_type != "router":
                refuse("prefix_length is for routers.", "Set host_type: router, or leave prefix_length out.")
            if not 1 <= self.prefix_length <= longest:
                refuse(f"prefix_length {self.prefix_length} is out of range.", f"Use 1 to {longest} with mode {self.mode}.")
        if self.dns_servers and self.host_type != "router":
            refuse("dns_servers asks for the reverse delegation of a prefix, which only a router gets.", "Set host_type: router.")
        for name in self.dns_servers:
            if not DNS_NAME.match(name):
                refuse(f"dns_servers: {name!r} is not a DNS name.")
        if self.keepalive and not 1 <= self.keepalive_interval <= 86400:
            refuse(f"keepalive_interval {self.keepalive_interval} is out of range.", "Use 1 to 86400 seconds.")
        if self.proxy and self.mode == "v6udpv4":
            refuse("A proxy cannot ask for v6udpv4: the tunnel would end at the proxy's own socket.", "Use v6v4 or v4v6 with proxy.")
        for name in ("client_ipv4", "client_ipv6"):
            address = getattr(self, name)
            if address is not None and (address.is_multicast or address.is_unspecified or address.is_loopback or "%" in str(address)):
                refuse(f"{name} {address} cannot be a tunnel endpoint.")

    @property
    def wanted_prefix_length(self) -> int | None:
        """Bits that go on the wire: None for a host; the old client's defaults for a router that named none."""
        if self.host_type != "router":
            return None
        return self.prefix_length if self.prefix_length is not None else (24 if self.mode == "v4v6" else 48)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, round-trips through from_dict."""
        out: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        out["dns_servers"] = list(self.dns_servers)
        for name in ("client_ipv4", "client_ipv6"):
            out[name] = None if out[name] is None else str(out[name])
        return out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TunnelRequest:
        """Inverse of to_dict; unknown keys are ignored so that a newer lease file still loads. Raises LocalError."""
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in data.items() if k in known}
        try:
            names = values.get("dns_servers") or ()
            if not isinstance(names, (list, tuple)):
                raise ValueError("dns_servers is not a list")
            values["dns_servers"] = tuple(names)
            if values.get("client_ipv4") is not None:
                values["client_ipv4"] = IPv4Address(values["client_ipv4"])
            if values.get("client_ipv6") is not None:
                values["client_ipv6"] = IPv6Address(values["client_ipv6"])
            return cls(**values)
        except (ValueError, TypeError) as exc:
            raise LocalError("invalid_request", f"The request is not valid: {exc}.") from None
