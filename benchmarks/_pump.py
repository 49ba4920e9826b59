# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How fast the agent's data plane is, in two namespaces of this machine with a wire between them; socat on the same path to compare.

`near` and `far` each have a TUN device and a UDP socket, and one carrier between the two: the agent's, or socat's; or nothing, and the
wire itself is measured. iperf3 sends through it: a TCP stream (Mbit/s), and UDP datagrams of 200 bytes as fast as they go (thousands
received a second). Beside the rates, which depend on what else the machine does, the processor time that the two carriers took for them.

Usage, as root: python3 benchmarks/_pump.py [SECONDS [ROUNDS]]; python3 benchmarks/_pump.py profile [SECONDS]
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import os
import pstats
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import _collection  # noqa: F401  # pylint: disable=unused-import
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.dataplane import DataPlane
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.screen import Screen
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.tun import open_tun
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

OUTER = {"near": "192.0.2.1", "far": "192.0.2.2"}
INNER = {"near": "2001:db8:f::1", "far": "2001:db8:f::2"}
PORT = 40000
MTU = 1472
CARRIERS = ("plain", "agent", "socat")


def other(side: str) -> str:
    return "far" if side == "near" else "near"


def end(side: str, profile: str | None) -> None:
    """The agent's data plane as one end, until SIGTERM; its addresses are set by who started it."""
    async def keep() -> None:
        device = open_tun("tun0", offload=True)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((OUTER[side], PORT))
        sock.connect((OUTER[other(side)], PORT))
        plane = DataPlane(device.fd, Screen(IPv6Address(INNER[side]), None), MTU, IPv6Address(INNER[other(side)]), 1,
                          lambda _echo: False, lambda _exc: None)
        plane.attach(sock)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        sys.stderr.write(json.dumps(plane.counters) + "\n")

    if profile is None:
        asyncio.run(keep())
        return
    profiler = cProfile.Profile()
    profiler.runcall(asyncio.run, keep())
    profiler.create_stats()
    profiler.dump_stats(profile)


@contextlib.contextmanager
def path(lab: Lab, carrier: str, profile: str | None = None) -> Iterator[tuple[Any, list[int]]]:
    """(near, the carriers' processes) with a tunnel between near and far, answered once."""
    sides = {side: lab.namespace(side) for side in OUTER}
    carriers = []
    lab.veth(sides["near"], "wire", sides["far"], "wire")
    for side, space in sides.items():
        space.ip("link set lo up", f"addr add {OUTER[side]}/24 dev wire", "link set wire up")
    for side, space in sides.items():
        if carrier == "plain":
            space.ip(f"addr add {INNER[side]}/64 dev wire nodad")
            continue
        if carrier == "agent":
            words = [sys.executable, __file__, "end", side] + ([profile] if profile and side == "near" else [])
        else:
            words = ["socat", "-b", "2048", "TUN,tun-name=tun0,tun-type=tun,iff-no-pi,iff-up",
                     f"UDP4-DATAGRAM:{OUTER[other(side)]}:{PORT},bind={OUTER[side]}:{PORT}"]
        carriers.append(space.popen(*words, label=carrier).pid)
        until(lambda space=space: "tun0" in space.run("ip", "-br", "link").stdout, "the device")
        space.ip(f"link set tun0 up mtu {MTU}", f"addr add {INNER[side]}/64 dev tun0 nodad")
    until(lambda: sides["near"].run("ping", "-6", "-c1", "-W1", INNER["far"], check=False).returncode == 0, "an answer")
    sides["far"].popen("iperf3", "-s", "-B", INNER["far"], label="iperf3")
    until(lambda: ":5201" in sides["far"].run("ss", "-ltn").stdout, "iperf3")
    yield sides["near"], carriers


def busy(pid: int) -> float:
    """Seconds of processor time that a process and its descendants have taken."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            words = file.read().rpartition(")")[2].split()
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK") + sum(map(busy, children))


def until(condition: Any, what: str) -> None:
    ends = time.monotonic() + 60
    while not condition():
        if time.monotonic() > ends:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.05)


def iperf(near: Any, seconds: int, *options: str) -> dict[str, Any]:
    found = json.loads(near.run("iperf3", "-J", "-6", "-c", INNER["far"], "-t", str(seconds), *options, check=False).stdout)
    if "error" in found:
        raise SystemExit(f"iperf3: {found['error']}")
    return found


def measure(carrier: str, seconds: int) -> dict[str, float]:
    """mbit: TCP from near to far; kpps: datagrams of 200 bytes that arrived, thousands a second; cpu_gigabyte, cpu_million: seconds of
    processor time, both ends together, for a gigabyte of TCP and for a million of datagrams that arrived."""
    with Lab("pump") as lab, path(lab, carrier) as (near, carriers):
        def cost(*options: str) -> tuple[dict[str, Any], float]:
            before = sum(map(busy, carriers))
            found = iperf(near, seconds, *options)["end"]
            return found, sum(map(busy, carriers)) - before
        stream, stream_cost = cost()
        small, small_cost = cost("-u", "-b", "0", "-l", "200")
        came = max(1, small["sum"]["packets"] - small["sum"]["lost_packets"])
        return {"mbit": stream["sum_received"]["bits_per_second"] / 1e6, "kpps": came / small["sum"]["seconds"] / 1e3,
                "cpu_gigabyte": stream_cost / stream["sum_received"]["bytes"] * 1e9, "cpu_million": small_cost / came * 1e6}


def compare(seconds: int = 3, rounds: int = 3, carriers: tuple[str, ...] = CARRIERS) -> dict[str, dict[str, float]]:
    """Medians over the rounds; each round has every carrier, so that a slow moment of the machine hits them all."""
    found: dict[str, list[dict[str, float]]] = {carrier: [] for carrier in carriers}
    for _round in range(rounds):
        for carrier in carriers:
            found[carrier].append(measure(carrier, seconds))
    return {carrier: {key: round(statistics.median(one[key] for one in series), 1) for key in series[0]}
            for carrier, series in found.items()}


def profiled(seconds: int = 5) -> None:
    """Where the near end spends its time while it sends a TCP stream, and while it receives one."""
    for options in ((), ("-R",)):
        with Lab("pump") as lab:
            target = str(lab.folder / "profile")
            with path(lab, "agent", target) as (near, _carriers):
                iperf(near, seconds, *options)
                near.signal(signal.SIGTERM, "_pump.py end near")
                until(lambda target=target: os.path.exists(target), "the profile")
                time.sleep(0.5)
            sys.stdout.write(f"{'receiving' if options else 'sending'}\n")
            pstats.Stats(target).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["end"]:
        end(words[1], words[2] if len(words) > 2 else None)
    elif words[:1] == ["profile"]:
        profiled(int(words[1]) if len(words) > 1 else 5)
    else:
        sys.stdout.write(json.dumps(compare(*(int(word) for word in words)), indent=1) + "\n")
