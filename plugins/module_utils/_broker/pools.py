# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What is free and what is taken, in memory. The store remembers; at start everything in it is taken here again.

Both pools hand out the least recently tried, not the lowest: an address that was just given back rests as long as possible.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Union

Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]


class AddressPool:
    """Single addresses out of one network. The first address is never given, nor the last one of an IPv4 network."""

    def __init__(self, network: Network, reserved: Iterable[Address] = ()) -> None:
        self.network = network
        self._base = int(network.network_address)
        self._size = network.num_addresses - (1 if network.version == 4 else 0)
        self._taken: set[int] = set()
        self._reserved: set[int] = set()
        self._next = 1
        self.reserve(reserved)

    def __contains__(self, address: Address) -> bool:
        return address in self.network

    def reserve(self, addresses: Iterable[Address]) -> None:
        """From now on `allocate` passes over these (and only these): our own, and those fixed for accounts."""
        self._reserved = {int(a) - self._base for a in addresses if a.version == self.network.version and a in self.network}

    def allocate(self) -> Address | None:
        """An address nobody has; None when there is none left."""
        if len(self._taken) >= self._size - 1:
            return None
        index = self._next
        for _again in range(len(self._taken) + len(self._reserved) + 2):
            if index >= self._size:
                index = 1
            if index not in self._taken and index not in self._reserved:
                self._taken.add(index)
                self._next = index + 1
                return self.network[index]
            index += 1
        return None

    def take(self, address: Address) -> bool:
        """Claim this very address, reserved or not. False when it is taken already or not of this pool."""
        index = int(address) - self._base
        if address not in self.network or index in self._taken:
            return False
        self._taken.add(index)
        return True

    def release(self, address: Address) -> None:
        """Give back. Not taken: nothing happens."""
        self._taken.discard(int(address) - self._base)

    @property
    def used(self) -> int:
        """How many are taken."""
        return len(self._taken)


class PrefixPool:
    """Prefixes of several lengths out of one network, by halving blocks (a buddy system). Holds what is free, not what is taken."""

    def __init__(self, network: Network, lengths: Iterable[int], default: int) -> None:
        self.network = network
        self.lengths = frozenset(lengths)
        self.default = default
        self._bits = network.max_prefixlen
        self._free: dict[int, set[int]] = {network.prefixlen: {int(network.network_address)}}
        self._order: dict[int, list[tuple[int, int]]] = {network.prefixlen: [(0, int(network.network_address))]}
        self._clock = 0
        self._reserved: list[Network] = []
        self.used = 0

    def __contains__(self, prefix: Network) -> bool:
        return prefix.version == self.network.version and prefix.subnet_of(self.network)  # type: ignore[arg-type]

    def reserve(self, prefixes: Iterable[Network]) -> None:
        """From now on `allocate` passes over these (and only these). They are few: fixed prefixes of accounts."""
        self._reserved = [p for p in prefixes if p in self]

    def allocate(self, length: int) -> Network | None:
        """A prefix of this length that overlaps no other; None when there is no room."""
        for size in range(length, self.network.prefixlen - 1, -1):
            found = self._pop(size, length)
            if found is not None:
                self.used += 1
                return ip_network((found, length))
        return None

    def take(self, prefix: Network) -> bool:
        """Claim this very prefix. False when it, or a part of it, is taken already or it is not of this pool."""
        if prefix not in self:
            return False
        value = int(prefix.network_address)
        for size in range(prefix.prefixlen, self.network.prefixlen - 1, -1):
            block = value >> (self._bits - size) << (self._bits - size)
            if block in self._free.get(size, ()):
                self._free[size].discard(block)
                self._split(block, size, value, prefix.prefixlen)
                self.used += 1
                return True
        return False

    def release(self, prefix: Network) -> None:
        """Give back a prefix that was taken. The caller vouches that it was."""
        value, size = int(prefix.network_address), prefix.prefixlen
        self.used -= 1
        while size > self.network.prefixlen:
            buddy = value ^ (1 << (self._bits - size))
            if buddy not in self._free.get(size, ()):
                break
            self._free[size].discard(buddy)
            value &= ~(1 << (self._bits - size))
            size -= 1
        self._add(value, size)

    def _add(self, value: int, size: int) -> None:
        self._clock += 1
        self._free.setdefault(size, set()).add(value)
        heapq.heappush(self._order.setdefault(size, []), (self._clock, value))

    def _pop(self, size: int, length: int) -> int | None:
        """The oldest free block of this size, cut down to `length` bits; None when none is free of reserved prefixes."""
        order, free, kept = self._order.get(size, []), self._free.get(size, set()), []
        found = None
        while order and found is None:
            age, value = heapq.heappop(order)
            if value not in free:
                continue  # taken or merged since: the heap is cleaned lazily
            inside = self._first_unreserved(value, size, length) if self._reserved else value
            if inside is None:
                kept.append((age, value))
                continue
            free.discard(value)
            self._split(value, size, inside, length)
            found = inside
        for entry in kept:
            heapq.heappush(order, entry)
        return found

    def _first_unreserved(self, value: int, size: int, length: int) -> int | None:
        step = 1 << (self._bits - length)
        candidate, end = value, value + (1 << (self._bits - size))
        while candidate < end:
            hit = next((p for p in self._reserved
                        if int(p.network_address) < candidate + step and int(p.broadcast_address) >= candidate), None)
            if hit is None:
                return candidate
            candidate = max(candidate + step, (int(hit.broadcast_address) + step) // step * step)
        return None

    def _split(self, block: int, size: int, value: int, length: int) -> None:
        """`block` of `size` bits was free and is no longer: keep its other halves while cutting down to value/length."""
        while size < length:
            size += 1
            half = 1 << (self._bits - size)
            if value & half:
                self._add(block, size)
                block |= half
            else:
                self._add(block | half, size)
