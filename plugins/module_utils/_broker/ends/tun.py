# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The uplink: one TUN device through which the kernel routes to all clients that are carried in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from ..._agent.tun import TunDevice, open_tun
from .netlink import Address, Netlink, Network

BATCH = 64
"""Packets taken per turn of the event loop, so that signalling is never starved."""
ROOM = 65536


class Uplink:
    """The device, with our inner addresses on it and the routed networks towards it. Gone, with all of that, when closed."""

    def __init__(self, netlink: Netlink, name: str, mtu: int, own: Iterable[Address], routed: Iterable[Network]) -> None:
        self.device: TunDevice = open_tun(name)
        self._deliver: Callable[[bytes], None] | None = None
        try:
            index = netlink.find(name) or 0
            netlink.up(index, mtu)
            for address in own:
                netlink.add_address(index, address)
            for network in routed:
                netlink.add_route(index, network)
        except BaseException:
            self.device.close()
            raise

    def start(self, deliver: Callable[[bytes], None]) -> None:
        """Give every packet of the kernel to `deliver`, from now on."""
        self._deliver = deliver
        asyncio.get_running_loop().add_reader(self.device.fd, self._readable)

    def write(self, packet: bytes) -> bool:
        """Give a packet to the kernel."""
        try:
            os.write(self.device.fd, packet)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Remove the device."""
        if self.device.fd >= 0 and self._deliver is not None:
            asyncio.get_running_loop().remove_reader(self.device.fd)
        self.device.close()

    def _readable(self) -> None:
        for _turn in range(BATCH):
            try:
                packet = os.read(self.device.fd, ROOM)
            except OSError:
                return
            if self._deliver is not None:
                self._deliver(packet)
