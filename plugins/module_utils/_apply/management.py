# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The way by which whoever manages this host came in, and whether a plan is about to change it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network

from .._tsp.errors import ApplyError, LocalError
from .items import Item, describe
from .kernel import holds, key, read, with_parts
from .memory import load
from .runner import Runner

ANY = {6: "::/0", 4: "0.0.0.0/0"}


@dataclass(frozen=True)
class Way:
    """An SSH session: peer and local are its addresses; device, destination, metric and protocol those of the route to the peer."""

    peer: str
    local: str
    device: str
    destination: str
    metric: int = 0
    protocol: str = ""

    @property
    def family(self) -> int:
        """6 or 4."""
        return ip_address(self.peer).version


def way(runner: Runner, pid: int) -> Way | None:
    """The way to the session that this process belongs to; None when nobody came in over SSH, or none can be found out."""
    session = _session(runner, pid)
    if session is None:
        return None
    peer, local = session
    for match in (("fibmatch",), ()):  # iproute2 before 4.13 does not tell which route it is
        done = runner.run(["ip", "-j", "route", "get", *match, peer, "from", local], 30.0)
        try:
            route = json.loads(done.stdout)[0] if not done.rc else {}
        except (ValueError, LookupError, TypeError):
            route = {}
        if isinstance(route, dict) and route.get("dev"):
            family = ip_address(peer).version
            metric = int(route.get("metric") or 0) or (1024 if family == 6 else 0)
            return Way(peer, local, str(route["dev"]), _network(str(route.get("dst", "")), peer) if match else ANY[family], metric,
                       str(route.get("protocol") or ""))
    return None


def rides(items: Iterable[Item], gone: Iterable[Item], path: Way) -> str:
    """Why making `items`, or taking `gone` away, may cut this way off; a phrase, empty when it cannot."""
    items = list(items)
    listens = {"kind": "sysctl", "name": f"net/ipv6/conf/{path.device}/accept_ra", "value": "2"}
    for item in items:
        if _makes_it_another(item, path) and not (_forwards(item) and any(
                {name: other.get(name) for name in listens} == listens for other in items)):
            return describe(item)
    for item in gone:
        if _takes_it_away(item, path):
            return f"without {describe(item)}"
    return ""


def insist(name: str, items: Sequence[Item], present: bool, runner: Runner, state_dir: str, pid: int) -> None:
    """Raises LocalError `confirm_timeout_needed` when the plan changes the way by which its run came in."""
    path = way(runner, pid)
    if path is None:
        return
    try:
        memory = load(runner, state_dir, name)
        before = [] if memory is None else memory.items
        wanted = {key(item) for item in items} if present else set()
        state = read(with_parts([*items, *before]), runner)
    except ApplyError:
        return  # the transaction says it better
    # accept_ra matters also where it is as it shall be.
    why = rides([item for item in items if present and (not holds(item, state) or key(item).endswith("/accept_ra"))],
                [item for item in before if key(item) not in wanted and key(item) in state], path)
    if why:
        raise LocalError("confirm_timeout_needed",
                         f"The session that makes this change came in from {path.peer} to {path.local} through {path.device}, and the "
                         f"change may cut it off: {why}.",
                         "Set confirm_timeout (linux_confirm_timeout), so that the host undoes by itself what it cannot be told to keep.")


def _makes_it_another(item: Item, path: Way) -> bool:
    kind = item["kind"]
    if kind == "link":
        return bool(item["device"] == path.device)
    if kind == "address":  # the peer, or our own end, would be found elsewhere
        interface = ip_interface(item["cidr"])
        return item["device"] != path.device and (str(interface.ip) == path.local or _inside(path.peer, str(interface.network))
                                                  and interface.network.prefixlen >= _length(path))
    if kind == "route":
        return _wins(item, path)
    if kind == "rule":
        return _inside(path.local, item["from"]) and item["table"] not in ("main", 254)
    words = item["name"].split("/")
    if words[-1] == "disable_ipv6":
        return path.family == 6 and item["value"] != "0" and words[-2] in ("all", path.device)
    # A host that begins to forward forgets the routes that routers advertised to it, unless accept_ra is 2 by then.
    return _forwards(item) and path.protocol == "ra" and words[-2] in ("all", path.device)


def _forwards(item: Item) -> bool:
    return bool(item["kind"] == "sysctl" and item["name"].startswith("net/ipv6/conf/") and item["name"].endswith("/forwarding")
                and item["value"] != "0")


def _wins(item: Item, path: Way) -> bool:
    """Whether packets to the peer would take this route instead of theirs."""
    if item.get("absent"):
        return _same_route(item, path)
    if item["family"] != path.family or not _inside(path.peer, item["destination"]):
        return False
    if item["table"] not in ("main", 254) or item["from"] and not _inside(path.local, item["from"]):
        return False
    if item["type"] == "unicast" and item["device"] == path.device and not item["gateway"]:
        return False
    length, metric = ip_network(item["destination"]).prefixlen, int(item["metric"] or 0) or (1024 if path.family == 6 else 0)
    if item["from"]:
        return length >= _length(path)  # of two equally long ones the kernel takes the one with a source
    return length > _length(path) or length == _length(path) and metric <= path.metric


def _takes_it_away(item: Item, path: Way) -> bool:
    kind = item["kind"]
    if kind == "link":
        return bool(item["device"] == path.device)
    if kind == "address":
        return str(ip_interface(item["cidr"]).ip) == path.local
    if kind == "route":
        return _same_route(item, path)
    return kind == "rule" and _inside(path.local, item["from"]) and item["table"] not in ("main", 254)


def _same_route(item: Item, path: Way) -> bool:
    return bool(item["family"] == path.family and item["device"] == path.device and item["destination"] == path.destination)


def _length(path: Way) -> int:
    return ip_network(path.destination).prefixlen


def _inside(address: str, network: str) -> bool:
    return ip_address(address) in ip_network(network, strict=False)


def _network(text: str, peer: str) -> str:
    version = ip_address(peer).version
    try:
        return ANY[version] if text in ("", "default") else str(ip_network(text, strict=False))
    except ValueError:
        return ANY[version]


def _session(runner: Runner, pid: int) -> tuple[str, str] | None:
    """sudo clears SSH_CONNECTION, so that the processes above us are asked for it, up to the first that has it."""
    for _generation in range(64):
        try:
            environment, status = runner.read(f"/proc/{pid}/environ"), runner.read(f"/proc/{pid}/status")
        except (ApplyError, OSError):
            return None
        for value in (environment.content if environment else b"").split(b"\0"):
            if value.startswith(b"SSH_CONNECTION="):
                words = value.partition(b"=")[2].decode("ascii", "replace").split()
                return _addresses(words)
        parent = re.search(rb"^PPid:\s*(\d+)", status.content if status else b"", re.MULTILINE)
        if parent is None or int(parent.group(1)) <= 1:
            return None
        pid = int(parent.group(1))
    return None


def _addresses(words: list[str]) -> tuple[str, str] | None:
    """Of SSH_CONNECTION: peer, its port, our address, our port. IPv4 in an IPv6 socket is IPv4; one of a link cannot be cut off so."""
    found = []
    for word in words[0:3:2] if len(words) == 4 else ():
        try:
            address = ip_address(word.split("%")[0])
        except ValueError:
            return None
        found.append(str(getattr(address, "ipv4_mapped", None) or address))
    return (found[0], found[1]) if len(found) == 2 and not ip_address(found[0]).is_link_local else None
