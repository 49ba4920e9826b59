# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two emulated routers in one network namespace, with tunnels between them; run by test_ios_emulator_dataplane.py as root.

Prints what the first router's pings print, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

sys.path.insert(0, sys.argv[1])

from ios_emulator.device import Device  # noqa: E402
from ios_emulator.session import Session  # noqa: E402

ADDRESSES = ("198.51.100.1/32", "198.51.100.2/32", "2001:db8:9::1/128", "2001:db8:9::2/128")


def router(me: int, other: int) -> list[str]:
    return ["configure terminal",
            "interface GigabitEthernet0/0", "no shutdown", f"ip address 198.51.100.{me} 255.255.255.0", f"ipv6 address 2001:db8:9::{me}/64",
            "interface Tunnel0", f"ipv6 address 2001:db8:1::{me}/128", "tunnel mode ipv6ip", "tunnel source GigabitEthernet0/0",
            f"tunnel destination 198.51.100.{other}",
            "interface Tunnel1", f"ip address 192.0.2.{me} 255.255.255.255", "tunnel mode ipv6", f"tunnel source 2001:db8:9::{me}",
            f"tunnel destination 2001:db8:9::{other}",
            f"ipv6 route 2001:db8:1::{other}/128 Tunnel0", f"ip route 192.0.2.{other} 255.255.255.255 Tunnel1",
            "ipv6 route 2001:db8:dead::/48 Tunnel0", "end"]


async def main() -> None:
    devices = [Device("R1"), Device("R2")]
    out: list[str] = []
    answers: dict[str, str] = {}

    async def nothing(_echo: bool = False) -> str:
        return ""

    sessions = [Session(device, "lab", nothing, nothing, out.append) for device in devices]
    for number, session in enumerate(sessions, start=1):
        for line in router(number, 3 - number):
            await session.command(line)
        session.device.dataplane.open()
    assert not out[-1].startswith("%"), out

    async def ping(name: str, command: str) -> None:
        out.clear()
        await sessions[0].command(command)
        answers[name] = "".join(out)

    await ping("ipv6ip", "ping ipv6 2001:db8:1::2 source Tunnel0 repeat 3 timeout 2")
    await ping("ipv6", "ping 192.0.2.2 source Tunnel1 repeat 3 timeout 2")
    await ping("nobody", "ping ipv6 2001:db8:dead::1 source Tunnel0 repeat 2 timeout 1")
    await ping("plain", "ping 198.51.100.2 repeat 2 timeout 2")
    for line in ("configure terminal", "interface Tunnel0", "shutdown", "end"):
        await sessions[1].command(line)
    await ping("other end down", "ping ipv6 2001:db8:1::2 source Tunnel0 repeat 2 timeout 1")
    answers["answered"] = str(devices[1].dataplane.answered)
    for device in devices:
        device.dataplane.close()
    print(json.dumps(answers))


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for address in ADDRESSES:
    subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
asyncio.run(main())
