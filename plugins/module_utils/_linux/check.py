# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What is wrong with a wish, found out before anything is touched."""

from __future__ import annotations

import re
from ipaddress import ip_interface, ip_network
from typing import Any

from .._tsp.errors import LocalError
from . import registry
from .backend import Host

DEVICE_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,15}\Z")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")
ALIAS = "tunnelbroker.tsp"
"""A device of ours carries the alias `tunnelbroker.tsp:<name>`."""
WRITTEN = {registry.AGENT: ("/etc", "/usr/local/lib", "/var/lib"), "networkd": ("/etc/systemd",), "netplan": ("/etc/netplan",),
           "networkmanager": ("/etc/NetworkManager",), "ifupdown": ("/etc/network",), registry.SCRIPT: ("/etc/systemd", "/usr/local/lib")}
"""Where the files of each backend go, beside /etc itself and what a transaction remembers."""


KEYS = ("system", "kernel", "root", "service_manager", "tools", "kinds", "ipv6", "ipv6_why", "read_only", "governors", "links",
        "default_routes", "management", "radvd", "ours", "interfaces_file")


def check_shape(host: Any) -> None:
    """Raises LocalError `host_invalid` for what linux_info cannot have returned."""
    missing = [key for key in KEYS if key not in host] if isinstance(host, dict) else list(KEYS)
    if missing:
        raise LocalError("host_invalid", f"That is not what linux_info says of a host: {', '.join(missing[:3])} is missing.",
                         "Give `host` of its result, of this version of the collection.")


def check_host(host: Host) -> None:
    """Whether a tunnel is possible here at all. Raises LocalError: `not_linux`, `no_ip`, `no_iproute`, `ipv6_disabled`."""
    if host["system"] != "Linux":
        raise LocalError("not_linux", f"This host runs {host['system']}, not Linux.", "Choose the platform with tunnel_platform.")
    if not host["tools"]["ip"]:
        raise LocalError("no_ip", "This host has no ip, which sets up tunnels.", "Install iproute2.")
    if not host["links"]:  # every host has lo; an ip without JSON (before 4.17, BusyBox) says nothing that one could read
        raise LocalError("no_iproute", f"{host['tools']['ip']} does not work here: it does not list interfaces as JSON.",
                         "Install iproute2 (4.17 or newer).")
    if not host["ipv6"]:
        raise LocalError("ipv6_disabled", f"IPv6 is switched off on this host. {host['ipv6_why']}",
                         "Set net.ipv6.conf.all.disable_ipv6 and net.ipv6.conf.default.disable_ipv6 to 0 (in /etc/sysctl.d too), or boot "
                         "without ipv6.disable.")


def check_writable(backend: str, host: Host) -> None:
    """Raises LocalError `read_only`, `not_root`. backend: auto, too, for what all of them need."""
    shut = [folder for folder in dict.fromkeys(("/etc", "/var/lib", *WRITTEN.get(backend, ()))) if folder in host["read_only"]]
    shut = [folder for folder in shut if not any(folder.startswith(f"{above}/") for above in shut)]
    if shut:
        raise LocalError("read_only", f"{' and '.join(shut)} of this host cannot be written.",
                         "Mount it read-write, or configure the image that the host boots from.")
    if not host["root"]:
        raise LocalError("not_root", "Only root can set up a tunnel, and linux_info ran as another user.", "Set become: true.")


def check_device(device: str, name: str, host: Host) -> None:
    """Raises LocalError: `device_invalid`, `name_invalid`, `device_taken` (it exists, and neither alias nor memory say that it is ours)."""
    if not isinstance(name, str) or not NAME.match(name):
        raise LocalError("name_invalid", f"{name!r} cannot be the name of a tunnel.", "Use up to 32 letters, digits, dashes, underscores.")
    if not isinstance(device, str) or not DEVICE_NAME.match(device):
        raise LocalError("device_invalid", f"{device!r} cannot be the name of a device.", "Use up to 15 letters, digits, dashes.")
    link = host["links"].get(device)
    if link is None:
        return
    alias, _colon, owner = link["alias"].partition(":")
    owners = ([owner] if alias == ALIAS else []) + [made for made, what in host["ours"].items() if device in what["devices"]]
    if any(_is_of(name, owner) for owner in owners):
        return
    if owners:
        raise LocalError("device_taken", f"The device {device} belongs to another tunnel ({owners[0]}), not to {name}.",
                         "Give each tunnel its own linux_device.")
    # What an interrupted run made is not remembered yet: the transaction undoes that first, and looks at the device itself then.
    if not _unfinished(host):
        kind = f" ({link['kind']})" if link["kind"] else ""
        raise LocalError("device_taken", f"There is a device {device}{kind} on this host that is not of this collection.",
                         "Set another linux_device, or remove that one.")


def _is_of(name: str, owner: str) -> bool:
    """Whether a transaction, an agent or the alias of a device is of the tunnel of that name."""
    return owner in (name, f"agent:{name}", *(f"tsp-{role}{name}" for role in ("", "linux-", "agent-")))


def _made(name: str, what: str, host: Host) -> set[str]:
    """The devices or addresses that earlier runs for this tunnel made, and will take away or move: not those for another one."""
    return {str(found) for owner, made in host["ours"].items() if _is_of(name, owner) for found in made[what]}


def _unfinished(host: Host) -> bool:
    return any(made["unfinished"] for made in host["ours"].values())


def check_tunnel(numbers: dict[str, Any], device: str, kind: str | None, name: str, host: Host) -> None:
    """Raises LocalError: `address_taken` (our inner address is on another interface), `endpoints_taken` (another tunnel of this kind has
    the same ends: the kernel has room for one)."""
    made, devices = _made(name, "addresses", host), _made(name, "devices", host)
    ends = [numbers["tunnel"]["local"], numbers["tunnel"]["remote"]]
    for other, link in host["links"].items():
        alias, _colon, owner = link["alias"].partition(":")
        if other == device or other in devices or alias == ALIAS and _is_of(name, owner) or _unfinished(host):
            continue  # an earlier run's device of another name goes with the transaction
        for cidr in link["addresses"]:
            if str(ip_interface(cidr).ip) == numbers["address"] and f"{other} {ip_interface(cidr)}" not in made:
                raise LocalError("address_taken", f"{numbers['address']}, our address inside the tunnel, is on {other} already.",
                                 "Remove the tunnel or the address that is there.")
        if link["kind"] == kind and link["ends"] == ends:
            raise LocalError("endpoints_taken", f"There is a tunnel {other} from {ends[0]} to {ends[1]} already, and no room for two.",
                             "Remove that one, or use it: the kernel cannot tell apart two of a kind between the same ends.")


def check_lan(numbers: dict[str, Any], device: str, uplink: str | None, name: str, host: Host) -> None:
    """Raises LocalError: those of `check_lan_interfaces`, `lan_conflict` (the network is on another interface already, or overlaps one
    of another size)."""
    check_lan_interfaces([entry["interface"] for entry in numbers["lan"]], numbers["family"], device, uplink, host)
    _no_conflict(numbers, device, _made(name, "addresses", host), host)


def check_lan_interfaces(names: list[str], family: int, device: str, uplink: str | None, host: Host) -> None:
    """Raises LocalError: `lan_missing`, `lan_invalid` (uplink, tunnel or loopback), `lan_ipv6_disabled`. family: of the LAN's networks."""
    links = host["links"]
    for name in names:
        if name == device:
            raise LocalError("lan_invalid", f"{name} is the tunnel itself, and no LAN interface.", "Name the interface of the LAN.")
        if name == uplink:
            raise LocalError("lan_invalid", f"{name} is the interface that the tunnel leaves by, and cannot be a LAN interface.",
                             "Name the interface of the LAN. On a host with one interface, leave tunnel_lan_interfaces empty.")
        if name == "lo":
            raise LocalError("lan_invalid", "lo cannot be a LAN interface.", "Name the interface of the LAN.")
        if name not in links:
            others = sorted(other for other in links if other not in ("lo", device, uplink))
            raise LocalError("lan_missing", f"There is no interface {name} on this host.",
                             f"Name one that it has: {', '.join(others) or 'none but the uplink'}.")
        if family == 6 and not links[name]["ipv6"]:
            raise LocalError("lan_ipv6_disabled", f"IPv6 is switched off on {name}.", f"Set net.ipv6.conf.{name}.disable_ipv6 to 0.")


def _no_conflict(numbers: dict[str, Any], device: str, made: set[str], host: Host) -> None:
    lans = [(entry["interface"], ip_network(entry["network"]), ip_interface(entry["cidr"])) for entry in numbers["lan"]]
    unfinished = _unfinished(host)
    for name, link in host["links"].items():
        for cidr in link["addresses"] if name != device else ():
            held = ip_interface(cidr)
            if f"{name} {held}" in made:
                continue
            for lan, network, own in lans:
                if held.version != network.version or not held.network.overlaps(network) or unfinished and held == own:
                    continue
                # Another address of the very network, or a single one out of it (DHCPv6), is at home on its interface.
                if name == lan and (held.network == network or held.network.prefixlen == held.max_prefixlen):
                    continue
                where = "as well" if name == lan else f"and not {lan}"
                raise LocalError("lan_conflict", f"{lan} is to get {network}, but {name} holds {held} {where}.",
                                 "Remove that address, or give the LAN interface another subnet.")


def check_radvd(wanted: bool, host: Host) -> None:
    """Raises LocalError `radvd_missing`."""
    if wanted and not host["radvd"]["installed"]:
        raise LocalError("radvd_missing", "Router advertisements are wanted, but radvd is not installed on this host.",
                         "Install it (radvd_install: true lets the role do so), or leave router advertisements out.")
