# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`python -m ios_emulator`: one device until a signal ends it.

Once it listens it prints one line of JSON: {"port": …, "host_key": "ssh-ed25519 …", "dataplane": "" or why there is none}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from .device import Device
from .faults import Faults
from .netns import seed
from .server import Server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ios_emulator", description="A Cisco IOS command line that keeps its state, over SSH.")
    parser.add_argument("--listen", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="TCP port, 0 for any")
    parser.add_argument("--hostname", default="Router")
    parser.add_argument("--state", type=Path, help="JSON file that remembers both configurations")
    parser.add_argument("--host-key", type=Path, help="SSH host key, made on first use; without it a new one each time")
    parser.add_argument("--accounts", type=Path, help='JSON file {"user": "password"}; without it lab, lab')
    parser.add_argument("--authorized-keys", type=Path, help="OpenSSH file of public keys that may log in")
    parser.add_argument("--enable-secret", type=Path, metavar="FILE", help="file with what `enable` asks for; without it nothing")
    parser.add_argument("--level", type=int, choices=(1, 15), default=15, help="where a session starts: 1 is >, 15 is # (%(default)s)")
    parser.add_argument("--map", action="append", default=[], metavar="INTERFACE=REAL",
                        help="a physical interface and the real one whose addresses it has, as in GigabitEthernet0/0=eth0 (repeat)")
    faults = parser.add_argument_group("bad days")
    faults.add_argument("--one-byte", action="store_true", help="output arrives a byte at a time")
    faults.add_argument("--char-delay", type=float, default=0.0, metavar="SECONDS")
    faults.add_argument("--refuse", action="append", default=[], metavar="PATTERN", help="refuse configuration lines that match")
    faults.add_argument("--cut-at", type=int, default=0, metavar="N", help="cut the session at the n-th command, once")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    mapped = dict(item.split("=", 1) for item in arguments.map)
    physical = tuple(dict.fromkeys([*mapped, "GigabitEthernet0/0", "GigabitEthernet0/1"]))
    accounts = json.loads(arguments.accounts.read_text(encoding="utf-8")) if arguments.accounts else None
    secret = arguments.enable_secret.read_text(encoding="utf-8").rstrip("\n") if arguments.enable_secret else None
    fresh = arguments.state is None or not arguments.state.exists()
    device = Device(arguments.hostname, state=arguments.state, physical=physical, accounts=accounts, enable_secret=secret,
                    level=arguments.level, faults=Faults(arguments.one_byte, arguments.char_delay, arguments.refuse, arguments.cut_at))
    if fresh:
        seed(device.config, mapped)
        device.save()
    server = Server(device, host=arguments.listen, port=arguments.port, host_key=arguments.host_key,
                    authorized_keys=arguments.authorized_keys)
    await server.start()
    print(json.dumps({"port": server.port, "host_key": server.host_key, "dataplane": device.dataplane.why_not}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    try:
        asyncio.run(_serve(_arguments()))
    except (OSError, ValueError) as exc:
        sys.exit(f"ios_emulator: {exc}")
