# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What is in the kernel, and whether an item of a plan is: `ip -j` and /proc/sys read into one dictionary.

A state maps the key of an item to what the kernel says of it: a link to {type, local, remote, encap, ttl, mtu, up, alias, carrier},
an address, a route or a rule to the object of `ip -j`, a sysctl to its value, a UDP port of FOU to its object. What has no key is not
there. The same keys name facts (undo.py): an item, and what was in its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Any

from .._tsp.errors import ApplyError, LocalError
from .items import Item
from .runner import Completed, Runner

State = dict[str, Any]
TABLES = {"254": "main", "255": "local", "253": "default", "main": "main", "local": "local", "default": "default"}
TABLE_FILES = ("/etc/iproute2/rt_tables", "/usr/share/iproute2/rt_tables", "/usr/lib/iproute2/rt_tables")
SPREADING = {
    "net/ipv6/conf/all/forwarding": "net/ipv6/conf/{}/forwarding", "net/ipv4/conf/all/forwarding": "net/ipv4/conf/{}/forwarding",
    "net/ipv6/conf/all/disable_ipv6": "net/ipv6/conf/{}/disable_ipv6", "net/ipv4/ip_forward": "net/ipv4/conf/{}/forwarding",
}
"""Variables that, when written, are written to each interface as well (Linux ip-sysctl)."""
FIELDS = {
    "link": ("device", "type", "local", "remote", "mtu", "encap"), "address": ("device", "cidr"),
    "route": ("family", "destination", "device", "gateway", "metric", "type", "from", "table"),
    "rule": ("family", "from", "table", "priority", "suppress_prefixlength"), "sysctl": ("name", "value"), "fou": ("port",),
}


def check(items: Iterable[Item]) -> None:
    """Raises LocalError `invalid_plan` when something of this list is no item, or stands there twice."""
    seen: set[str] = set()
    for item in items:
        kind = item.get("kind") if isinstance(item, dict) else None
        if kind not in FIELDS or kind == "fou":
            raise LocalError("invalid_plan", f"{item!r} is not an item of the kernel's state.",
                             "kind is link, address, route, rule or sysctl.")
        missing = [name for name in FIELDS[kind] if name not in item]
        if missing:
            raise LocalError("invalid_plan", f"An item of kind {kind} lacks {', '.join(missing)}.", "")
        if kind == "sysctl" and not _sysctl_name(item["name"]):
            raise LocalError("invalid_plan", f"{item['name']!r} is not a variable of the network.",
                             "Write it with slashes, for example net/ipv6/conf/all/forwarding.")
        if key(item) in seen:
            raise LocalError("invalid_plan", f"{key(item)} is named twice.", "Name each item once.")
        seen.add(key(item))


def key(item: Item) -> str:
    """What an item is called in a state: equal for what the kernel holds to be one and the same thing."""
    kind = item["kind"]
    if kind == "link":
        return f"link {item['device']}"
    if kind == "address":
        return f"address {item['device']} {item['cidr']}"
    if kind == "sysctl":
        return f"sysctl {item['name']}"
    if kind == "fou":
        return f"fou {item['port']}"
    table = TABLES.get(str(item["table"]), str(item["table"]))
    if kind == "rule":
        more = "" if item["suppress_prefixlength"] is None else f" suppress {item['suppress_prefixlength']}"
        return f"rule {item['family']} {item['priority']} from {item['from']} table {table}{more}"
    # Linux takes metric 0 of an IPv6 route for 1024; an unreachable route hangs on the loopback device, or on none.
    metric = int(item["metric"] or 0) or (1024 if item["family"] == 6 else 0)
    where = f"dev {item['device']} via {item['gateway'] or '-'}" if item["type"] == "unicast" else item["type"]
    return f"route {item['family']} {table} {item['destination']} from {item['from'] or '-'} {where} metric {metric}"


def with_parts(items: Iterable[Item]) -> list[Item]:
    """The items, each tunnel over UDP behind the port that takes its packets. What shall be absent is ours to take away."""
    out: list[Item] = []
    for item in items:
        if item["kind"] == "link" and item.get("encap"):
            out.append({"kind": "fou", "port": item["encap"]["sport"], "make": item.get("make", False)})
        out.append({**item, "make": True} if item.get("absent") else item)
    return out


def same_tunnel(item: Item, found: dict[str, Any]) -> bool:
    """Whether the device is this tunnel, whatever its MTU and whether it is up."""
    wanted, encap = item.get("encap"), found.get("encap")
    return all(item[name] == found.get(name) for name in ("type", "local", "remote")) and (
        encap is None if not wanted else encap is not None and all(encap.get(name) == wanted[name] for name in ("type", "sport", "dport")))


def holds(item: Item, state: State, *, ready: bool = False) -> bool:
    """Whether the kernel has it. ready: an address has also passed its duplicate address detection, where there is a carrier."""
    found = state.get(key(item))
    if item.get("absent"):
        return found is None
    if found is None:
        return False
    kind = item["kind"]
    if kind == "link":
        return same_tunnel(item, found) and bool(found["up"]) and item["mtu"] in (None, found["mtu"])
    if kind == "sysctl":
        return str(found).split() == str(item["value"]).split()
    if kind == "address":
        carrier = bool((state.get(f"link {item['device']}") or {}).get("carrier"))
        return not found.get("dadfailed") and not (ready and carrier and found.get("tentative"))
    return True


def dependents(name: str, runner: Runner) -> list[str]:
    """What writing this variable writes too."""
    pattern = SPREADING.get(name)
    if pattern is None:
        return []
    folder = "/proc/sys/" + pattern.split("/{}")[0]
    return [pattern.format(interface) for interface in runner.names(folder) if pattern.format(interface) != name] + (
        ["net/ipv4/ip_forward"] if name == "net/ipv4/conf/all/forwarding" else [])


def read(items: Sequence[Item], runner: Runner, sysctls: Iterable[str] = ()) -> State:
    """The kernel's state as far as these items (or facts) are concerned. Raises ApplyError `no_iproute`."""
    state: State = {}
    kinds = {item["kind"] for item in items}
    if kinds - {"sysctl"}:
        _links(state, _json(runner, "ip", "-j", "-d", "addr", "show"))
    families = {6, 4} if "link" in kinds else {item["family"] for item in items if item["kind"] in ("route", "rule")}
    names = _table_names(runner) if families else {}
    for family in sorted(families):
        for route in _json(runner, "ip", "-j", "-d", f"-{family}", "route", "show", "table", "all"):
            _route(state, route, family, names)
        if "rule" in kinds:
            for rule in _json(runner, "ip", "-j", f"-{family}", "rule", "show"):
                _rule(state, rule, family, names)
    if "fou" in kinds and _has_fou(runner):
        for port in _json(runner, "ip", "-j", "fou", "show"):
            state[f"fou {port.get('port')}"] = port
    for name in {item["name"] for item in items if item["kind"] == "sysctl"} | set(sysctls):
        value = runner.get_sysctl(name)
        if value is not None:
            state[f"sysctl {name}"] = value
    return state


def routes_on(device: str, state: State) -> list[Item]:
    """The routes through a device that its deletion would take along, as items, without those that come with an address."""
    return [item for item in _found(state, "route") if item["device"] == device and state[key(item)].get("protocol") != "kernel"
            and item["table"] != "local"]


def advertised_routes(state: State) -> list[Item]:
    """Default routes out of router advertisements, which a host loses that begins to forward."""
    return [item for item in _found(state, "route") if state[key(item)].get("protocol") == "ra" and item["destination"] == "::/0"]


def addresses_on(device: str, state: State) -> list[Item]:
    """The addresses of a device, without those that the kernel gives it of its own accord."""
    return [item for item in _found(state, "address") if item["device"] == device and state[key(item)].get("scope") != "link"]


def _found(state: State, kind: str) -> list[Item]:
    return [found["item"] for name, found in state.items() if name.startswith(f"{kind} ") and isinstance(found, dict) and "item" in found]


def _links(state: State, links: list[dict[str, Any]]) -> None:
    for link in links:
        name, info = str(link.get("ifname")), link.get("linkinfo") or {}
        data, flags = info.get("info_data") or {}, link.get("flags") or []
        encap = data.get("encap")
        state[f"link {name}"] = {
            "type": info.get("info_kind") or "", "local": data.get("local"), "remote": data.get("remote"), "ttl": data.get("ttl"),
            "encap": None if not encap else {name: encap.get(name) for name in ("type", "sport", "dport", "csum")},
            "mtu": link.get("mtu"), "up": "UP" in flags, "carrier": "LOWER_UP" in flags, "alias": link.get("ifalias") or ""}
        for address in link.get("addr_info") or []:
            if address.get("local"):
                item = {"kind": "address", "device": name, "cidr": f"{address['local']}/{address.get('prefixlen')}"}
                state[key(item)] = {**address, "item": item}


def _route(state: State, route: dict[str, Any], family: int, names: dict[str, str]) -> None:
    network = _network(route.get("dst", ""), family)
    if network is None or route.get("type") in ("local", "broadcast", "multicast", "anycast"):
        return
    table = str(route.get("table", "main"))
    item = {"kind": "route", "family": family, "destination": network, "device": route.get("dev"),
            "gateway": route.get("gateway") or (route.get("via") or {}).get("host"), "metric": route.get("metric", 0),
            "type": route.get("type", "unicast"), "from": _network(route["from"], family) if route.get("from") else None,
            "table": TABLES.get(table, names.get(table, table))}
    state[key(item)] = {**route, "item": item}


def _rule(state: State, rule: dict[str, Any], family: int, names: dict[str, str]) -> None:
    source = rule.get("src", "all")
    if source != "all" and rule.get("srclen") is not None:
        source = f"{source}/{rule['srclen']}"
    network, table = _network("default" if source == "all" else source, family), str(rule.get("table", ""))
    if network is not None and rule.get("dst", "all") == "all":
        item = {"kind": "rule", "family": family, "from": network, "table": TABLES.get(table, names.get(table, table)),
                "priority": rule.get("priority"), "suppress_prefixlength": rule.get("suppress_prefixlen")}
        state[key(item)] = {**rule, "item": item}


def _network(text: str, family: int) -> str | None:
    try:
        return str(ip_network(("::/0" if family == 6 else "0.0.0.0/0") if text == "default" else text))
    except ValueError:
        return None


def _table_names(runner: Runner) -> dict[str, str]:
    """Name -> number of the routing tables that this host has names for; ip prints the name."""
    names: dict[str, str] = {}
    for path in TABLE_FILES:
        try:
            found = runner.read(path)
        except ApplyError:
            continue  # a link: then the numbers must do
        for line in found.content.decode("utf-8", "replace").splitlines() if found else ():
            words = line.split("#")[0].split()
            if len(words) == 2 and words[0].isdigit():
                names[words[1]] = words[0]
    return names


def _has_fou(runner: Runner) -> bool:
    """To ask the kernel for its ports would load the module."""
    if runner.directory_mode("/sys/module/fou") is not None:
        return True
    release = runner.read("/proc/sys/kernel/osrelease")
    builtin = release and runner.read(f"/lib/modules/{release.content.decode('ascii', 'replace').strip()}/modules.builtin")
    return bool(builtin and b"/fou.ko" in builtin.content)


def _json(runner: Runner, *words: str) -> list[dict[str, Any]]:
    return entries(runner.run(words, 30.0))


def entries(done: Completed) -> list[dict[str, Any]]:
    """What `ip -j` printed, without the empty objects that old ones put between. Raises ApplyError `no_iproute`."""
    try:
        if done.rc:
            raise ValueError(done.words)
        return [entry for entry in json.loads(done.stdout or "[]") if entry]
    except ValueError as exc:
        raise ApplyError("no_iproute", f"{' '.join(done.argv)} does not work here: {exc}.", "Install iproute2 (4.17 or newer).") from None


def _sysctl_name(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("net/") and ".." not in name.split("/") and all(name.split("/"))
