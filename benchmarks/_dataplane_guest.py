# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The half of dataplane.py that runs in the virtual machine: every data plane between two namespaces of one kernel.

`near` and `far` are joined by one wire that offloads nothing: each packet crosses it by itself and with its checksums, as it would
leave by a simple network card. The far end is the kernel's in every case, so that what differs is the near end alone.

Usage: _dataplane_guest.py SECONDS prints a line `@@case NAME {mbit, in_mbit, kpps, cpu}` for each; _dataplane_guest.py pump is the near
end's program, run by the other use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import _collection  # noqa: F401  # pylint: disable=unused-import
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.dataplane import DataPlane
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.screen import Screen
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.tun import open_tun

OUTER = {"near": "192.0.2.1", "far": "192.0.2.2"}
NATIVE = {"near": "2001:db8:e::1", "far": "2001:db8:e::2"}
INNER = {"near": "2001:db8:f::2", "far": "2001:db8:f::1"}
PORTS = {"near": 40123, "far": 3653}
SIT_MTU, UDP_MTU = 1480, 1472
CASES = ("plain", "sit", "fou", "pump", "socat")
LIGHT = "20M"
"""Bits a second at which processor time is compared."""
PATIENCE = 120


def run(words: str, side: str | None = None, check: bool = True) -> str:
    inside = f"ip netns exec {side} " if side else ""
    done = subprocess.run(shlex.split(inside + words), capture_output=True, text=True, timeout=600, check=False)
    if check and done.returncode:
        raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
    return done.stdout


def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}: {run('ip addr', 'near')}{run('ip -s link', 'far')}")
        time.sleep(0.05)


@contextlib.contextmanager
def program(words: str, side: str) -> Iterator[None]:
    started = subprocess.Popen(["ip", "netns", "exec", side, *shlex.split(words)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               start_new_session=True)
    try:
        yield
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def wire() -> None:
    for side in OUTER:
        run(f"ip netns add {side}")
    run("ip link add wire netns near type veth peer name wire netns far")
    for side in OUTER:
        for words in ("ip link set lo up", "ethtool -K wire tx off tso off gso off gro off", f"ip addr add {OUTER[side]}/24 dev wire",
                      f"ip addr add {NATIVE[side]}/64 dev wire nodad", "ip link set wire up"):
            run(words, side)


def ready(side: str, mtu: int) -> None:
    run(f"ip link set tun0 up mtu {mtu}", side)
    run(f"ip addr replace {INNER[side]}/64 dev tun0 nodad", side)


def kernel_end(side: str, udp: bool) -> None:
    other = "far" if side == "near" else "near"
    words = f"ip link add tun0 type sit mode ip6ip local {OUTER[side]} remote {OUTER[other]} ttl 64"
    if udp:
        run(f"ip fou add port {PORTS[side]} ipproto 41", side)
        words += f" encap fou encap-sport {PORTS[side]} encap-dport {PORTS[other]} encap-csum"
    run(words, side)
    ready(side, UDP_MTU if udp else SIT_MTU)


@contextlib.contextmanager
def case(name: str) -> Iterator[str]:
    """The far end's address inside; what was made is gone afterwards."""
    if name == "plain":
        yield NATIVE["far"]
        return
    with contextlib.ExitStack() as stack:
        kernel_end("far", udp=name != "sit")
        if name in ("sit", "fou"):
            kernel_end("near", udp=name == "fou")
        else:
            words = f"{sys.executable} {Path(__file__).resolve()} pump"
            if name == "socat":
                words = (f"socat -b 2048 TUN,tun-name=tun0,tun-type=tun,iff-no-pi,iff-up "
                         f"UDP4-DATAGRAM:{OUTER['far']}:{PORTS['far']},bind={OUTER['near']}:{PORTS['near']}")
            stack.enter_context(program(words, "near"))
            until(lambda: "tun0" in run("ip -br link", "near"), f"the device of {name}")
            ready("near", UDP_MTU)
        try:
            yield INNER["far"]
        finally:
            for side in OUTER:
                run("ip link del tun0", side, check=False)
                run(f"ip fou del port {PORTS[side]} ipproto 41", side, check=False)


def iperf(address: str, seconds: float, *words: str) -> dict[str, Any]:
    found = json.loads(run(f"iperf3 -J -6 -c {address} -t {seconds:g} {' '.join(words)}", "near", check=False))
    if "error" in found:
        raise SystemExit(f"iperf3 {' '.join(words)}: {found['error']}")
    return found["end"]


def busy() -> tuple[int, int]:
    """(time busy, time in all) of the guest's processor, in ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def measure(address: str, seconds: float) -> dict[str, float]:
    """mbit: TCP from near to far; in_mbit: from far to near; kpps: UDP datagrams of 200 bytes that arrived, thousands a second; cpu:
    the share of the processor, in percent, that a TCP stream of LIGHT takes, with the programs that send and receive it."""
    out = iperf(address, seconds)["sum_received"]["bits_per_second"] / 1e6
    back = iperf(address, seconds, "-R")["sum_received"]["bits_per_second"] / 1e6
    small = iperf(address, seconds, "-u -b 0 -l 200")["sum"]
    before = busy()
    iperf(address, seconds, f"-b {LIGHT}")
    after = busy()
    return {"mbit": out, "in_mbit": back, "kpps": (small["packets"] - small["lost_packets"]) / small["seconds"] / 1e3,
            "cpu": 100.0 * (after[0] - before[0]) / max(1, after[1] - before[1])}


def main(seconds: float) -> None:
    run("modprobe -a sit fou tun veth")
    wire()
    for name in CASES:
        with case(name) as address, program(f"iperf3 -s -B {address}", "far"):
            until(lambda: ":5201" in run("ss -ltn", "far"), "iperf3")
            ping = f"ping -n -c1 -W1 {address}"
            until(lambda ping=ping: "bytes from" in run(ping, "near", check=False), f"an answer by {name}")
            print("@@case", name, json.dumps(measure(address, seconds)), flush=True)


def pump() -> None:
    """The agent's data plane as it is, with a lease that needs no broker."""
    async def keep() -> None:
        device = open_tun("tun0", offload=True)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((OUTER["near"], PORTS["near"]))
        sock.connect((OUTER["far"], PORTS["far"]))
        screen = Screen(IPv6Address(INNER["near"]), IPv6Network("2001:db8:7::/48"))
        plane = DataPlane(device.fd, screen, UDP_MTU, IPv6Address(INNER["far"]), 1, lambda _echo: False, lambda _exc: None)
        plane.attach(sock)
        await asyncio.Event().wait()

    asyncio.run(keep())


if __name__ == "__main__":
    if sys.argv[1:] == ["pump"]:
        pump()
    else:
        main(float(sys.argv[1]))
