# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The tunnels of a fleet out of what `tunnel_info` found on each host: as data, and as a plain-text table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from .._agent.status import iso
from .._agent.statusview import duration
from .._tsp.errors import LocalError
from .table import aligned, cell

SCHEMA = 1
HEADINGS = ("host", "tunnel", "state", "mode", "broker", "address", "prefix", "rtt", "loss", "lease left", "last error")
NOT_REACHED = "Nothing is known of this host: it was not reached."


def tunnel_report(results: Any, hosts: Any = ()) -> dict[str, Any]:
    """{schema, generated_at, summary: {state: how many}, rows: [...]}, one row for each tunnel, and one for a host without any.

    results: {host: result of tunnel_info}, also a failed or an unreachable one. hosts: names in the order of the rows; one without a
    result was not reached. A row: {host, tunnel, state, connected, mode, broker, address, prefix, rtt_ms, loss, lease_seconds_left,
    problem, status}. state: as in the status; stale (the agent is gone or silent), none (no tunnel), unreachable, unknown (could not
    be looked at). problem: a sentence, or "". status: all that was found, or null. Raises LocalError `report_invalid`.
    """
    if not isinstance(results, dict) or not all(isinstance(result, dict) for result in results.values()):
        raise LocalError("report_invalid", "The report needs the results of tunnel_info by host.", "Give {host: result}.")
    rows: list[dict[str, Any]] = []
    for host in dict.fromkeys((*(str(host) for host in hosts), *results)):
        rows += _rows(host, results.get(host))
    summary: dict[str, int] = {}
    for row in rows:
        summary[row["state"]] = summary.get(row["state"], 0) + 1
    return {"schema": SCHEMA, "generated_at": iso(datetime.now(timezone.utc)), "summary": summary, "rows": rows}


def tunnel_report_table(report: Any) -> str:
    """The rows of a report as lines of text with aligned columns. Raises LocalError `report_invalid`."""
    try:
        lines = [_cells(row) for row in report["rows"]]
    except (TypeError, KeyError) as exc:
        raise LocalError("report_invalid", f"This is no report of tunnels: {exc}.", "Give what the filter tunnel_report makes.") from None
    return aligned([HEADINGS, *lines])


def _rows(host: str, result: dict[str, Any] | None) -> Sequence[dict[str, Any]]:
    if result is None or result.get("unreachable"):
        return (_row(host, "unreachable", str((result or {}).get("msg") or NOT_REACHED)),)
    if not isinstance(result.get("tunnels"), list):
        return (_row(host, "unknown", str(result.get("msg") or "tunnel_info found nothing out.")),)
    return [_of_tunnel(host, tunnel) for tunnel in result["tunnels"] if isinstance(tunnel, dict)] or (_row(host, "none", ""),)


def _row(host: str, state: str, problem: str, **more: Any) -> dict[str, Any]:
    return {"host": host, "tunnel": None, "state": state, "connected": None, "mode": None, "broker": None, "address": None, "prefix": None,
            "rtt_ms": None, "loss": None, "lease_seconds_left": None, "problem": problem, "status": None, **more}


def _of_tunnel(host: str, status: dict[str, Any]) -> dict[str, Any]:
    lease, error = _dict(status.get("lease")), _dict(status.get("last_error"))
    mode = status.get("mode") or lease.get("mode")
    local = _dict(_dict(status.get("endpoints")).get("local") or lease.get("client"))
    stale = status.get("stale") or ""
    problem = stale or " ".join(str(error.get(key) or "") for key in ("message", "hint")).strip()
    if status.get("state") == "absent":
        problem = status.get("packets_why") or ""
    return _row(host, "stale" if stale else str(status.get("state")), problem, tunnel=status.get("name"), connected=status.get("connected"),
                mode=mode, broker=status.get("broker") or lease.get("broker"),
                # What the tunnel carries is what people look for: with v4v6 that is our IPv4 address.
                address=local.get("ipv4" if mode == "v4v6" else "ipv6"), prefix=status.get("prefix") or lease.get("prefix"),
                rtt_ms=_number(status.get("last_rtt_ms")), loss=_number(_dict(status.get("loss")).get("ratio")),
                lease_seconds_left=_number(status.get("lease_seconds_left")), status=status)


def _dict(value: Any) -> dict[str, Any]:
    """What a host says is believed as far as it makes sense: one that is broken must not cost the table of all others."""
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15 else None


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    rtt, loss, left = row["rtt_ms"], row["loss"], row["lease_seconds_left"]
    return tuple(cell(value) for value in (
        row["host"], row["tunnel"], row["state"], row["mode"], row["broker"], row["address"], row["prefix"],
        None if rtt is None else f"{rtt:.1f} ms", None if loss is None else f"{100 * loss:.0f} %",
        None if left is None else "ended" if left <= 0 else duration(left), row["problem"]))
