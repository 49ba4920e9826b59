# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""tun devices of the BSDs and utun of macOS: the same packets as on Linux, behind four bytes that name their family.

Sources: tun(4) of FreeBSD, OpenBSD and NetBSD; for utun the headers sys/kern_control.h, sys/sys_domain.h and net/if_utun.h.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

from ..._tsp.errors import LocalError
from ..tun import TunDevice
from .systems import IOC_IN, IOC_OUT, System, ioctl_number

AF_SYSTEM, SYSPROTO_CONTROL, UTUN_OPT_IFNAME = 32, 2, 2
CTL_NAME = b"com.apple.net.utun_control"
CTL_INFO = struct.Struct("=I96s")
"""struct ctl_info: ctl_id, ctl_name."""
CTLIOCGINFO = ioctl_number(IOC_IN | IOC_OUT, "N", 3, CTL_INFO.size)


def open_device(system: System, name: str, dev: str = "/dev") -> tuple[TunDevice, bool]:
    """Open the tun device `name`, non-blocking; returns it, and whether it goes with its descriptor.

    Raises LocalError: `no_tun`, `not_permitted`, `device_busy`.
    """
    return _open_utun(name) if system.tun == "utun" else _open_tun(system, name, dev)


def _open_tun(system: System, name: str, dev: str) -> tuple[TunDevice, bool]:
    import fcntl

    path = os.path.join(dev, name)
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise _refused(name, exc, f"Make the node {path} (cd /dev && sh MAKEDEV {name}).") from None
    goes = not system.stays
    try:
        if system.head is not None:
            fcntl.ioctl(fd, system.head, struct.pack("=i", 1))
        if system.transient is not None:
            try:
                fcntl.ioctl(fd, system.transient, struct.pack("=i", 1))
                goes = True
            except OSError:
                pass  # before FreeBSD 15
    except OSError as exc:
        os.close(fd)
        raise _refused(name, exc, "This driver does not name the family of its packets.") from None
    return TunDevice(name, fd), goes


def _open_utun(name: str) -> tuple[TunDevice, bool]:
    import fcntl
    import socket

    try:
        sock = socket.socket(AF_SYSTEM, socket.SOCK_DGRAM, SYSPROTO_CONTROL)
    except OSError as exc:
        raise _refused(name, exc, "utun comes with macOS 10.6.8 and later.") from None
    try:
        info = fcntl.ioctl(sock.fileno(), CTLIOCGINFO, CTL_INFO.pack(0, CTL_NAME))
        target: Any = (CTL_INFO.unpack(info)[0], int(name[len("utun"):]) + 1)  # sc_unit 0 would let the kernel choose
        sock.connect(target)
        given = sock.getsockopt(SYSPROTO_CONTROL, UTUN_OPT_IFNAME, 32).rstrip(b"\0").decode("ascii", "replace")
        if given != name:
            raise OSError(errno.EBUSY, f"the kernel gave {given}")
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise _refused(name, exc, "utun comes with macOS 10.6.8 and later.") from None
    return TunDevice(name, sock.detach()), True


def _refused(name: str, exc: OSError, hint: str) -> LocalError:
    if exc.errno in (errno.EPERM, errno.EACCES):
        return LocalError("not_permitted", f"The device {name} may not be opened: {exc.strerror}.", "Run the agent as root.")
    if exc.errno in (errno.EBUSY, errno.EEXIST):
        return LocalError("device_busy", f"The device {name} is in use.", "Name another device, or end its user.")
    return LocalError("no_tun", f"The device {name} cannot be opened: {exc.strerror}.", hint)
