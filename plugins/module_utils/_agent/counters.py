# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Packets and bytes through a device, as the kernel counts them, and how many of the last pings were lost."""

from __future__ import annotations

import re
import sys
from collections import deque
from dataclasses import dataclass
from typing import Callable

NET_DEV = "/proc/self/net/dev"
"""Of the network namespace that we are in. /sys/class/net is of the one in which it was mounted, which may be another."""
WINDOW = 100
"""Pings that the loss ratio is about."""
PATIENCE = 5.0
"""Seconds in which a ping without an answer is not yet a lost one."""
NETSTAT_SECONDS = 5.0
if not sys.platform.startswith("linux"):
    from .._apply import runner as _runner  # noqa: F401  # now, while this process may still read its own program
_may_run = True


@dataclass(frozen=True)
class Counters:
    """Since the device exists. in: out of the tunnel to this host. The kernel's own devices count our pings too."""

    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int

    def to_dict(self) -> dict[str, int]:
        """As the status file has it."""
        return {"in": self.packets_in, "out": self.packets_out, "bytes_in": self.bytes_in, "bytes_out": self.bytes_out}


def of_device(device: str) -> Counters | None:
    """What the kernel counted for a device of ours; None where it does not say, or there is no such device."""
    if sys.platform.startswith("linux"):
        try:
            with open(NET_DEV, encoding="utf-8", errors="replace") as file:
                return from_net_dev(file.read(), device)
        except OSError:
            return None
    return from_netstat(_netstat(device, "-n"), _netstat(device, "-b", "-n"), device)


def from_net_dev(text: str, device: str) -> Counters | None:
    """Out of Linux' /proc/net/dev: a line `device: bytes packets …`, eight numbers each way, received first."""
    found = re.search(rf"^\s*{re.escape(device)}:\s*((?:\d+\s*){{16}})$", text, re.MULTILINE)
    if found is None:
        return None
    numbers = [int(part) for part in found.group(1).split()]
    return Counters(packets_in=numbers[1], packets_out=numbers[9], bytes_in=numbers[0], bytes_out=numbers[8])


def from_netstat(packets: str, octets: str, device: str) -> Counters | None:
    """Out of `netstat -I device -n` and `netstat -I device -b -n`: FreeBSD and macOS say all in the second, OpenBSD and NetBSD one each."""
    found = {**_columns(packets, device), **_columns(octets, device)}
    try:
        return Counters(packets_in=found["Ipkts"], packets_out=found["Opkts"], bytes_in=found["Ibytes"], bytes_out=found["Obytes"])
    except KeyError:
        return None


def _columns(text: str, device: str) -> dict[str, int]:
    """Heading -> number, of the line that is about the device itself (network `<Link…>`) and not about one of its addresses.

    Counted from the right: a device without a hardware address leaves that column empty.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines or lines[0][0] != "Name":
        return {}
    for cells in lines[1:]:
        if cells[0].rstrip("*") == device and len(cells) > 3 and cells[2].startswith("<Link"):
            return {heading: int(cell) for heading, cell in zip(reversed(lines[0]), reversed(cells))
                    if heading[1:] in ("pkts", "bytes") and cell.isdigit()}
    return {}


def without_programs() -> None:
    """For a process that is about to lose the right to run programs, and would be killed for trying (pledge(2))."""
    global _may_run
    _may_run = False


def _netstat(device: str, *options: str) -> str:
    from .._apply.runner import HostRunner  # only on systems that have no file to read: an idle agent on Linux does without it

    if not _may_run:
        return ""
    return HostRunner().run(("netstat", "-I", device, *options), timeout=NETSTAT_SECONDS).stdout


class Cached:
    """of_device, asked at most every `seconds`: elsewhere than on Linux it starts a program. Times are monotonic seconds."""

    def __init__(self, seconds: float | None = None, read: Callable[[str], Counters | None] = of_device) -> None:
        self._seconds = (0.0 if sys.platform.startswith("linux") else 15.0) if seconds is None else seconds
        self._read = read
        self._next = 0.0
        self._device = ""
        self._value: Counters | None = None

    def get(self, device: str, now: float) -> Counters | None:
        if device != self._device or now >= self._next:
            self._device, self._next, self._value = device, now + self._seconds, self._read(device)
        return self._value


class Loss:
    """How many of the last pings were lost, out of the numbers of pings sent and answered so far. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque([(0, 0)])
        self._sent_at = 0.0
        self._answered_then = 0

    def ratio(self, sent: int, answered: int, now: float) -> float | None:
        """The share that was lost of the last WINDOW pings, 0 to 1; None before the first is decided. To be called at each change."""
        last = self._seen[-1]
        if sent < last[0] or answered < last[1]:
            last = (0, 0)  # they count anew
            self._seen = deque([last])
        if sent > last[0]:
            self._sent_at, self._answered_then = now, last[1]
        if (sent, answered) != last:
            self._seen.append((sent, answered))
        waiting = answered == self._answered_then and now < self._sent_at + PATIENCE
        decided = sent - (1 if waiting and sent else 0)
        while len(self._seen) > 1 and self._seen[1][0] <= decided - WINDOW:
            self._seen.popleft()
        before = self._seen[0]
        count = decided - before[0]
        return None if count <= 0 else round(max(0.0, 1.0 - (answered - before[1]) / count), 4)
