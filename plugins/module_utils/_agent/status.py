# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What an agent says of its tunnel: the status file, schema 2 (docs/agent.md). `statusview` reads and shows it.

It has what the Status tab of the old client showed (guide, "Status Tab"), for everybody on the host to read: no secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TextIO

from .._tsp.lease import Lease
from .counters import Cached, Loss

SCHEMA = 2
LEASE_KEYS = ("broker", "mode", "client", "server", "prefix", "expires_at", "obtained_at", "username")
CONNECTED, CONNECTING, IDLE, ERROR = "Connected", "Connecting", "Disconnected (idle)", "Disconnected (error)"
"""The guide's words for `tunnel_status`."""
WORDS = {"up": CONNECTED, "starting": CONNECTING, "proving": CONNECTING, "negotiating": CONNECTING, "lost": CONNECTING, "stopped": IDLE}
"""Of a state. Any other one waits: because of an error, or for want of anything to do."""
STATES = (*WORDS, "waiting", "refused")


@dataclass(frozen=True)
class Facts:
    """What an agent knows, at one moment. now, since, renew_at: aware datetimes; monotonic, last_rtt, interval: seconds.

    numbers: the tunnel's plan, None while there is no tunnel. data_plane: tun (the agent carries the packets itself, and `counters` are
    its own), the name of a kind of device, or None. nat: {behind, lifetime: seconds or None, said} or None. error: TspError.to_dict().
    """

    name: str
    device: str
    state: str
    since: datetime
    now: datetime
    monotonic: float
    lease: Lease | None = None
    numbers: Mapping[str, Any] | None = None
    data_plane: str | None = None
    data_plane_why: str = ""
    mode_why: str = ""
    counters: Mapping[str, int] = field(default_factory=dict)
    last_rtt: float | None = None
    missed: int = 0
    interval: float | None = None
    pings_sent: int = 0
    pings_answered: int = 0
    negotiations: int = 0
    failures: int = 0
    lost_count: int = 0
    nat: Mapping[str, Any] | None = None
    renew_at: datetime | None = None
    error: Mapping[str, Any] | None = None


class Status:
    """The status of one tunnel. It remembers when an error came, and how many of the last pings were lost."""

    def __init__(self, started_at: datetime, kernel: Cached | None = None) -> None:
        self._started_at = started_at
        self._kernel = kernel or Cached()
        self._loss = Loss()
        self._error: tuple[dict[str, Any], int] | None = None
        self._error_at = started_at
        self._failures = 0
        self._failures_total = 0

    def build(self, facts: Facts) -> dict[str, Any]:
        """The status file's content: JSON types, UTC times. Every key of schema 1 is there and means what it did."""
        lease = facts.lease
        summary = None if lease is None else lease.to_dict()
        packets, why = self._packets(facts)
        if facts.failures != self._failures:
            self._failures_total += facts.failures - self._failures if facts.failures > self._failures else facts.failures
            self._failures = facts.failures
        return {
            "schema": SCHEMA, "name": facts.name, "device": facts.device, "pid": os.getpid(), "state": facts.state,
            "tunnel_status": tunnel_status(facts.state, facts.error is not None), "since": iso(facts.since),
            "started_at": iso(self._started_at), "updated_at": iso(facts.now),
            "lease": None if summary is None else {key: summary[key] for key in LEASE_KEYS},
            "mode": None if lease is None else lease.grant.mode, "mode_why": facts.mode_why,
            "broker": None if lease is None else lease.broker, "via": None if lease is None else lease.via,
            "endpoints": None if summary is None else {
                ours: {family: summary[theirs][family] for family in ("ipv4", "ipv6")}
                for ours, theirs in (("local", "client"), ("remote", "server"))},
            "prefix": None if summary is None else summary["prefix"],
            "domain": None if lease is None else lease.grant.client.dns_name,
            "lease_seconds_left": None if lease is None else seconds_left(lease.expires_at, facts.now),
            "renew_at": None if facts.renew_at is None else iso(facts.renew_at),
            "mtu": None if facts.numbers is None else facts.numbers["mtu"],
            "last_rtt_ms": None if facts.last_rtt is None else round(facts.last_rtt * 1000, 3), "missed": facts.missed,
            "keepalive_interval": facts.interval,
            "loss": {"sent": facts.pings_sent, "answered": facts.pings_answered,
                     "ratio": self._loss.ratio(facts.pings_sent, facts.pings_answered, facts.monotonic)},
            "data_plane": facts.data_plane, "data_plane_why": facts.data_plane_why, "packets": packets, "packets_why": why,
            "counters": dict(facts.counters), "nat": None if facts.nat is None else dict(facts.nat),
            "negotiations": facts.negotiations, "failures": facts.failures, "failures_total": self._failures_total,
            "lost_count": facts.lost_count,
            "last_error": self._last_error(facts)}

    def _packets(self, facts: Facts) -> tuple[dict[str, int] | None, str]:
        """({in, out, bytes_in, bytes_out}, "") or (None, why not)."""
        if facts.data_plane is None:
            return None, "There is no tunnel."
        if facts.data_plane == "tun":
            counters = facts.counters
            return {"in": counters.get("packets_in", 0), "out": counters.get("packets_out", 0),
                    "bytes_in": counters.get("bytes_in", 0), "bytes_out": counters.get("bytes_out", 0)}, ""
        found = self._kernel.get(facts.device, facts.monotonic)
        return (None, f"The kernel does not count packets of {facts.device}.") if found is None else (found.to_dict(), "")

    def _last_error(self, facts: Facts) -> dict[str, Any] | None:
        """The error and since when it is the last one; the same again is another one."""
        if facts.error is None:
            self._error = None
            return None
        now = ({key: facts.error[key] for key in facts.error if key != "at"}, facts.failures)
        if now != self._error:
            self._error, self._error_at = now, facts.now
        return {**now[0], "at": facts.error.get("at") or iso(self._error_at)}


def tunnel_status(state: str, failed: bool) -> str:
    """The guide's word for a state. failed: there is an error that is not over."""
    return WORDS.get(state) or (ERROR if failed else IDLE)


def seconds_left(expires_at: datetime | None, now: datetime) -> int | None:
    """Until a lease ends, negative afterwards; None for one that does not."""
    return None if expires_at is None else int((expires_at - now).total_seconds())


def iso(value: datetime) -> str:
    """As every time in our files: UTC, to the second."""
    return value.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def main(paths: Sequence[str], as_json: bool, out: TextIO) -> int:
    """The command `status`: what the agents say of their tunnels, for people or as JSON. Returns the exit code, see `statusview`."""
    from .statusview import show  # an agent that keeps a tunnel never needs it

    return show(paths, as_json, out)
