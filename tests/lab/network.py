# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wires, segments and NATs between the namespaces of the laboratory."""

from __future__ import annotations

import fcntl
import io
import os
import socket
import struct

from .machine import LabError
from .namespace import Namespace

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_DELETE = 2
NLM_F_REQUEST = 1
NLM_F_ACK = 4
TUNSETIFF = 0x400454CA
IFF_TAP = 2
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000


def veth(a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
    """A wire between two namespaces, both ends up. The interfaces never exist anywhere else."""
    a.ip(f"link add {a_name} type veth peer name {b_name} netns {b.pid}", f"link set {a_name} up")
    b.ip(f"link set {b_name} up")


class Segment:
    """An Ethernet segment: a bridge in a namespace of its own, to which others are attached."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        namespace.sysctl(net__ipv6__conf__default__disable_ipv6=1, net__ipv6__conf__all__disable_ipv6=1)
        namespace.ip("link add br0 type bridge", "link set br0 up")
        self._ports = 0

    def attach(self, host: Namespace, interface: str, *addresses: str) -> None:
        """Give `host` an interface on this segment, with addresses (`192.0.2.1/24`, `2001:db8::1/64`)."""
        self._ports += 1
        port = f"p{self._ports}"
        veth(self.namespace, port, host, interface)
        self.namespace.ip(f"link set {port} master br0")
        if addresses:
            host.ip(*(f"addr add {address} dev {interface}" + (" nodad" if ":" in address else "") for address in addresses))

    def tap(self) -> io.FileIO:
        """A port for a virtual machine: an open tap device, gone when its last holder closes it. Hand it on by its number."""
        self._ports += 1
        port = f"p{self._ports}"
        with self.namespace.network():
            opened = io.FileIO("/dev/net/tun", "r+")
        try:
            fcntl.ioctl(opened, TUNSETIFF, struct.pack("16sH22x", port.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
            self.namespace.ip(f"link set {port} master br0", f"link set {port} up")
        except BaseException:
            opened.close()
            raise
        return opened


class Nat:
    """A NAT: masquerading with a random port for each new flow, which it forgets after `udp_timeout` seconds of silence.

    `inside` may be several interfaces. A packet from outside passes only along a flow that it knows.
    """

    def __init__(self, namespace: Namespace, inside: str | tuple[str, ...], outside: str, udp_timeout: int = 30) -> None:
        self.namespace = namespace
        self.outside = outside
        names = ", ".join(f'"{name}"' for name in ((inside,) if isinstance(inside, str) else inside))
        namespace.sysctl(net__ipv4__ip_forward=1)
        namespace.nft(f"""
            table ip nat {{
                chain leave {{
                    type nat hook postrouting priority srcnat;
                    oifname "{outside}" masquerade random
                }}
            }}
            table ip filter {{
                chain pass {{
                    type filter hook forward priority filter; policy drop;
                    iifname {{ {names} }} accept
                    iifname "{outside}" ct state established,related accept
                }}
            }}
        """)
        self.set_udp_timeout(udp_timeout)

    def set_udp_timeout(self, seconds: int) -> None:
        """How long a silent UDP flow is remembered, answered or not."""
        self.namespace.sysctl(net__netfilter__nf_conntrack_udp_timeout=seconds, net__netfilter__nf_conntrack_udp_timeout_stream=seconds)

    def forget(self) -> None:
        """Forget every flow at once, as a restarting router does: the next packet gets a new port."""
        # ctnetlink's "delete" without naming a flow (linux/netfilter/nfnetlink_conntrack.h): request + acknowledge, any family.
        flush = struct.pack("=IHHII", 20, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + bytes(4)
        with self.namespace.network():
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        with netlink:
            netlink.send(flush)
            answer = netlink.recv(4096)
        (error,) = struct.unpack_from("=i", answer, 16)
        if error:
            raise LabError(f"cannot make the NAT forget its flows: {os.strerror(-error)}")
