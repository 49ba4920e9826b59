# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What differs between FreeBSD, OpenBSD, NetBSD and macOS: one table, each column with the manual page that it is from."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from ..._tsp.errors import LocalError

IOC_OUT, IOC_IN = 0x40000000, 0x80000000
NAME = re.compile(r"(tun|utun|gif)(\d{1,4})\Z")
"""Names of devices here: the driver's, and a number."""
APART = 40
"""Added to the number of a name that is not of this form, to be away from what people and other programs number from 0."""
NODES = 4
"""OpenBSD and NetBSD come with /dev/tun0 to tun3 (MAKEDEV(8)); ours are counted down from the last."""


def ioctl_number(direction: int, group: str, number: int, size: int) -> int:
    """_IOR, _IOW, _IOWR of sys/ioccom.h: direction (IOC_OUT, IOC_IN or both), size of the argument, group, number."""
    return direction | (size & 0x1FFF) << 16 | ord(group) << 8 | number


@dataclass(frozen=True)
class System:
    """One system.

    family: AF_INET6 (sys/socket.h), in the header of tun packets. tun: name of the driver. head: TUNSIFHEAD (tun(4)), None where the
    header is always there. transient: TUNSTRANSIENT, which makes the device go with its descriptor (FreeBSD 15). stays: whether the
    device outlives its descriptor without that. marks: whether ifconfig(8) gives a device a description. set_sysctl: how sysctl(8)
    sets. routes: netstat(1) with whole addresses. no_dad: ifconfig(8) has a flag against duplicate address detection. priority: of a
    default route that any native one wins against (route(8)), where routes have one. keep_listening: variables with which a router goes
    on listening to router advertisements (inet6(4)).
    """

    name: str
    family: int
    tun: str = "tun"
    head: int | None = None
    transient: int | None = None
    stays: bool = False
    marks: bool = False
    set_sysctl: tuple[str, ...] = ("sysctl",)
    routes: tuple[str, ...] = ("netstat", "-rn", "-f")
    no_dad: bool = False
    priority: int | None = None
    keep_listening: tuple[str, ...] = ()

    @property
    def header(self) -> bytes:
        """The four bytes before each IPv6 packet of a tun device (tun(4)): the address family in network order."""
        return struct.pack("!I", self.family)


SYSTEMS = {
    "freebsd": System("FreeBSD", 28, head=ioctl_number(IOC_IN, "t", 96, 4), transient=ioctl_number(IOC_IN, "t", 98, 4), stays=True,
                      marks=True, routes=("netstat", "-rnW", "-f"), no_dad=True, keep_listening=("net.inet6.ip6.rfc6204w3",)),
    # Priorities of OpenBSD are 1 (best) to 63; what DHCP and router advertisements bring has less than 60.
    "openbsd": System("OpenBSD", 24, marks=True, priority=60),
    "netbsd": System("NetBSD", 24, head=ioctl_number(IOC_IN, "t", 66, 4), stays=True, set_sysctl=("sysctl", "-w")),
    "darwin": System("macOS", 30, tun="utun", set_sysctl=("sysctl", "-w"), routes=("netstat", "-rnl", "-f")),
}


def system_of(platform: str) -> System | None:
    """The row for a sys.platform (freebsd14, openbsd7, netbsd10, darwin); None for anything else."""
    return next((system for key, system in SYSTEMS.items() if platform.startswith(key)), None)


def device_name(system: System, wanted: str, kind: str) -> str:
    """The name that a device of this kind ("tun", or any other: gif) has here, where the configuration says `wanted`.

    A name of the system's own form is taken as it is for its kind, its number for the other kind; of any other name only the number
    counts: tsp0 is tun40 or gif40. Raises LocalError `bad_device`.
    """
    driver = system.tun if kind == "tun" else "gif"
    own = NAME.match(wanted)
    if own:
        return f"{driver}{int(own.group(2))}"
    found = re.match(r"[A-Za-z0-9_.-]*?(\d{0,3})\Z", wanted)
    if found is None or not wanted or len(wanted) > 15:
        raise LocalError("bad_device", f"{wanted!r} cannot be the name of a device.", f"Name it {driver}N, with a number.")
    number = int(found.group(1) or 0)
    if driver == "tun" and system.transient is None and number < NODES:
        return f"tun{NODES - 1 - number}"
    return f"{driver}{APART + number}"
