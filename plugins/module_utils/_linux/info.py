# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a Linux host is, as far as a tunnel on it is concerned: the dict `host` that `setup` decides by. It only looks.

    system, kernel, python, root        Linux, release of the kernel, [3, 11, 2], whether root looked
    service_manager, systemd_version    systemd | none; 252 or null
    tools                               {ip, nft, ping, radvd, networkctl, nmcli, netplan, ifup, systemd-run, modprobe, sysctl, dnsmasq}:
                                        path or null
    kinds                               {sit, fou, ip6tnl, tun: {available, how: loaded | module | builtin | missing}}
    ipv6, ipv6_why                      whether the kernel speaks IPv6, and why not
    read_only                           folders that nobody can write
    governors                           {networkd, networkmanager, netplan, ifupdown}: at work on this host at all
    links                               {name: {index, kind, alias, mtu, up, mac, ipv6, ends [local, remote: of a tunnel],
                                        addresses [cidr], dynamic [cidr], accept_ra, forwarding, has_force_forwarding, governor,
                                        network_file, connection, netplan_type, netplan_id, renderer}}
    default_routes                      [{family, device, gateway, metric, protocol, from}]
    management                          {peer, local, device}: how whoever looks came in over SSH, each null when nobody did
    radvd                               {installed, active, enabled, config, interfaces}
    nftables                            {kernel: whether it can filter}
    ours                                {transaction: {devices, files, addresses ["eth1 2001:db8::1/64"], items, unfinished}} that earlier
                                        runs, or a running agent, made; items: sysctls, and native routes that were taken away;
                                        unfinished: a run was interrupted, and what it made is not known
    interfaces_file                     {sources_d, flavour}

Addresses of scope link are left out. What could not be found out is said in a sentence each.
"""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from typing import Any

from .._apply.journal import JOURNAL
from .._apply.service import SYSTEMD_RUNS
from .._apply.transaction import STATE_DIR
from .governors import interfaces_file, of_links, system_wide
from .kinds import how_of, kinds
from .look import HostLook, Look

TOOLS = ("ip", "nft", "ping", "radvd", "networkctl", "nmcli", "netplan", "ifup", "systemd-run", "modprobe", "sysctl", "dnsmasq")
FOLDERS = ("/etc", "/usr/local/lib", "/var/lib", "/etc/systemd", "/etc/network", "/etc/NetworkManager", "/etc/netplan", "/etc/sysctl.d",
           "/etc/modules-load.d")
UNITS = ("systemd-networkd.service", "NetworkManager.service", "networking.service", "radvd.service")
RADVD_CONFIG = "/etc/radvd.conf"
MEMORY_SUFFIX = ".before.json"
AGENT_FOLDERS = re.compile(r"tsp(-.+)?\Z")
NOTHING: dict[str, Any] = {"devices": [], "files": [], "addresses": [], "items": [], "unfinished": False}
CONF6 = "/proc/sys/net/ipv6/conf"


def gather(look: Look | None = None, *, state_dir: str = STATE_DIR) -> tuple[dict[str, Any], list[str]]:
    """The dict of the module docstring, and warnings. state_dir: where apply_config keeps what it remembers."""
    look = look or HostLook()
    warnings: list[str] = []
    who = look.identity()
    release, root = str(who["release"]), who["uid"] == 0
    if not root:
        warnings.append("Only root sees everything here: what earlier runs made and how the host is managed may be missing.")
    tools = {name: look.tool(name) for name in TOOLS}
    systemd = look.exists(SYSTEMD_RUNS)
    units = _units(look) if systemd else {}
    active = system_wide(look, tools, units, systemd)
    links = _links(look, warnings)
    governed = of_links(look, tools, active, links, warnings)
    ipv6, why = _ipv6(look)
    host = {
        "system": who["system"], "kernel": release, "python": [int(part) for part in re.findall(r"\d+", str(who["python"]))[:3]],
        "root": root,
        "service_manager": "systemd" if systemd else "none",
        "systemd_version": _systemd_version(look) if systemd else None,
        "tools": tools,
        "kinds": kinds(look, release, tools["modprobe"]),
        "ipv6": ipv6, "ipv6_why": why,
        "read_only": [folder for folder in FOLDERS if not look.writable(folder)],
        "governors": active,
        "links": {name: {**link, **governed[name]} for name, link in links.items()},
        "default_routes": _default_routes(look, warnings),
        "management": _management(look, int(who["pid"])),
        "radvd": _radvd(look, tools, units),
        "nftables": {"kernel": _nftables(look, release, tools["modprobe"])},
        "ours": _ours(look, state_dir, warnings),
        "interfaces_file": interfaces_file(look, tools),
    }
    return host, warnings


def _units(look: Look) -> dict[str, dict[str, str]]:
    """{unit: {LoadState, ActiveState, UnitFileState}}, all in one call."""
    done = look.run(("systemctl", "show", "-p", "Id", "-p", "LoadState", "-p", "ActiveState", "-p", "UnitFileState", *UNITS))
    out = {}
    for block in done.stdout.split("\n\n"):
        state = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in state:
            out[state["Id"]] = state
    return out


def _systemd_version(look: Look) -> int | None:
    found = re.match(r"systemd (\d+)", look.run(("systemctl", "--version")).stdout)
    return None if found is None else int(found.group(1))


def _json(look: Look, argv: tuple[str, ...], warnings: list[str]) -> list[dict[str, Any]]:
    done = look.run(argv)
    try:
        if done.rc:
            raise ValueError(done.words)
        data = json.loads(done.stdout or "[]")
        return [entry for entry in data if isinstance(entry, dict) and entry]
    except ValueError as exc:
        warnings.append(f"{' '.join(argv)} does not work here: {exc}.")
        return []


def _links(look: Look, warnings: list[str]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for entry in _json(look, ("ip", "-j", "-d", "addr", "show"), warnings):
        name = str(entry.get("ifname"))
        held = [item for item in entry.get("addr_info", ()) if item.get("local") and item.get("scope") != "link"]
        out[name] = {
            "index": int(entry.get("ifindex") or 0),
            "kind": str((entry.get("linkinfo") or {}).get("info_kind") or ""),
            "alias": str(entry.get("ifalias") or ""),
            "mtu": int(entry.get("mtu") or 0),
            "up": "UP" in entry.get("flags", ()),
            "mac": str(entry.get("address") or ""),
            "ipv6": look.text(f"{CONF6}/{name}/disable_ipv6") in ("0\n", "0"),
            "ends": _ends(entry),
            "addresses": [_cidr(item) for item in held],
            "dynamic": [_cidr(item) for item in held if item.get("dynamic") or item.get("temporary")],
            "accept_ra": _number(look, f"{CONF6}/{name}/accept_ra"),
            "forwarding": _number(look, f"{CONF6}/{name}/forwarding") == 1,
            "has_force_forwarding": look.exists(f"{CONF6}/{name}/force_forwarding"),
        }
    return out


def _ends(entry: dict[str, Any]) -> list[str]:
    """Local and remote address of a tunnel; empty for what is none, or has no fixed ends."""
    data = (entry.get("linkinfo") or {}).get("info_data") or {}
    ends = [str(data.get(name) or "any") for name in ("local", "remote")]
    return [] if "any" in ends else ends


def _cidr(item: dict[str, Any]) -> str:
    return f"{item['local']}/{item.get('prefixlen')}"


def _number(look: Look, path: str) -> int:
    text = (look.text(path) or "").strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else 0


def _ipv6(look: Look) -> tuple[bool, str]:
    if not look.names(CONF6):
        return False, "The kernel has no IPv6, or was started with ipv6.disable=1."
    for name in ("all", "default"):
        if _number(look, f"{CONF6}/{name}/disable_ipv6"):
            return False, f"net.ipv6.conf.{name}.disable_ipv6 is 1."
    return True, ""


def _nftables(look: Look, release: str, modprobe: str | None) -> bool:
    """Asking nft itself would load the module. A kernel without modules of its own (a container's) is believed by its netfilter."""
    if how_of(look, release, "nf_tables", modprobe) != "missing":
        return True
    return not look.names(f"/lib/modules/{release}") and look.exists("/proc/net/netfilter")


def _default_routes(look: Look, warnings: list[str]) -> list[dict[str, Any]]:
    out = []
    for family in (6, 4):
        for route in _json(look, ("ip", "-j", f"-{family}", "route", "show", "default"), warnings):
            if route.get("type", "unicast") != "unicast":
                continue
            for hop in route.get("nexthops") or [route]:
                out.append({"family": family, "device": str(hop.get("dev") or ""), "gateway": hop.get("gateway"),
                            "metric": int(route.get("metric") or 0), "protocol": str(route.get("protocol") or ""),
                            "from": route.get("from")})
    return out


def _management(look: Look, pid: int) -> dict[str, str | None]:
    """How we came in. sudo clears SSH_CONNECTION, so that the processes above us are asked for it, up to the first that has it."""
    nobody: dict[str, str | None] = {"peer": None, "local": None, "device": None}
    for _generation in range(64):
        environment = (look.text(f"/proc/{pid}/environ") or "").split("\0")
        found = [value.split("=", 1)[1].split() for value in environment if value.startswith("SSH_CONNECTION=")]
        if found and len(found[0]) == 4:
            peer, local = (_address(found[0][place]) for place in (0, 2))
            if peer is None or local is None:
                return nobody
            routes = _json(look, ("ip", "-j", "route", "get", peer, "from", local), [])
            return {"peer": peer, "local": local, "device": str(routes[0]["dev"]) if routes and routes[0].get("dev") else None}
        parent = re.search(r"^PPid:\s*(\d+)", look.text(f"/proc/{pid}/status") or "", re.MULTILINE)
        if parent is None or parent.group(1) in ("0", "1"):
            return nobody
        pid = int(parent.group(1))
    return nobody


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text.split("%")[0]))
    except ValueError:
        return None


def _radvd(look: Look, tools: dict[str, str | None], units: dict[str, dict[str, str]]) -> dict[str, Any]:
    unit = units.get("radvd.service", {})
    text = re.sub(r"#.*", "", look.text(RADVD_CONFIG) or "")
    active = unit.get("ActiveState") == "active"
    if not units:
        process = (look.text("/run/radvd/radvd.pid") or look.text("/run/radvd.pid") or "").strip()
        active = process.isdigit() and (look.text(f"/proc/{process}/comm") or "").strip() == "radvd"
    return {"installed": tools["radvd"] is not None, "active": active, "enabled": unit.get("UnitFileState") == "enabled",
            "config": RADVD_CONFIG, "interfaces": list(dict.fromkeys(re.findall(r"\binterface\s+([^\s{}\"]+)\s*\{", text)))}


def _ours(look: Look, state_dir: str, warnings: list[str]) -> dict[str, dict[str, Any]]:
    """What earlier transactions made, and what running agents hold."""
    out: dict[str, dict[str, Any]] = {}
    for name in look.names(state_dir):
        if name.endswith(MEMORY_SUFFIX):
            try:
                known = _remembered(json.loads(look.text(f"{state_dir}/{name}") or ""))
                out.setdefault(name[:-len(MEMORY_SUFFIX)], {**NOTHING}).update(known)
            except (ValueError, AttributeError, TypeError, KeyError):
                warnings.append(f"{state_dir}/{name} cannot be read: what that transaction made is not known.")
        elif look.exists(f"{state_dir}/{name}/{JOURNAL}"):
            out.setdefault(name, {**NOTHING})["unfinished"] = True
    for folder in look.names("/run"):
        if AGENT_FOLDERS.match(folder):
            for name in look.names(f"/run/{folder}"):
                if name.endswith(".undo.json"):
                    found = _of_agent(look.text(f"/run/{folder}/{name}") or "")
                    out[f"agent:{name[:-len('.undo.json')]}"] = {**NOTHING, "addresses": found}
    return out


def _remembered(memory: dict[str, Any]) -> dict[str, list[Any]]:
    """Out of a memory file of apply_config (_apply/memory.py), without the contents that it keeps."""
    items = memory["items"]
    return {"devices": list(memory["devices"]), "files": sorted({*memory["files"], *memory["edits"]}),
            "addresses": [f"{item['device']} {item['cidr']}" for item in items if item["kind"] == "address"],
            "items": [item for item in items if item["kind"] == "sysctl" or item.get("absent")]}


def _of_agent(text: str) -> list[str]:
    try:
        return [key[len("address "):] for key in json.loads(text) if key.startswith("address ")]
    except (ValueError, TypeError, AttributeError):
        return []
