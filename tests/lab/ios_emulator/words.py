# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kinds of words: what a placeholder of the grammar accepts, and how the running configuration writes it.

A kind takes words from a list, starting at an index, and returns (how many it took, how they are written) or None.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface
from typing import Callable, Optional

Taken = Optional[tuple[int, str]]
Kind = Callable[[Sequence[str], int, Collection[str]], Taken]

INTERFACE_TYPES = ("GigabitEthernet", "TenGigabitEthernet", "FastEthernet", "Ethernet", "Serial", "Loopback", "Tunnel", "Vlan", "Dialer",
                   "Null")
VIRTUAL_TYPES = ("Loopback", "Tunnel", "Dialer")
_INTERFACE = re.compile(r"([A-Za-z-]+)(\d+(?:/\d+)*(?:\.\d+)?)?\Z")


def interface_name(words: Sequence[str], at: int) -> Taken:
    """`gi0/1`, `GigabitEthernet 0/1` and `gigabitethernet0/1` are GigabitEthernet0/1; existence is not asked for."""
    found = _INTERFACE.match(words[at])
    if not found:
        return None
    letters, number, took = found[1].lower(), found[2], 1
    if number is None:
        if at + 1 >= len(words) or not re.fullmatch(r"\d+(?:/\d+)*(?:\.\d+)?", words[at + 1]):
            return None
        number, took = words[at + 1], 2
    kinds = [kind for kind in INTERFACE_TYPES if kind.lower().startswith(letters)]
    if len(kinds) != 1:
        return None
    return took, kinds[0] + number


def _existing(words: Sequence[str], at: int, interfaces: Collection[str]) -> Taken:
    taken = interface_name(words, at)
    return taken if taken and (taken[1] in interfaces or taken[1] == "Null0") else None


def _creatable(words: Sequence[str], at: int, interfaces: Collection[str]) -> Taken:
    taken = interface_name(words, at)
    if taken and (taken[1] in interfaces or re.fullmatch(rf"(?:{'|'.join(VIRTUAL_TYPES)})\d+", taken[1])):
        return taken
    return None


def _address4(words: Sequence[str], at: int, _interfaces: Collection[str]) -> Taken:
    try:
        return 1, str(IPv4Address(words[at]))
    except ValueError:
        return None


def _address6(words: Sequence[str], at: int, _interfaces: Collection[str]) -> Taken:
    try:
        if "%" in words[at]:
            return None
        return 1, str(IPv6Address(words[at])).upper()
    except ValueError:
        return None


def _interface6(words: Sequence[str], at: int, _interfaces: Collection[str]) -> Taken:
    """An address with a length, host bits kept."""
    address, slash, length = words[at].partition("/")
    if not slash or not length.isdecimal() or not _address6([address], 0, ()):
        return None
    return (1, f"{str(IPv6Address(address)).upper()}/{int(length)}") if int(length) <= 128 else None


def _network6(words: Sequence[str], at: int, interfaces: Collection[str]) -> Taken:
    """A prefix; host bits are dropped, as IOS does in routes and advertised prefixes."""
    taken = _interface6(words, at, interfaces)
    return (1, str(IPv6Interface(taken[1]).network).upper()) if taken else None


def _mask4(words: Sequence[str], at: int, _interfaces: Collection[str]) -> Taken:
    """A contiguous mask. IOS answers an incontiguous one with 'Bad mask'; `checks` does that, so any address passes here."""
    return _address4(words, at, ())


def _source(words: Sequence[str], at: int, interfaces: Collection[str]) -> Taken:
    return _address4(words, at, ()) or _address6(words, at, ()) or _existing(words, at, interfaces)


def _endpoint(words: Sequence[str], at: int, _interfaces: Collection[str]) -> Taken:
    return _address4(words, at, ()) or _address6(words, at, ())


def _word(words: Sequence[str], at: int, _interfaces: Collection[str]) -> Taken:
    return 1, words[at]


def _line(words: Sequence[str], at: int, _interfaces: Collection[str]) -> Taken:
    return len(words) - at, " ".join(words[at:])


def number(low: int, high: int) -> Kind:
    """A decimal number from `low` to `high`."""

    def kind(words: Sequence[str], at: int, _interfaces: Collection[str]) -> Taken:
        word = words[at]
        return (1, str(int(word))) if word.isdecimal() and low <= int(word) <= high else None

    return kind


KINDS: dict[str, Kind] = {
    "interface": _existing, "new-interface": _creatable, "address4": _address4, "address6": _address6, "interface6": _interface6,
    "network6": _network6, "mask4": _mask4, "source": _source, "endpoint": _endpoint, "word": _word, "line": _line,
}


def kind(name: str) -> Kind:
    """The kind called `name`; a name like 1-255 is a number in that range."""
    if name in KINDS:
        return KINDS[name]
    low, _dash, high = name.partition("-")
    return number(int(low), int(high))


def network4(address: str, mask: str) -> IPv4Network:
    """The network of an address and a mask. Raises ValueError for an incontiguous mask."""
    return IPv4Network(f"{address}/{mask}", strict=False)
