# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The table that playbooks end with: one line per device, plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._tsp.errors import LocalError

HEADINGS = ("device", "platform", "mode", "IPv6 address", "prefix", "proved")
NOTHING = "-"


def tunnel_table(rows: Any, devices: Any = ()) -> str:
    """Lines of text with aligned columns: device, platform, mode, IPv6 address, prefix, proved (with the round trip in ms).

    rows: dicts {device, platform, lease, proof, error}, all but device optional; lease is the dict of a lease, proof is
    {proved: bool, rtt_ms: number}, error a sentence shown in the place of the proof. devices: names in the order of the table; one of
    which there is no row was not reached. Raises LocalError `table_invalid`.
    """
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, dict) for row in rows):
        raise LocalError("table_invalid", "The table needs a list of dicts.", "Give each device as {device, platform, lease, proof}.")
    if devices:
        known = {str(row.get("device")): row for row in rows}
        rows = [known.pop(str(name), {"device": name, "error": "not reached"}) for name in devices] + list(known.values())
    return aligned([HEADINGS] + [_cells(row) for row in rows])


def aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Lines of text with aligned columns, the first underlined. All lines have the same number of cells."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in ruled)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    lease = row.get("lease") or {}
    mode = lease.get("mode")
    # What the tunnel carries is what people look for: with v4v6 that is our IPv4 address.
    address = (lease.get("client") or {}).get("ipv4" if mode == "v4v6" else "ipv6")
    return tuple(cell(value) for value in (row.get("device"), row.get("platform"), mode, address, lease.get("prefix"), _proved(row)))


def _proved(row: dict[str, Any]) -> str | None:
    if row.get("error"):
        return "no: " + str(row["error"])
    proof = row.get("proof") or {}
    if not proof:
        return None
    if proof.get("proved") is not True:
        return "no"
    rtt = proof.get("rtt_ms")
    return "yes" if rtt is None else f"yes, {float(rtt):.1f} ms"


def cell(value: Any) -> str:
    """One printable line; a dash for nothing."""
    text = "" if value is None else " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return text or NOTHING
