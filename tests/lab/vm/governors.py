# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine whose network belongs to one of the systems that configure hosts: the files that its administrator would have written."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .machine import Nic

UNITS = "etc/systemd/system"
_PLACES = {"systemd-networkd.socket": "sockets.target.wants", "systemd-networkd-wait-online.service": "network-online.target.wants",
           "NetworkManager-wait-online.service": "network-online.target.wants", "networking.service": "multi-user.target.wants"}
_ALIASES = {"systemd-networkd.service": "dbus-org.freedesktop.network1.service",
            "NetworkManager-dispatcher.service": "dbus-org.freedesktop.nm-dispatcher.service"}


@dataclass(frozen=True)
class Site:
    """Files (path without the leading slash, content) and units that start at boot."""

    files: dict[str, str] = field(default_factory=dict)
    units: tuple[str, ...] = ()


def site(governor: str, nics: Sequence[Nic]) -> Site:
    """The network configuration of a host whose network belongs to `governor`. Raises KeyError for an unknown one."""
    makers = {"none": _none, "networkd": _networkd, "netplan": _netplan, "networkmanager": _networkmanager, "ifupdown": _ifupdown}
    return makers[governor](nics)


def enabled(units: Iterable[str]) -> dict[str, str]:
    """The links that `systemctl enable` would make: path to where it leads."""
    links = {}
    for unit in units:
        links[f"{UNITS}/{_PLACES.get(unit, 'multi-user.target.wants')}/{unit}"] = f"/lib/systemd/system/{unit}"
        if unit in _ALIASES:
            links[f"{UNITS}/{_ALIASES[unit]}"] = f"/lib/systemd/system/{unit}"
    return links


def _none(_nics: Sequence[Nic]) -> Site:
    return Site()


_NETWORKD = ("systemd-networkd.service", "systemd-networkd.socket")


def _networkd(nics: Sequence[Nic]) -> Site:
    files = {}
    for nic in nics:
        lines = ["[Match]", f"Name={nic.name}", "", "[Network]", f"IPv6AcceptRA={'yes' if nic.accept_ra else 'no'}"]
        lines += [f"Address={address}" for address in nic.all_addresses()] + [f"Gateway={gateway}" for gateway in nic.all_gateways()]
        files[f"etc/systemd/network/10-{nic.name}.network"] = "\n".join(lines) + "\n"
    return Site(files, _NETWORKD)


def _netplan(nics: Sequence[Nic]) -> Site:
    ethernets: dict[str, Any] = {}
    for nic in nics:
        entry: dict[str, Any] = {"accept-ra": nic.accept_ra, "addresses": nic.all_addresses()}
        if nic.all_gateways():
            entry["routes"] = [{"to": "default", "via": gateway} for gateway in nic.all_gateways()]
        ethernets[nic.name] = entry
    text = json.dumps({"network": {"version": 2, "renderer": "networkd", "ethernets": ethernets}}, indent=2)  # JSON is YAML
    return Site({"etc/netplan/10-site.yaml": text + "\n"}, _NETWORKD)


def _networkmanager(nics: Sequence[Nic]) -> Site:
    files = {"etc/NetworkManager/conf.d/site.conf":
             "[main]\nplugins=keyfile\nno-auto-default=*\n\n[keyfile]\nunmanaged-devices=interface-name:mgmt\n"}
    for number, nic in enumerate(nics, 1):
        lines = ["[connection]", f"id={nic.name}", f"uuid=00000000-0000-4000-8000-{number:012d}", "type=ethernet",
                 f"interface-name={nic.name}", ""]
        for family in (4, 6):
            addresses, gateways = _of(family, nic.all_addresses()), _of(family, nic.all_gateways())
            method = "auto" if family == 6 and nic.accept_ra else "manual" if addresses else {4: "disabled", 6: "link-local"}[family]
            lines += [f"[ipv{family}]", f"method={method}"]
            lines += [f"address{index}={address}" for index, address in enumerate(addresses, 1)]
            lines += [f"gateway={gateway}" for gateway in gateways] + [""]
        files[f"etc/NetworkManager/system-connections/{nic.name}.nmconnection"] = "\n".join(lines)
    return Site(files, ("NetworkManager.service", "NetworkManager-dispatcher.service"))


def _ifupdown(nics: Sequence[Nic]) -> Site:
    lines = ["source /etc/network/interfaces.d/*", "", "auto lo", "iface lo inet loopback", ""]
    for nic in nics:
        lines.append(f"auto {nic.name}")
        if not nic.all_addresses() and not nic.accept_ra:
            lines.append(f"iface {nic.name} inet manual")
        if nic.accept_ra and not _of(6, nic.all_addresses()):
            lines.append(f"iface {nic.name} inet6 auto")
        for family, word in ((4, "inet"), (6, "inet6")):
            for number, address in enumerate(_of(family, nic.all_addresses())):
                lines += [f"iface {nic.name} {word} static", f"    address {address}"]
                if family == 6:
                    lines += ["    dad-attempts 0"] + ["    accept_ra 2"] * nic.accept_ra
                if not number:
                    lines += [f"    gateway {gateway}" for gateway in _of(family, nic.all_gateways())]
        lines.append("")
    return Site({"etc/network/interfaces": "\n".join(lines)}, ("networking.service",))


def _of(family: int, addresses: Sequence[str]) -> list[str]:
    return [address for address in addresses if ipaddress.ip_interface(address).version == family]
