# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The proof that a tunnel carries traffic: echo requests through it, from a raw or a ping socket."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from .plan import Probe

SPACING = 0.5
"""Seconds between echo requests, and between attempts while the tunnel is not there yet."""
PATIENCE = 4
"""Requests without a reply after which the socket is made anew."""
LINUX = sys.platform.startswith("linux")
ICMP6_FILTER = 1 if LINUX else 18
KINDS = {6: (128, 129, socket.IPPROTO_ICMPV6), 4: (8, 0, socket.IPPROTO_ICMP)}
SO_BINDTODEVICE = getattr(socket, "SO_BINDTODEVICE", 25)


@dataclass(frozen=True)
class ProbeResult:
    """rtt_ms: median over the replies, None without any. reason: why not, a phrase for people."""

    proved: bool
    target: str
    rtt_ms: float | None = None
    sent: int = 0
    received: int = 0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"proved": self.proved, "target": self.target, "rtt_ms": self.rtt_ms, "sent": self.sent, "received": self.received}


def ping(probe: Probe) -> ProbeResult:
    """Ping until `probe.count` replies came or the time is up. Never raises for what the network does."""
    until = time.monotonic() + probe.timeout
    token = os.urandom(16)
    sent, sequence, unanswered, reason = 0, 0, 0, "no reply"
    trips: list[float] = []
    pending: dict[int, float] = {}
    handle: socket.socket | None = None
    try:
        while time.monotonic() < until and len(trips) < probe.count:
            sequence += 1
            try:
                if handle is None:
                    handle = open_socket(probe)
                started = pending[sequence] = time.monotonic()
                handle.send(echo_request(handle, sequence, token))
                sent += 1
                reason = "no reply"
                answered = _await(handle, pending, token, min(started + SPACING, until))
                if answered is not None:
                    trips.append((time.monotonic() - answered) * 1000)
                unanswered = unanswered + 1 if answered is None else 0
                if unanswered >= PATIENCE:
                    # The kernel chose our address when the socket was made; the tunnel may have another one by now.
                    handle.close()
                    handle, unanswered = None, 0
            except PermissionError:
                return ProbeResult(False, probe.address, None, sent, len(trips), "this user may not send pings (run with become: true)")
            except OSError as exc:
                # The device, its address or its route may be a moment away: an agent is setting them up.
                reason = _phrase(exc, probe)
                if handle is not None:
                    handle.close()
                    handle = None
                time.sleep(min(SPACING / 2, max(0.0, until - time.monotonic())))
    finally:
        if handle is not None:
            handle.close()
    median = round(_median(trips), 3) if trips else None
    return ProbeResult(len(trips) >= probe.count, probe.address, median, sent, len(trips), reason)


def _median(values: list[float]) -> float:
    """As statistics.median has it; that module costs an agent, which never probes, a megabyte."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def explain(probe: Probe) -> str:
    """What the program that makes the tunnel says about itself, on one line; nothing when it says nothing."""
    if probe.status_file is None:
        return ""
    try:
        with open(probe.status_file, encoding="utf-8") as file:
            status = json.load(file)
        error = status.get("last_error") or {}
        said = " ".join(str(word) for word in (error.get("message"), error.get("hint")) if word)
        return f"state {status.get('state')}. {said}".strip()
    except (OSError, ValueError, AttributeError):
        return "nothing (it has no status file, so it did not start)."


def open_socket(probe: Probe) -> socket.socket:
    """A connected, non-blocking raw or ping socket for echo requests to probe.address. Raises OSError."""
    version = ip_address(probe.address).version
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    _request_kind, reply, protocol = KINDS[version]
    try:
        handle = socket.socket(family, socket.SOCK_RAW, protocol)
        if version == 6:
            handle.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, only(reply, LINUX))
    except PermissionError:
        handle = socket.socket(family, socket.SOCK_DGRAM, protocol)
    try:
        handle.setblocking(False)
        if probe.interface is not None and LINUX:  # elsewhere the tunnel's own address as the source has to do
            handle.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, probe.interface.encode() + b"\0")
        if probe.source is not None:
            handle.bind((probe.source, 0))
        handle.connect((probe.address, 0))
    except OSError:
        handle.close()
        raise
    return handle


def only(kind: int, linux: bool = True) -> bytes:
    """A struct icmp6_filter that lets one type pass (RFC 3542 section 3.2). A bit that is set blocks on Linux, and lets pass elsewhere."""
    bits = [0] * 8
    bits[kind >> 5] |= 1 << (kind & 31)
    return struct.pack("@8I", *(word ^ 0xFFFFFFFF if linux else word for word in bits))


def echo_request(handle: socket.socket, sequence: int, token: bytes) -> bytes:
    """An echo request for such a socket. The kernel fills in the ICMPv6 checksum, which needs the source; ours is IPv4's."""
    version = 4 if handle.family == socket.AF_INET else 6
    kind = KINDS[version][0]
    body = struct.pack("!HH", int.from_bytes(token[:2], "big"), sequence & 0xFFFF) + token
    total = 0
    if version == 4:
        total = 0xFFFF ^ (int.from_bytes(struct.pack("!BBH", kind, 0, 0) + body, "big") % 0xFFFF or 0xFFFF)
    return struct.pack("!BBH", kind, 0, total) + body


def reply_sequence(handle: socket.socket, data: bytes, token: bytes) -> int | None:
    """The sequence of an echo reply to one of our requests, None for anything else: others share a raw socket, the token tells ours."""
    version = 4 if handle.family == socket.AF_INET else 6
    if handle.type == socket.SOCK_RAW and version == 4 and data:
        data = data[(data[0] & 0x0F) * 4:]
    if len(data) < 8 + len(token) or data[0] != KINDS[version][1] or data[8:8 + len(token)] != token:
        return None
    return int.from_bytes(data[6:8], "big")


def _await(handle: socket.socket, pending: dict[int, float], token: bytes, until: float) -> float | None:
    """When the request was sent that is answered next, however long ago that was; None when nothing comes until then."""
    while True:
        left = until - time.monotonic()
        if left <= 0 or not select.select([handle], [], [], left)[0]:
            return None
        sequence = reply_sequence(handle, handle.recv(2048), token)
        if sequence is not None and sequence in pending:
            return pending.pop(sequence)


def _phrase(exc: OSError, probe: Probe) -> str:
    if exc.errno == errno.ENODEV:
        return f"there is no interface {probe.interface}"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"this host does not have the address {probe.source}"
    return (exc.strerror or "the network refused").lower()
