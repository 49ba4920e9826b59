# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client of the broker for its namespace test: negotiates, then carries packets between a TUN device and the outside by itself.

It is run inside a namespace: `_broker_peer.py JSON`. It prints what it was granted as one line of JSON when packets flow, and goes on
until it is ended. Nothing of the broker is used: the encapsulations are written here once more, as a peer would have them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))
from module_utils._agent.tun import open_tun  # noqa: E402
from module_utils._tsp import events  # noqa: E402
from module_utils._tsp.client import ClientConfig, Credentials, TspClient  # noqa: E402
from module_utils._tsp.lease import Grant  # noqa: E402
from module_utils._tsp.request import TunnelRequest  # noqa: E402
from module_utils._tsp.rudp import RudpConfig  # noqa: E402


def negotiate(one: socket.socket, broker: str, user: str, password: str, request: dict[str, Any]) -> Grant:
    """A session over this UDP socket."""
    client = TspClient(ClientConfig(
        transport="udp", server=broker, version="2.0.1", action="create", request=TunnelRequest(**request),
        local_address=ip_address(one.getsockname()[0]), peer_is_loopback=False, auth_method="digest-md5",
        credentials=Credentials(user, password), rudp=RudpConfig(), rng=os.urandom, verify_key=None))
    granted = None
    client.connect(time.monotonic())
    while True:
        for data in client.data_to_send(time.monotonic()):
            one.send(data)
        while (event := client.next_event()) is not None:
            if isinstance(event, events.Granted):
                granted = event.grant
            elif isinstance(event, events.Completed):
                assert granted is not None
                return granted
            elif isinstance(event, events.Failed):
                raise SystemExit(f"refused: {event.error}")
        timer = client.next_timer()
        if select.select([one], [], [], None if timer is None else max(0.0, timer - time.monotonic()))[0]:
            client.receive(one.recv(4096), time.monotonic())
        else:
            client.handle_timer(time.monotonic())


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


def main(asked: dict[str, Any]) -> None:
    six_outside = ":" in asked["host"]
    one = socket.socket(socket.AF_INET6 if six_outside else socket.AF_INET, socket.SOCK_DGRAM)
    one.connect((asked["host"], 3653))
    broker = f"[{asked['host']}]" if six_outside else asked["host"]
    grant = negotiate(one, broker, asked["user"], asked["password"], asked["request"])
    if grant.mode == "v6v4":
        one = socket.socket(socket.AF_INET, socket.SOCK_RAW, 41)
        one.connect((str(grant.server.ipv4), 0))
    elif grant.mode == "v4v6":
        one = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 4)
        one.connect((str(grant.server.ipv6), 0))
    tun = open_tun("tun0")
    inner, route = (grant.client.ipv4, "0.0.0.0/0") if grant.mode == "v4v6" else (grant.client.ipv6, "::/0")
    ip("link", "set", "tun0", "up", "mtu", "1280")
    ip("addr", "add", f"{inner}/{inner.max_prefixlen}", "dev", "tun0", *(["nodad"] if inner.version == 6 else []))
    if grant.prefix is not None:
        ip("addr", "replace", f"{grant.prefix.network_address + 1}/{grant.prefix.max_prefixlen}", "dev", "lo")
    ip("route", "add", route, "dev", "tun0", "src", str(inner))
    print(json.dumps({"mode": grant.mode, "inside": str(inner), "prefix": None if grant.prefix is None else str(grant.prefix),
                      "server": str(grant.server.ipv4 if grant.mode == "v4v6" else grant.server.ipv6)}), flush=True)
    while True:
        for ready in select.select([tun.fd, one], [], [])[0]:
            with contextlib.suppress(OSError):  # what ICMP says while the broker is away
                if ready is one:
                    packet = one.recv(65536)
                    os.write(tun.fd, packet[(packet[0] & 15) * 4:] if grant.mode == "v6v4" else packet)
                else:
                    one.send(os.read(tun.fd, 65536))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
