# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a tunnel end is, the table of the open ones, and the port behind which data planes stand.

A broker holds one TunnelEnd per client that is there now, so they are small: plain fields, packed addresses.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Callable, Protocol, Union

Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]

SendUdp = Callable[[bytes, "tuple[str, int]", "str | None"], bool]
"""send(payload, (address, port), local address or None) -> whether the kernel took it."""


class TunnelEnd:
    """The broker's end of one tunnel.

    lease: its number in the store. mode: v6v4 | v6udpv4 | v4v6. inner: the client's address inside, packed. prefix: the delegated
    network as (int, length), or None. remote, port: the client's outer end (port 0 unless v6udpv4); local: our address that it
    speaks to, None = whatever the kernel picks. interval: seconds of keepalive agreed, 0 = none: then silence frees nothing.
    last_seen: monotonic seconds. expires_at: Unix seconds. answers: this client is known to answer pings (follow.py).
    """

    __slots__ = ("answers", "expires_at", "inner", "interval", "last_seen", "lease", "local", "mode", "port", "prefix", "received",
                 "remote", "sent")

    def __init__(self, lease: int, mode: str, inner: bytes, prefix: tuple[int, int] | None, remote: str, port: int, local: str | None,
                 interval: int, last_seen: float, expires_at: int) -> None:
        self.lease = lease
        self.mode = mode
        self.inner = inner
        self.prefix = prefix
        self.remote = remote
        self.port = port
        self.local = local
        self.interval = interval
        self.last_seen = last_seen
        self.expires_at = expires_at
        self.received = 0
        self.sent = 0
        self.answers = False

    @property
    def inner_address(self) -> Address:
        """The client's address inside the tunnel."""
        return ip_address(self.inner)

    @property
    def inner_prefix(self) -> Network | None:
        """The delegated network."""
        if self.prefix is None:
            return None
        cls = IPv4Network if self.mode == "v4v6" else IPv6Network
        return cls(self.prefix)

    @property
    def key(self) -> tuple[str, int]:
        """What an outer packet is recognised by."""
        return (self.remote, self.port)

    def owns(self, source: bytes) -> bool:
        """Whether the client may send from this inner address (packed)."""
        if source == self.inner:
            return True
        if self.prefix is None or len(source) != len(self.inner):
            return False
        shift = len(source) * 8 - self.prefix[1]
        return int.from_bytes(source, "big") >> shift == self.prefix[0] >> shift

    def __repr__(self) -> str:
        return f"TunnelEnd(lease {self.lease}, {self.mode}, {self.remote} port {self.port}, inside {self.inner_address})"


class EndTable:
    """The open ends, found by lease, by outer end, and by inner address."""

    def __init__(self) -> None:
        self.by_lease: dict[int, TunnelEnd] = {}
        self.by_outer: dict[tuple[str, int], TunnelEnd] = {}
        self.by_inner: dict[bytes, TunnelEnd] = {}
        # (address length in bytes, bits not in the prefix) -> prefix as a number without those bits -> end
        self._prefixes: dict[tuple[int, int], dict[int, TunnelEnd]] = {}

    def __len__(self) -> int:
        return len(self.by_lease)

    def add(self, end: TunnelEnd) -> None:
        """Enter an end. Its lease, outer end and inner address must be free: remove their holders first."""
        if end.lease in self.by_lease or end.key in self.by_outer or end.inner in self.by_inner:
            raise ValueError(f"{end} collides with an open end")
        self.by_lease[end.lease] = self.by_outer[end.key] = self.by_inner[end.inner] = end
        if end.prefix is not None:
            shift = len(end.inner) * 8 - end.prefix[1]
            self._prefixes.setdefault((len(end.inner), shift), {})[end.prefix[0] >> shift] = end

    def remove(self, end: TunnelEnd) -> None:
        """Take an end out; nothing happens when it is not in."""
        if self.by_lease.get(end.lease) is not end:
            return
        del self.by_lease[end.lease], self.by_outer[end.key], self.by_inner[end.inner]
        if end.prefix is not None:
            shift = len(end.inner) * 8 - end.prefix[1]
            group = self._prefixes[len(end.inner), shift]
            del group[end.prefix[0] >> shift]
            if not group:
                del self._prefixes[len(end.inner), shift]

    def move(self, end: TunnelEnd, port: int) -> None:
        """Another UDP port for an end that is in. It must be free."""
        if (end.remote, port) in self.by_outer:
            raise ValueError(f"port {port} is another end's")
        del self.by_outer[end.key]
        end.port = port
        self.by_outer[end.key] = end

    def towards(self, destination: bytes) -> TunnelEnd | None:
        """The end behind which this inner address (packed) lies."""
        end = self.by_inner.get(destination)
        if end is not None or not self._prefixes:
            return end
        size, number = len(destination), int.from_bytes(destination, "big")
        for (length, shift), group in self._prefixes.items():  # delegated prefixes never overlap, so the order is no matter
            if length == size:
                end = group.get(number >> shift)
                if end is not None:
                    return end
        return None


class DataPlane(Protocol):
    """What carries packets. Adapters: none.py, userspace.py, kernel.py; the tests have a fake, and all pass one contract test.

    The ends in `table` are the truth; open/close tell the plane about each, after it was entered and before it is taken out.
    """

    name: str
    modes: frozenset[str]
    """Tunnel modes that it can carry."""
    watched: frozenset[str]
    """Modes whose clients it sees alive or silent."""
    counters: dict[str, int]

    def start(self) -> None:
        """Make what all tunnels share. Raises LocalError; then nothing is left behind."""

    def stop(self) -> None:
        """Remove everything that was made."""

    def open(self, end: TunnelEnd) -> None:
        """Make what this end needs. Raises LocalError `tunnel_failed`."""

    def close(self, end: TunnelEnd) -> None:
        """Remove it. Never raises."""

    def from_udp(self, peer: tuple[str, int], packet: bytes) -> bool:
        """A datagram on the broker's port that is not signalling. Returns whether an end is open there."""

    def poll(self, now: float) -> None:
        """Called about once a second: bring last_seen up to date where packets do not pass through this process."""
