# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The few netlink requests that the data planes make, through pyroute2.

pyroute2 runs an event loop of its own and cannot do so inside ours: one worker thread owns the netlink socket. Requests take well
under a millisecond, so the caller waits for them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar, Union

from ..._tsp.errors import LocalError

T = TypeVar("T")
Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]
ENCAPSULATION_LIMIT_OFF = 0x1
"""IP6_TNL_F_IGN_ENCAP_LIMIT: no destination option in front of the inner packet (RFC 2473 section 4.1.1 off, as routers do)."""


class Netlink:
    """Links, addresses and routes. Raises LocalError: `pyroute2_missing`, `not_permitted`, `tunnel_exists`, `netlink_failed`."""

    def __init__(self) -> None:
        try:
            from pyroute2 import IPRoute
        except ImportError:
            raise LocalError("pyroute2_missing", "This data plane needs the Python package pyroute2, which is not installed.",
                             "Install it, use tsp-broker.pyz, which brings it, or set data_plane: none.") from None
        self._thread = ThreadPoolExecutor(1, "netlink")
        try:
            self._ip: Any = self._call("opening netlink", IPRoute)
        except LocalError:
            self._thread.shutdown()
            raise

    def close(self) -> None:
        """Close the socket and end the thread."""
        self._call("closing netlink", self._ip.close)
        self._thread.shutdown()

    def _call(self, what: str, function: Callable[[], T]) -> T:
        try:
            return self._thread.submit(function).result()
        except Exception as exc:  # pyroute2 raises NetlinkError (with code) and OSError
            code = getattr(exc, "code", None) or getattr(exc, "errno", None)
            if code in (errno.EPERM, errno.EACCES):
                raise LocalError("not_permitted", f"The kernel refused {what}: not permitted.",
                                 "Run the broker as root or with CAP_NET_ADMIN, or set data_plane: none.") from None
            if code == errno.EEXIST:
                raise LocalError("tunnel_exists", f"The kernel refused {what}: it has one already.",
                                 "Remove the device that has the same name or the same ends (ip -d link show).") from None
            raise LocalError("netlink_failed", f"The kernel refused {what}: {exc}.", "The kernel's log may tell more.") from None

    def find(self, name: str) -> int | None:
        """Index of a device, None when there is none of that name."""
        found = self._call(f"looking for {name}", lambda: self._ip.link_lookup(ifname=name))
        return int(found[0]) if found else None

    def devices(self, prefix: str) -> dict[str, int]:
        """Name -> index of the devices whose name begins so."""
        links = self._call("listing devices", lambda: list(self._ip.get_links()))
        names = {link.get_attr("IFLA_IFNAME"): int(link["index"]) for link in links}
        return {name: index for name, index in names.items() if name.startswith(prefix)}

    def received(self, prefix: str) -> dict[str, int]:
        """Name -> packets received so far, of the devices whose name begins so."""
        links = self._call("reading counters", lambda: list(self._ip.get_links()))
        out = {}
        for link in links:
            name, stats = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_STATS64")
            if name.startswith(prefix) and stats is not None:
                out[name] = int(stats["rx_packets"])
        return out

    def up(self, index: int, mtu: int) -> None:
        """Set the MTU and bring the device up."""
        self._call("bringing the device up", lambda: self._ip.link("set", index=index, mtu=mtu, state="up"))

    def add_address(self, index: int, address: Address) -> None:
        """Give a device one address, /128 or /32, usable at once."""
        flags = {"flags": 0x02} if address.version == 6 else {}  # IFA_F_NODAD: nobody else is on a tunnel
        self._call(f"the address {address}", lambda: self._ip.addr("replace", index=index, address=str(address),
                                                                   prefixlen=address.max_prefixlen, **flags))

    def add_route(self, index: int, network: Network) -> None:
        """Route a network to a device."""
        self._call(f"the route to {network}", lambda: self._ip.route("replace", dst=str(network), oif=index))

    def add_tunnel(self, name: str, kind: str, local: Address, remote: Address) -> int:
        """Make a sit (IPv6 in IPv4) or ip6tnl (IPv4 in IPv6) device. Returns its index."""
        arguments: dict[str, Any] = {"ifname": name, "kind": kind}
        if kind == "sit":
            arguments.update(sit_local=str(local), sit_remote=str(remote), sit_ttl=64, sit_proto=41, sit_pmtudisc=0)
        else:
            arguments.update(ip6tnl_local=str(local), ip6tnl_remote=str(remote), ip6tnl_ttl=64, ip6tnl_proto=4,
                             ip6tnl_flags=ENCAPSULATION_LIMIT_OFF)
        self._call(f"the {kind} tunnel to {remote}", lambda: self._ip.link("add", **arguments))
        index = self.find(name)
        if index is None:
            raise LocalError("netlink_failed", f"The {kind} tunnel to {remote} is not there after it was made.", "")
        return index

    def remove(self, index: int) -> None:
        """Remove a device with its addresses and routes."""
        self._call("removing a device", lambda: self._ip.link("del", index=index))
