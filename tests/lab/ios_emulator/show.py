# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the `show` commands print."""

from __future__ import annotations

import re

from . import routes
from .checks import derived_mtu
from .config import Section
from .device import Device

VERSION = "15.7"


def running(device: Device) -> str:
    return _headed(device, device.running)


def running_interface(device: Device, name: str) -> str:
    body = device.config.interfaces[name].text()
    return f"Building configuration...\n\nCurrent configuration : {len(body)} bytes\n!\n{body}end\n\n"


def _headed(device: Device, text: str) -> str:
    return (f"Building configuration...\n\nCurrent configuration : {len(text)} bytes\n!\n"
            f"! Last configuration change at {device.changed}\n!\nversion {VERSION}\n{text}\n")


def startup(device: Device) -> str:
    if device.startup is None:
        return "startup-config is not present\n"
    return (f"Using {len(device.startup)} out of 262136 bytes\n!\n! Last configuration change at {device.changed}\n!\n"
            f"version {VERSION}\n{device.startup}\n")


def version(device: Device) -> str:
    return (f"Cisco IOS Software, Emulator Software (EMULATOR-UNIVERSALK9-M), Version {VERSION}(0)EMU, not made by Cisco\n\n"
            f"{device.config.hostname} uptime is 1 minute\nSystem image file is \"none: this is an emulator\"\n\n"
            f"{len(device.physical)} Gigabit Ethernet interfaces\n\nConfiguration register is 0x2102\n\n")


def _states(device: Device, section: Section) -> tuple[str, str]:
    status = "up" if section.up else "administratively down"
    return status, "up" if routes.line_up(device.config, section) else "down"


def interfaces(device: Device, name: str) -> str:
    section = device.config.interfaces[name]
    status, protocol = _states(device, section)
    description = section.get("description")
    out = f"{name} is {status}, line protocol is {protocol}\n  Hardware is {'Tunnel' if name.startswith('Tunnel') else 'emulated'}\n"
    if description:
        out += f"  Description: {' '.join(description)}\n"
    for words in [section.get("ip", "address")]:
        if words:
            out += f"  Internet address is {words[0]}/{routes.network4(*words).prefixlen}\n"
    if name.startswith("Tunnel"):
        source, destination, mode = (" ".join(section.get("tunnel", word)) for word in ("source", "destination", "mode"))
        out += f"  Tunnel source {source or 'UNKNOWN'}, destination {destination or 'UNKNOWN'}\n"
        protocols = {"ipv6ip": "IPv6/IP", "ipv6": "IPv6"}
        out += f"  Tunnel protocol/transport {protocols.get(mode, 'GRE/IP')}\n"
    return out


def ip_interface(device: Device, name: str) -> str:
    section = device.config.interfaces[name]
    status, protocol = _states(device, section)
    words, mtu = section.get("ip", "address"), section.get("ip", "mtu")
    out = f"{name} is {status}, line protocol is {protocol}\n"
    if not words:
        return out + "  Internet protocol processing disabled\n"
    out += f"  Internet address is {words[0]}/{routes.network4(*words).prefixlen}\n"
    return out + f"  MTU is {mtu[0] if mtu else derived_mtu(section)} bytes\n"


def ipv6_interface(device: Device, name: str) -> str:
    section = device.config.interfaces[name]
    status, protocol = _states(device, section)
    known = routes.addresses(section, 6)
    out = f"{name} is {status}, line protocol is {protocol}\n"
    if not known and ("ipv6", "enable") not in section.lines:
        return out
    mtu = section.get("ipv6", "mtu")
    out += "  IPv6 is enabled\n  Global unicast address(es):\n" + "".join(f"    {str(a).upper()}\n" for a in known)
    return out + f"  MTU is {mtu[0] if mtu else derived_mtu(section)} bytes\n"


def ip_brief(device: Device) -> str:
    out = "Interface                  IP-Address      OK? Method Status                Protocol\n"
    for name, section in device.config.interfaces.items():
        status, protocol = _states(device, section)
        words = section.get("ip", "address")
        out += f"{name:<26} {words[0] if words else 'unassigned':<15} YES manual {status:<21} {protocol}\n"
    return out


def ipv6_brief(device: Device) -> str:
    out = ""
    for name, section in device.config.interfaces.items():
        status, protocol = _states(device, section)
        out += f"{name:<22} [{status}/{protocol}]\n"
        known = routes.addresses(section, 6)
        out += "".join(f"    {str(a).upper()}\n" for a in known) or "    unassigned\n"
    return out


def piped(text: str, how: str, pattern: str) -> str:
    """`| include`, `| exclude`, `| begin`, `| section`. Raises re.error for a bad pattern."""
    wanted = re.compile(pattern)
    lines = text.splitlines(keepends=True)
    if how == "include":
        return "".join(line for line in lines if wanted.search(line))
    if how == "exclude":
        return "".join(line for line in lines if not wanted.search(line))
    if how == "begin":
        start = next((i for i, line in enumerate(lines) if wanted.search(line)), len(lines))
        return "".join(lines[start:])
    out, inside = "", False
    for line in lines:
        if not line.startswith(" "):
            inside = bool(wanted.search(line))
        if inside or wanted.search(line):
            out += line
    return out
