# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The status of tunnels as text in Prometheus' exposition format 0.0.4: one table of what there is, pure functions of status dicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Callable, Optional, Union

from .status import STATES

Number = Union[int, float]
Samples = Iterable[tuple[Mapping[str, str], Optional[Number]]]
"""(labels beside tunnel, broker and mode; the value, None where there is none to tell)."""
PREFIX = "tsp_agent_"


def _one(value: Callable[[Mapping[str, Any]], Number | None]) -> Callable[[Mapping[str, Any]], Samples]:
    def samples(status: Mapping[str, Any]) -> Samples:
        return (({}, value(status)),)

    return samples


def _states(status: Mapping[str, Any]) -> Samples:
    return (({"state": state}, int(state == status["state"])) for state in dict.fromkeys((*STATES, status["state"])))


def _last_error(status: Mapping[str, Any]) -> Samples:
    error = status["last_error"]
    return (({"code": str(error["code"])}, 1),) if error else ()


def _both_ways(each: str) -> Callable[[Mapping[str, Any]], Samples]:
    def samples(status: Mapping[str, Any]) -> Samples:
        packets = status["packets"] or {}
        return (({"direction": way}, packets.get(each.format(way))) for way in ("in", "out"))

    return samples


def _dropped(status: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, str], Number]]:
    counters = status["counters"]
    for key in sorted(counters):
        if key.startswith("dropped_"):
            _dropped_, way, reason = key.split("_", 2)
            yield {"direction": way, "reason": reason}, counters[key]
    if counters:
        yield {"direction": "out", "reason": "too_big"}, counters.get("too_big", 0)


def _milli(value: Number | None) -> float | None:
    return None if value is None else round(value / 1000, 9)


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text[:-1]).replace(tzinfo=timezone.utc).timestamp()  # strptime would load a module of its own


FAMILIES: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], Samples]], ...] = (
    ("up", "gauge", "Whether the tunnel is up: the broker's end answers.", _one(lambda s: int(s["state"] == "up"))),
    ("state", "gauge", "1 for the state that the tunnel is in, 0 for the others.", _states),
    ("state_start_time_seconds", "gauge", "Since when it is in this state, as seconds since 1970.", _one(lambda s: _timestamp(s["since"]))),
    ("round_trip_seconds", "gauge", "Round trip of the last keepalive that was answered.", _one(lambda s: _milli(s["last_rtt_ms"]))),
    ("loss_ratio", "gauge", "Share of the last 100 keepalives that were not answered.", _one(lambda s: s["loss"]["ratio"])),
    ("pings_sent_total", "counter", "Keepalives sent.", _one(lambda s: s["loss"]["sent"])),
    ("pings_answered_total", "counter", "Keepalives answered.", _one(lambda s: s["loss"]["answered"])),
    ("lease_remaining_seconds", "gauge", "Until the lease ends; negative once it has.", _one(lambda s: s["lease_seconds_left"])),
    ("negotiations_total", "counter", "How often a broker was asked.", _one(lambda s: s["negotiations"])),
    ("failures_total", "counter", "Failures to get a tunnel or to set it up.", _one(lambda s: s["failures_total"])),
    ("losses_total", "counter", "How often the tunnel was lost.", _one(lambda s: s["lost_count"])),
    ("last_error_info", "gauge", "The code of the error that is not over; no such line when all is well.", _last_error),
    ("packets_total", "counter", "Packets through the tunnel's device, since it exists.", _both_ways("{}")),
    ("bytes_total", "counter", "Bytes through the tunnel's device, since it exists.", _both_ways("bytes_{}")),
    ("dropped_packets_total", "counter", "Packets that the agent's own data plane did not let pass, and why.", _dropped),
    ("mtu_bytes", "gauge", "MTU of the tunnel.", _one(lambda s: s["mtu"])),
    ("nat_lifetime_seconds", "gauge", "How long the NAT was found to remember an idle flow.",
     _one(lambda s: (s["nat"] or {}).get("lifetime"))),
)


def text(statuses: Sequence[Mapping[str, Any]], resident: int | None = None) -> str:
    """All metrics of these tunnels (status dicts of schema 2, told apart by their names), and the memory of the process in bytes."""
    by_name = {str(status["name"]): status for status in statuses}
    common = {name: {"tunnel": name, "broker": status["broker"] or "", "mode": status["mode"] or ""} for name, status in by_name.items()}
    lines: list[str] = []
    for family, kind, said, samples in FAMILIES:
        found = [_line(family, {**common[name], **labels}, value) for name, status in by_name.items()
                 for labels, value in samples(status) if value is not None]
        if found:
            lines += [*_heading(family, kind, said), *found]
    if resident is not None:
        lines += [*_heading("resident_memory_bytes", "gauge", "Memory of the agent's process."),
                  _line("resident_memory_bytes", {}, resident)]
    return "\n".join(lines) + "\n" if lines else ""


def _heading(family: str, kind: str, said: str) -> tuple[str, str]:
    return f"# HELP {PREFIX}{family} " + said.replace("\\", r"\\").replace("\n", r"\n"), f"# TYPE {PREFIX}{family} {kind}"


def _line(family: str, labels: Mapping[str, str], value: Number) -> str:
    inside = ",".join(f'{name}="{_escaped(content)}"' for name, content in labels.items())
    return f"{PREFIX}{family}" + (f"{{{inside}}}" if inside else "") + f" {value!r}"


def _escaped(value: str) -> str:
    """A label's value: any UTF-8, where only three characters need care."""
    return value.encode("utf-8", "replace").decode().replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
