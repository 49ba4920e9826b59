# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A Linux TUN device: bare IPv6 packets in and out of the kernel. Those of other systems are in `bsd/tundev`."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
import sys

from .._tsp.errors import LocalError

CLONE = "/dev/net/tun"
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
IFF_TUN_EXCL = 0x8000
IFF_VNET_HDR = 0x4000
OFFLOADS = 0x01 | 0x04
"""TUN_F_CSUM and TUN_F_TSO6 of linux/if_tun.h: checksums left open, TCP over IPv6 in one piece."""
# _IOW('T', 202, int), _IOW('T', 208, unsigned int), _IOR('T', 210, unsigned int): the direction bits differ on a few architectures.
_SWAPPED = os.uname().machine.startswith(("mips", "ppc", "powerpc", "sparc", "alpha", "parisc"))
_WRITE, _READ = (0x80000000, 0x40000000) if _SWAPPED else (0x40000000, 0x80000000)
TUNSETIFF, TUNSETOFFLOAD, TUNGETIFF = _WRITE | 0x454CA, _WRITE | 0x454D0, _READ | 0x454D2
DEVICE_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,15}\Z")
"""Names that the kernel takes literally (a % would be a pattern) and that are safe in a path below /proc/sys/net."""


FAMILY_HEADER = b"" if sys.platform.startswith("linux") else struct.pack("!I", socket.AF_INET6)
"""What stands before each packet, both ways: nothing on Linux without protocol information, else the address family (tun(4))."""


class TunDevice:
    """An open TUN device. On Linux it disappears, with its addresses and routes, when it is closed. fd is non-blocking."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd

    def close(self) -> None:
        """Remove the device."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_tun(name: str, clone: str = CLONE, offload: bool = False) -> TunDevice:
    """Create the TUN device `name`; it must not exist. offload: with the header and the large packets of `gso`, as far as the kernel can.

    Raises LocalError: `bad_device`, `no_tun` (the kernel has none), `not_permitted`, `device_busy` (one of that name exists).
    """
    if not DEVICE_NAME.match(name):
        raise LocalError("bad_device", f"{name!r} cannot be the name of a device.", "Use 1 to 15 letters, digits, dots, - or _.")
    try:
        fd = os.open(clone, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise LocalError("no_tun", f"This kernel offers no TUN device ({clone}: {exc.strerror}).",
                             "Load the module tun (modprobe tun), or allow /dev/net/tun in the container.") from None
        raise _refused(name, exc) from None
    try:
        flags = IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL | (IFF_VNET_HDR if offload else 0)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode("ascii"), flags))
    except OSError as exc:
        os.close(fd)
        raise _refused(name, exc) from None
    if offload:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS)
        except OSError:
            pass  # then all packets come whole and small, behind their header
    return TunDevice(name, fd)


def has_header(fd: int) -> bool:
    """Whether packets from and to this device have the header of `gso` before them."""
    try:
        found = fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    except OSError:
        return False
    return bool(struct.unpack_from("=H", found, 16)[0] & IFF_VNET_HDR)


def _refused(name: str, exc: OSError) -> LocalError:
    if exc.errno in (errno.EPERM, errno.EACCES):
        return LocalError("not_permitted", f"The TUN device {name} may not be created: {exc.strerror}.",
                          "Run the agent as root, or with CAP_NET_ADMIN.")
    if exc.errno in (errno.EBUSY, errno.EEXIST):
        return LocalError("device_busy", f"A device named {name} exists already.", "Name another device, or remove that one.")
    return LocalError("no_tun", f"The TUN device {name} cannot be created: {exc.strerror}.",
                      "Load the module tun (modprobe tun), or allow /dev/net/tun in the container.")
