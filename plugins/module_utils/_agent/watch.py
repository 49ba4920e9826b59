# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Hear that addresses, links or routes of this host changed. What it means for the tunnel is for `roaming` to see.

Linux tells by netlink (rtnetlink(7)), the BSDs and macOS by a routing socket (route(4)); nothing of what they say is parsed but its kind.
Elsewhere, and where neither may be opened, somebody looks every few seconds.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from typing import Protocol

POLL = 5.0
"""Seconds between looks where nobody tells us."""
LARGEST = 65535
MOST_READS = 64
"""Messages taken in one turn of the loop; more of them tell nothing new."""
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 0x1, 0x10, 0x40, 0x100, 0x400
KINDS = {16: "a link", 17: "a link", 20: "an address", 21: "an address", 24: "a route", 25: "a route"}
"""RTM_NEWLINK … RTM_DELROUTE."""


class Watch(Protocol):
    """The port: something that knows when to look."""

    async def changed(self) -> str:
        """Waits until something may have changed: what, as a phrase. May be cancelled."""

    def close(self) -> None:
        """No more."""


class Polling:
    """It is time to look again."""

    def __init__(self, interval: float = POLL) -> None:
        self._interval = interval

    async def changed(self) -> str:
        await asyncio.sleep(self._interval)
        return "time has passed"

    def close(self) -> None:
        """Nothing to do."""


class Listening:
    """A socket of the kernel that becomes readable when something changed."""

    def __init__(self, sock: socket.socket, netlink: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._netlink = netlink
        self._heard = asyncio.Event()
        self._what = ""
        self._broken = False
        self._loop.add_reader(sock.fileno(), self._read)

    async def changed(self) -> str:
        if self._broken:
            await asyncio.sleep(POLL)
            return "time has passed"
        await self._heard.wait()
        self._heard.clear()
        return self._what or "the network"

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _read(self) -> None:
        for _turn in range(MOST_READS):
            try:
                data = self._socket.recv(LARGEST)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                # ENOBUFS: more happened than could be told, so something did.
                if exc.errno != errno.ENOBUFS:
                    self._loop.remove_reader(self._socket.fileno())
                    self._broken = True
                self._what = "the network"
                break
            self._what = self._kind(data) if self._netlink else "the network"
            if not data:
                break
        self._heard.set()

    @staticmethod
    def _kind(data: bytes) -> str:
        return KINDS.get(struct.unpack_from("=H", data, 4)[0], "the network") if len(data) >= 6 else "the network"


def open_watch(family: int) -> Watch:
    """The best that this system offers. family: of the outer header, AF_INET or AF_INET6."""
    try:
        if sys.platform.startswith("linux"):
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)  # NETLINK_ROUTE
            groups = RTMGRP_LINK | (RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE if family == socket.AF_INET6
                                    else RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE)
            try:
                sock.bind((0, groups))
            except OSError:
                sock.close()
                raise
            return Listening(sock, True)
        if os.name == "posix":
            sock = socket.socket(getattr(socket, "AF_ROUTE", 17), socket.SOCK_RAW, 0)
            sock.setblocking(False)
            return Listening(sock, False)
    except OSError:
        pass  # a sandbox without it, or a system that has none
    return Polling()
