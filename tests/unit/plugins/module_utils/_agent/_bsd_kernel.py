# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel of the BSD family in memory, behind its ifconfig, route, netstat and sysctl: as strict as the manual pages are.

What is made twice or taken away twice fails, as do words that a system does not know; devices take their addresses and routes along.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd.systems import System
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.tun import TunDevice
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import Completed

NETWORKS = {"inet6": "::/0", "inet": "0.0.0.0/0"}


class Killed(BaseException):
    """The agent was killed."""


class Refused(Exception):
    """What the program says."""


class BsdKernel:
    """refuse: a command with this in it fails. kill_at: the number of the change at which the agent dies (done: before or after it)."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.links: dict[str, dict[str, Any]] = {
            "lo0": {"mtu": 16384, "up": True, "addresses": {"::1/128": None, "127.0.0.1/8": None}},
            "em0": {"mtu": 1500, "up": True, "addresses": {"192.0.2.20/24": None, "2001:db8:5::20/64": None}},
            "em1": {"mtu": 1500, "up": True, "addresses": {"192.168.1.1/24": None}}}
        self.routes: list[dict[str, Any]] = [self._route("0.0.0.0/0", "192.0.2.254", "em0", "UGS")]
        self.sysctls = {"net.inet6.ip6.forwarding": "0", "net.inet.ip.forwarding": "0"}
        if system.name == "FreeBSD":
            self.sysctls["net.inet6.ip6.rfc6204w3"] = "0"
        self.ran: list[str] = []
        self.refuse = ""
        self.kill_at = 0
        self.kill_after = False
        self.dead = False
        self.open: dict[str, bool] = {}
        self.waiting: list[str] = []

    def picture(self) -> Any:
        return copy.deepcopy((self.links, sorted(self.routes, key=str), self.sysctls))

    def native_default(self) -> None:
        self.routes.append(self._route("::/0", "fe80::1", "em0", "UGS"))

    @property
    def changes(self) -> list[str]:
        """The commands so far that were more than a look."""
        return self.ran

    # --- tun devices

    def open_tun(self, system: System, name: str) -> tuple[TunDevice, bool]:
        """In place of tundev.open_device."""
        self._change(f"open {name}")
        if system.stays and name not in self.links:
            raise AssertionError(f"{name} was not created")
        if not system.stays:
            self.links[name] = {"mtu": 1500, "up": False, "addresses": {}}
        goes = not system.stays or system.transient is not None and self.goes
        self.open[name] = goes
        return TunDevice(name, -1), goes

    goes = False
    """Whether this FreeBSD has TUNSTRANSIENT."""

    def close(self) -> None:
        """The descriptors of the agent are closed, by itself or by its end."""
        for name, goes in self.open.items():
            if goes or name in self.waiting:
                self._destroy(name)
        self.open.clear()
        self.waiting.clear()

    # --- the port

    def get_sysctl(self, _name: str) -> str | None:
        return None

    def set_sysctl(self, name: str, value: str) -> None:
        raise AssertionError(f"{name}={value} is not the way here")

    def run(self, argv: Sequence[str]) -> Completed:
        words = [str(word) for word in argv]
        if self.dead:
            raise Killed
        try:
            if words == ["ifconfig", "-a"]:
                return Completed(tuple(words), 0, self._ifconfig())
            if words[0] == "netstat" and tuple(words[:-1]) == self.system.routes:
                return Completed(tuple(words), 0, self._netstat(words[-1]))
            if words[:2] == ["sysctl", "-n"]:
                if words[2] not in self.sysctls:
                    raise Refused(f"sysctl: unknown oid '{words[2]}'")
                return Completed(tuple(words), 0, self.sysctls[words[2]] + "\n")
            self._change(" ".join(words), lambda: self._do(words))
            return Completed(tuple(words), 0)
        except Refused as exc:
            return Completed(tuple(words), 1, "", str(exc))

    def _change(self, line: str, do: Any = lambda: None) -> None:
        if self.dead or self.kill_at == len(self.ran) + 1 and not self.kill_after:
            self.dead = True
            raise Killed
        self.ran.append(line)
        if self.refuse and self.refuse in line:
            raise Refused("Operation not permitted")
        do()
        if self.kill_at == len(self.ran):
            self.dead = True
            raise Killed

    def _do(self, words: list[str]) -> None:
        if words[0] == "daemon":
            if self.system.name != "FreeBSD" or words[1:3] != ["-f", "ifconfig"] or words[4] != "destroy":
                raise Refused("usage: daemon")
            self.waiting.append(words[3])
            return
        {"ifconfig": self._do_ifconfig, "route": self._do_route, "sysctl": self._do_sysctl}[words[0]](words[1:])

    def _do_sysctl(self, words: list[str]) -> None:
        if ("sysctl", *words[:-1]) != self.system.set_sysctl:
            raise Refused("usage: sysctl")
        name, value = words[-1].split("=")
        if name not in self.sysctls:
            raise Refused(f"sysctl: unknown oid '{name}'")
        self.sysctls[name] = value

    # --- ifconfig

    def _do_ifconfig(self, words: list[str]) -> None:
        name, rest = words[0], words[1:]
        if rest == ["create"]:
            if name in self.links:
                raise Refused(f"ifconfig: create: {name}: File exists")
            self.links[name] = {"mtu": 1280, "up": False, "addresses": {}}
            return
        if name not in self.links:
            raise Refused(f"ifconfig: interface {name} does not exist")
        link = self.links[name]
        if rest == ["destroy"]:
            if self.system.name == "FreeBSD" and name in self.open:
                raise AssertionError("FreeBSD waits here for ever")
            self._destroy(name)
        elif rest == ["up"]:
            link["up"] = True
        elif rest[0] == "mtu" and len(rest) == 2:
            link["mtu"] = int(rest[1])
        elif rest[0] == "description" and len(rest) == 2 and self.system.marks:
            link["mark"] = rest[1]
        elif rest == ["inet6", "no_dad"] and self.system.no_dad:
            link["no_dad"] = True
        elif "tunnel" in rest:
            self._tunnel(name, rest)
        elif rest[0] in NETWORKS and rest[1] == "alias":
            self._alias(link, rest)
        elif rest[0] in NETWORKS and rest[2:] == ["delete"]:
            found = [cidr for cidr in link["addresses"] if cidr.split("/")[0] == rest[1]]
            if not found:
                raise Refused("ifconfig: ioctl (SIOCDIFADDR): Can't assign requested address")
            peer = link["addresses"].pop(found[0])
            self.routes = [route for route in self.routes if peer is None or route["gateway"] != peer]
        else:
            raise Refused(f"ifconfig: {rest[0]}: bad value")

    def _tunnel(self, name: str, rest: list[str]) -> None:
        local, remote = rest[-2:]
        wants = rest[0] == "inet6"
        if not name.startswith("gif") or wants != (":" in local and self.system.name in ("FreeBSD", "macOS")):
            raise Refused("ifconfig: error in parsing address string")
        self.links[name]["tunnel"] = (local, remote)

    def _alias(self, link: dict[str, Any], rest: list[str]) -> None:
        family, ends, size = rest[0], rest[2:-2], rest[-2:]
        if size[0] != ("prefixlen" if family == "inet6" else "netmask"):
            raise Refused(f"ifconfig: {size[0]}: bad value")
        length = size[1] if family == "inet6" else str(ip_network(f"0.0.0.0/{size[1]}").prefixlen)
        if any(cidr.split("/")[0] == ends[0] for cidr in link["addresses"]):
            raise Refused("ifconfig: ioctl (SIOCAIFADDR): File exists")
        link["addresses"][f"{ends[0]}/{length}"] = ends[1] if len(ends) > 1 else None

    def _destroy(self, name: str) -> None:
        self.links.pop(name, None)
        self.routes = [route for route in self.routes if route["dev"] != name]

    def _ifconfig(self) -> str:
        lines = []
        for name, link in self.links.items():
            netbsd = self.system.name == "NetBSD"
            lines.append(f"{name}: flags={'0x' if netbsd else ''}8051<{'UP,' if link['up'] else ''}RUNNING> metric 0 mtu {link['mtu']}")
            if "mark" in link:
                lines.append(f"\tdescription: {link['mark']}")
            if "tunnel" in link:
                kind = "inet6" if ":" in link["tunnel"][0] else "inet"
                lines.append(f"\ttunnel{':' if self.system.name == 'OpenBSD' else ''} {kind} {' --> '.join(link['tunnel'])}")
            for cidr, peer in link["addresses"].items():
                address = ip_interface(cidr)
                family = "inet6" if address.version == 6 else "inet"
                if netbsd:
                    lines.append(f"\t{family} {cidr}{f' -> {peer}' if peer else ''} flags 0")
                else:
                    size = f"prefixlen {address.network.prefixlen}" if address.version == 6 else f"netmask {int(address.netmask):#x}"
                    lines.append(f"\t{family} {address.ip}{f' --> {peer}' if peer else ''} {size}")
            if self.system.name == "FreeBSD":
                seen = ["PERFORMNUD", *(["ACCEPT_RTADV"] if link.get("listens") else []), *(["NO_DAD"] if link.get("no_dad") else [])]
                lines.append(f"\tnd6 options=21<{','.join(seen)}>")
        return "\n".join(lines) + "\n"

    # --- route

    def _do_route(self, words: list[str]) -> None:
        verb, rest = words[1], words[2:]
        if words[0] != "-n" or verb not in ("add", "delete"):
            raise Refused("usage: route")
        family, rest = rest[0].lstrip("-"), rest[1:]
        priority = None
        if rest[0] == "-priority":
            if self.system.name != "OpenBSD":
                raise Refused("route: bad keyword: priority")
            priority, rest = int(rest[1]), rest[2:]
        if rest[0] == "default":
            network, rest = ip_network(NETWORKS[family]), rest[1:]
        elif rest[0] == "-host":
            network, rest = ip_network(rest[1]), rest[2:]
        elif rest[0] == "-net":
            network, rest = ip_network(f"{rest[1]}/{rest[3]}"), rest[4:]
        else:
            network, rest = ip_network(f"{rest[0]}/{rest[2]}"), rest[3:]
        gateway = rest[0] if rest else None
        same = [route for route in self.routes if route["to"] == str(network) and route["priority"] == (priority or 8)]
        if verb == "delete":
            found = [route for route in same if gateway is None or route["gateway"] == gateway]
            if not found:
                raise Refused("route: writing to routing socket: No such process\ndelete net: gateway: not in table")
            self.routes.remove(found[0])
            return
        if same:
            raise Refused("route: writing to routing socket: File exists")
        reject = rest[1:] == ["-reject"]
        if gateway is None or rest[1:] and not reject:
            raise Refused("usage: route")
        flags = "UGRS" if reject else "UGS"
        self.routes.append(self._route(str(network), gateway, self._towards(gateway), flags, priority))

    def _towards(self, gateway: str) -> str:
        for name, link in self.links.items():
            for cidr, peer in link["addresses"].items():
                if link["up"] and (peer == gateway or peer is None and ip_address(gateway) in ip_interface(cidr).network):
                    return name
        raise Refused("route: writing to routing socket: Network is unreachable")

    @staticmethod
    def _route(to: str, gateway: str, dev: str, flags: str, priority: int | None = None) -> dict[str, Any]:
        return {"to": to, "gateway": gateway, "dev": dev, "flags": flags, "priority": priority or 8}

    def _netstat(self, family: str) -> str:
        heading = {"FreeBSD": "Flags Nhop# Mtu Netif Expire", "OpenBSD": "Flags Refs Use Mtu Prio Iface",
                   "NetBSD": "Flags Refs Use Mtu Interface", "macOS": "Flags Refs Use Mtu Netif Expire"}[self.system.name]
        lines = ["Routing tables", "", "Internet6:" if family == "inet6" else "Internet:", f"Destination Gateway {heading}"]
        for route in self.routes:
            if (":" in route["to"]) != (family == "inet6"):
                continue
            to = "default" if route["to"] in NETWORKS.values() else route["to"].removesuffix("/128").removesuffix("/32")
            # FreeBSD shows a link in place of a gateway that is its own address.
            gateway = "link#2" if self.system.name == "FreeBSD" and "R" in route["flags"] else route["gateway"]
            gateway += "%em0" if gateway.startswith("fe80:") else ""
            middle = {"FreeBSD": "4 1500", "OpenBSD": f"0 0 - {route['priority']}", "NetBSD": "- - -",
                      "macOS": "0 0 1500"}[self.system.name]
            lines.append(f"{to} {gateway} {route['flags']} {middle} {route['dev']}")
        return "\n".join(lines) + "\n"
