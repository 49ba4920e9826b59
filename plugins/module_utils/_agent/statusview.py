# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Reads what agents say of their tunnels (`status`), judges whether it still holds, and shows it to people.

A status that nobody looks after any more is said to be stale, and never shown as connected. Whatever stands in a file is escaped: a
broker's words cannot drive a terminal.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, TextIO

from . import status

OK, NOT_CONNECTED, NO_AGENT = 0, 3, 4
"""Exit codes, as `systemctl status` has them: all are connected | one is not | there is no agent."""
OLDEST = 90.0
"""Seconds after which a status is stale: an agent writes its own at least every 30."""
SUFFIX = ".status.json"
LARGEST = 1 << 20
PARENTS = ("/run", "/var/run")
MODES = {"v6v4": "IPv6 in IPv4", "v6udpv4": "IPv6 in UDP over IPv4, passes a NAT", "v4v6": "IPv4 in IPv6"}


def find(paths: Sequence[str]) -> list[str]:
    """The status files that are meant: of folders those in them."""
    found = []
    for path in paths:
        if os.path.isdir(path):
            found += [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(SUFFIX)]
        else:
            found.append(path)
    return found


def usual_folders() -> list[str]:
    """The runtime folders of agents, as configuration and the role have them: /run/tsp, /run/tsp-NAME; /var/run where there is no /run."""
    out: list[str] = []
    for parent in PARENTS:
        try:
            names = os.listdir(parent)
        except OSError:
            continue
        found = [os.path.join(parent, name) for name in sorted(names)
                 if (name == "tsp" or name.startswith("tsp-")) and not name.endswith("-apply")]
        out += [folder for folder in found if os.path.realpath(folder) not in {os.path.realpath(other) for other in out}]
    return out


def read(path: str, now: datetime | None = None) -> dict[str, Any]:
    """What the file says, and what follows from the time: `connected`, `duration_s` (since the state began), `lease_seconds_left` and
    `stale` (a sentence, or ""). Of a file that holds no status: {name, path, connected: False, problem: a sentence}."""
    name = os.path.basename(path)
    name = name[:-len(SUFFIX)] if name.endswith(SUFFIX) else name
    try:
        # Who writes it has no rights, and who reads it may be root: no link of theirs is followed, to a device or elsewhere.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(None, "it is no plain file")
            data = json.loads(file.read(LARGEST + 1).decode("utf-8", "replace"))
        if not isinstance(data, dict) or not isinstance(data.get("state"), str):
            raise ValueError
    except FileNotFoundError:
        return {"name": name, "path": path, "connected": False, "problem": "No agent runs for it."}
    except OSError as exc:
        return {"name": name, "path": path, "connected": False, "problem": f"{path} cannot be read: {exc.strerror}."}
    except (ValueError, RecursionError):
        return {"name": name, "path": path, "connected": False, "problem": f"{path} does not hold a status."}
    return judged(data, now or datetime.now(timezone.utc))


def judged(data: dict[str, Any], now: datetime, alive: bool | None = None) -> dict[str, Any]:
    """`data` with what `read` adds. alive: whether its process lives; None: look for it on this host."""
    stale = ""
    age = _seconds(data.get("updated_at"), now)
    if not (_alive(data.get("pid")) if alive is None else alive):
        stale = f"The agent (process {data.get('pid')}) is gone without a word."
    elif age is None or age > OLDEST:
        stale = "The agent has not written its status for " + ("an unknown time." if age is None else f"{duration(age)}.")
    since = _seconds(data.get("since"), now)
    ends = _seconds(_dict(data.get("lease")).get("expires_at"), now)
    return {**data, "connected": data["state"] == "up" and not stale, "stale": stale, "duration_s": None if since is None else int(since),
            "lease_seconds_left": None if ends is None else int(0 - ends)}


def show(paths: Sequence[str], as_json: bool, out: TextIO, now: datetime | None = None) -> int:
    """Write the status of every tunnel that is meant; returns the exit code."""
    tunnels = [read(path, now) for path in find(paths)]
    if as_json:
        json.dump({"schema": status.SCHEMA, "tunnels": tunnels}, out, indent=1, sort_keys=True)
        out.write("\n")
    elif tunnels:
        text = "\n\n".join(as_text(tunnel) for tunnel in tunnels) + "\n"
        encoding = getattr(out, "encoding", None) or "utf-8"
        out.write(text.encode(encoding, "backslashreplace").decode(encoding))
    else:
        out.write("No agent runs here.\n")
    if all("problem" in tunnel for tunnel in tunnels):
        return NO_AGENT
    return OK if all(tunnel["connected"] for tunnel in tunnels) else NOT_CONNECTED


def as_text(data: dict[str, Any]) -> str:
    """One tunnel for people: a heading, and lines of a label and a value. What is not there or makes no sense is left out."""
    lines = [("Tunnel", f"{data.get('name')}" + (f" ({data['device']})" if data.get("device") else ""))]
    if "problem" in data:
        return _aligned([*lines, ("Status", data["problem"])])
    failed = isinstance(data.get("last_error"), dict)
    words = "Unknown" if data["stale"] else status.tunnel_status(data["state"], failed)
    lines += [("Status", f"{words}: {data['stale']}" if data["stale"] else words)]
    if data["duration_s"] is not None:
        lines += [("Duration" if data["connected"] else "Since", duration(data["duration_s"]))]
    lines += _of_lease(data) + _of_traffic(data)
    if failed:
        error = data["last_error"]
        said = " ".join(str(error.get(key) or "") for key in ("message", "hint")).strip()
        lines += [("Last error", f"{said} ({error.get('code')}" + (f", {error['at']})" if error.get("at") else ")"))]
    return _aligned(lines)


def _of_lease(data: dict[str, Any]) -> list[tuple[str, str]]:
    lease = _dict(data.get("lease"))
    mode = data.get("mode") or lease.get("mode")
    ends = _dict(data.get("endpoints")) or {"local": lease.get("client"), "remote": lease.get("server")}
    lines = []
    if mode:
        lines += [("Tunnel mode", f"{mode} ({MODES[mode]})" if str(mode) in MODES else str(mode))]
    if data.get("mode_why"):
        lines += [("", str(data["mode_why"]))]
    if data.get("data_plane"):
        lines += [("Carried by", f"{data['data_plane']}: {data.get('data_plane_why') or ''}")]
    for label, side in (("Local addresses", "local"), ("Remote addresses", "remote")):
        found = [str(address) for address in (_dict(ends.get(side)).get(family) for family in ("ipv4", "ipv6")) if address]
        if found:
            lines += [(label, ", ".join(found))]
    broker = data.get("broker") or lease.get("broker")
    if broker:
        lines += [("Broker", str(broker) + (f", redirected to by {data['via']}" if data.get("via") else ""))]
    if lease:
        lines += [("Delegated prefix", str(data.get("prefix") or lease.get("prefix") or "(None)")),
                  ("Delegated domain", str(data.get("domain") or _dict(lease.get("client")).get("dns_name") or "(None)")),
                  ("User", str(lease.get("username") or "anonymous"))]
    left = data.get("lease_seconds_left")
    if left is not None:
        lines += [("Lease ends", ("in " + duration(left) if left > 0 else "it has ended")
                   + (f", to be renewed {data['renew_at']}" if data.get("renew_at") else ""))]
    return lines


def _of_traffic(data: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    packets, loss, nat = (_dict(data.get(key)) for key in ("packets", "loss", "nat"))
    if packets:
        lines += [("Packets", "{in} in ({bytes_in} bytes), {out} out ({bytes_out} bytes)".format(
            **{key: packets.get(key) for key in ("in", "bytes_in", "out", "bytes_out")}))]
    elif data.get("data_plane"):
        lines += [("Packets", f"Not available: {data.get('packets_why') or ''}")]
    dropped = {key[8:]: value for key, value in sorted(_dict(data.get("counters")).items()) if key.startswith("dropped_") and value}
    if dropped:
        lines += [("Dropped", ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in dropped.items()))]
    if isinstance(data.get("last_rtt_ms"), (int, float)):
        ratio = loss.get("ratio")
        lines += [("Round trip", f"{data['last_rtt_ms']} ms" + (f", {100 * ratio:g} % of the last pings lost"
                                                                if isinstance(ratio, (int, float)) else ""))]
    if nat:
        lines += [("NAT", str(nat.get("said") or ("yes" if nat.get("behind") else "no")))]
    if data.get("mtu"):
        lines += [("MTU", str(data["mtu"]))]
    lines += [("Negotiations", f"{data.get('negotiations')}, of which {data.get('failures')} failed in a row"
               if data.get("failures") else str(data.get("negotiations")))]
    return lines


def duration(seconds: float) -> str:
    """As the guide writes it: AdBhCmDs."""
    whole = max(0, int(seconds))
    return f"{whole // 86400}d{whole // 3600 % 24}h{whole // 60 % 60}m{whole % 60}s"


def escaped(text: str) -> str:
    """One line that drives no terminal: what is not printable is written as Python would."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _aligned(lines: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{label:16}  {escaped(value)}".rstrip() for label, value in lines)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _seconds(value: Any, now: datetime) -> float | None:
    """Seconds since a time of ours; None for what is none."""
    try:
        then = datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except (TypeError, ValueError):
        return None
    return (now - then).total_seconds()


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # somebody else's: it is there
    return True
