# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Which packets may pass between the tunnel's device and the broker: pure functions of bytes.

Outward only what comes from our own addresses, inward only what goes to them; nothing of link-local scope in either direction
(router solicitations and MLD of the kernel stay here: brokers drop them anyway, tsp-protocol.md section 12 row 19).
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from . import icmp6

PASS = ""
MALFORMED = "malformed"
LOCAL_ONLY = "local_only"
SPOOFED = "spoofed"
SIGNALLING = "signalling"
VERDICTS = (MALFORMED, LOCAL_ONLY, SPOOFED, SIGNALLING)


class Screen:
    """The rules for one grant. address: ours inside the tunnel; prefix: the delegated one, if any."""

    def __init__(self, address: IPv6Address, prefix: IPv6Network | None) -> None:
        self._address = address.packed
        self._prefix = -1
        self._shift = 0
        # The addresses of the last packet that passed: the next one has them again, as a rule.
        self._last_out = self._last_in = b""
        if prefix is not None:
            self._shift = 128 - prefix.prefixlen
            self._prefix = int(prefix.network_address) >> self._shift

    def ours(self, address: bytes) -> bool:
        """Whether these 16 bytes are our address or in our prefix."""
        return address == self._address or int.from_bytes(address, "big") >> self._shift == self._prefix

    def outward(self, packet: bytes) -> str:
        """Verdict on a packet from the device: PASS, or why not."""
        if not icmp6.is_ipv6(packet):
            return MALFORMED
        addresses = packet[8:40]
        if addresses == self._last_out:
            return PASS
        source = addresses[:16]
        if _link_local(addresses[16:]) or _link_local(source) or not any(source):
            return LOCAL_ONLY
        if not self.ours(source):
            return SPOOFED
        self._last_out = addresses
        return PASS

    def inward(self, packet: bytes) -> str:
        """Verdict on a datagram from the broker. First nibble F is signalling (RFC 5572 section 4.4.1, tsp-protocol.md section 7)."""
        if not icmp6.is_ipv6(packet):
            return SIGNALLING if len(packet) >= 8 and packet[0] >> 4 == 0xF else MALFORMED
        addresses = packet[8:40]
        if addresses == self._last_in:
            return PASS
        source = addresses[:16]
        if _link_local(source) or _link_local(addresses[16:]) or source[0] == 0xFF or not any(source):
            return LOCAL_ONLY
        if not self.ours(addresses[16:]) or self.ours(source):
            return SPOOFED
        self._last_in = addresses
        return PASS


def _link_local(address: bytes) -> bool:
    """fe80::/10, and multicast that does not leave the link (scope 0 to 2, RFC 4291 section 2.7)."""
    if address[0] == 0xFE:
        return address[1] & 0xC0 == 0x80
    return address[0] == 0xFF and address[1] & 0x0F <= 2
