# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an agent says of its tunnel, and what people are shown of it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import statusview
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.counters import Cached, Counters
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.status import Facts, Status, main
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=timezone.utc)
SCHEMA_1 = {"schema", "name", "device", "pid", "state", "since", "updated_at", "lease", "mtu", "last_rtt_ms", "missed", "data_plane",
            "data_plane_why", "mode_why", "negotiations", "failures", "counters", "last_error"}
LEASE = Lease.from_dict({
    "schema": 1, "broker": "192.0.2.1", "via": "tsp.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "digest-md5",
    "username": "alice", "mode": "v6udpv4",
    "client": {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::2", "udp_port": 40000, "dns_name": "alice.users.example"},
    "server": {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f::1", "udp_port": 3653}, "prefix": "2001:db8:8000::/56", "dns_servers": [],
    "keepalive": {"interval": 30, "address": "2001:db8:f::1"}, "lifetime": 3600, "obtained_at": "2026-11-23T11:30:00Z",
    "request": {"mode": "v6anyv4"}})
UP = Facts("tsp", "tsp0", "up", NOW - timedelta(days=1, hours=2, minutes=3, seconds=4), NOW, 1000.0, lease=LEASE, numbers={"mtu": 1472},
           data_plane="tun", data_plane_why="The configuration says so.", counters={
               "packets_in": 10, "packets_out": 20, "bytes_in": 1000, "bytes_out": 2000, "dropped_out_spoofed": 3}, last_rtt=0.0123456,
           interval=25.0, pings_sent=4, pings_answered=3, negotiations=1, nat={"behind": True, "lifetime": 30, "said": "Remembers 30 s."},
           renew_at=NOW + timedelta(minutes=18))
ERROR = RemoteError("auth_failed", "The broker refused the user name or the password.", "Correct them.", status=300)


def built(facts: Facts = UP, kernel: Counters | None = None) -> dict[str, Any]:
    return Status(NOW - timedelta(days=2), Cached(0.0, lambda _device: kernel)).build(facts)


def written(folder: Path, data: Any, name: str = "tsp") -> str:
    path = folder / f"{name}.status.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return str(path)


def shown(*paths: str, now: datetime = NOW, as_json: bool = False) -> tuple[int, str]:
    out = io.StringIO()
    return statusview.show(paths, as_json, out, now), out.getvalue()


def values(text: str) -> dict[str, str]:
    """label -> value of one tunnel's lines."""
    return {line[:16].strip(): line[16:].strip() for line in text.splitlines()}


def test_everything_of_the_old_status_tab_is_there() -> None:
    data = built()
    assert set(data) > SCHEMA_1 and data["schema"] == 2
    assert data["tunnel_status"] == "Connected" and data["mode"] == "v6udpv4" and data["domain"] == "alice.users.example"
    assert data["endpoints"] == {"local": {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::2"},
                                 "remote": {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f::1"}}
    assert (data["broker"], data["via"], data["prefix"]) == ("192.0.2.1", "tsp.example", "2001:db8:8000::/56")
    assert data["packets"] == {"in": 10, "out": 20, "bytes_in": 1000, "bytes_out": 2000} and data["packets_why"] == ""
    assert data["loss"] == {"sent": 4, "answered": 3, "ratio": 0.25}
    assert data["last_rtt_ms"] == 12.346 and data["lease_seconds_left"] == 1800
    assert (data["started_at"], data["renew_at"]) == ("2026-11-21T12:00:00Z", "2026-11-23T12:18:00Z")
    assert data == json.loads(json.dumps(data))


def test_before_there_is_anything_nothing_is_made_up() -> None:
    data = built(Facts("tsp", "tsp0", "starting", NOW, NOW, 0.0))
    assert data["tunnel_status"] == "Connecting" and data["packets"] is None and data["packets_why"] == "There is no tunnel."
    assert [data[key] for key in ("lease", "mode", "endpoints", "prefix", "mtu", "nat", "renew_at", "lease_seconds_left")] == [None] * 8
    assert data["loss"] == {"sent": 0, "answered": 0, "ratio": None}


def test_packets_of_the_kernels_own_tunnels_are_the_devices() -> None:
    facts = replace(UP, data_plane="fou", counters={})
    assert built(facts, Counters(1, 2, 3, 4))["packets"] == {"in": 1, "out": 2, "bytes_in": 3, "bytes_out": 4}
    data = built(facts, None)
    assert data["packets"] is None and "tsp0" in data["packets_why"]


@pytest.mark.parametrize("state, error, words", [
    ("up", ERROR, "Connected"), ("lost", ERROR, "Connecting"), ("negotiating", None, "Connecting"),
    ("waiting", ERROR, "Disconnected (error)"), ("waiting", None, "Disconnected (idle)"),
    ("refused", ERROR, "Disconnected (error)"), ("stopped", None, "Disconnected (idle)")])
def test_a_state_is_told_in_the_guides_words(state: str, error: RemoteError | None, words: str) -> None:
    assert built(replace(UP, state=state, error=error and error.to_dict()))["tunnel_status"] == words


def test_an_error_says_when_it_came() -> None:
    status = Status(NOW)
    first = status.build(replace(UP, error=ERROR.to_dict(), failures=1))["last_error"]
    assert first == {**ERROR.to_dict(), "at": "2026-11-23T12:00:00Z"}
    later = NOW + timedelta(minutes=1)
    assert status.build(replace(UP, now=later, error=ERROR.to_dict(), failures=1))["last_error"]["at"] == first["at"]
    assert status.build(replace(UP, now=later, error=ERROR.to_dict(), failures=2))["last_error"]["at"] == "2026-11-23T12:01:00Z"
    assert status.build(UP)["last_error"] is None


def test_people_see_one_aligned_line_for_each_thing(tmp_path: Path) -> None:
    code, text = shown(written(tmp_path, built()))
    assert code == 0
    assert text.splitlines()[:6] == [
        "Tunnel            tsp (tsp0)",
        "Status            Connected",
        "Duration          1d2h3m4s",
        "Tunnel mode       v6udpv4 (IPv6 in UDP over IPv4, passes a NAT)",
        "Carried by        tun: The configuration says so.",
        "Local addresses   192.0.2.20, 2001:db8:f::2"]
    said = values(text)
    assert said["Broker"] == "192.0.2.1, redirected to by tsp.example" and said["Delegated prefix"] == "2001:db8:8000::/56"
    assert said["Packets"] == "10 in (1000 bytes), 20 out (2000 bytes)" and said["Dropped"] == "3 out spoofed"
    assert said["Lease ends"].startswith("in 0d0h30m0s") and said["NAT"] == "Remembers 30 s." and "Last error" not in said


def test_a_disconnected_tunnel_says_why_and_costs_the_exit_code(tmp_path: Path) -> None:
    up, down = built(), built(replace(UP, name="b", state="waiting", error=ERROR.to_dict()))
    code, text = shown(written(tmp_path, up), written(tmp_path, down, "b"))
    first, second = text.split("\n\n")
    assert code == 3 and "Connected" in first and values(second)["Status"] == "Disconnected (error)"
    assert values(second)["Last error"] == f"{ERROR.message} {ERROR.hint} (auth_failed, 2026-11-23T12:00:00Z)"
    code, text = shown(str(tmp_path), as_json=True)
    assert code == 3
    told = json.loads(text)["tunnels"]
    assert [(one["name"], one["connected"], one["duration_s"]) for one in told] == [("b", False, 93784), ("tsp", True, 93784)]


def test_a_status_that_nobody_writes_any_more_is_not_connected(tmp_path: Path) -> None:
    path = written(tmp_path, built())
    code, text = shown(path, now=NOW + timedelta(seconds=91))
    assert code == 3 and values(text)["Status"] == "Unknown: The agent has not written its status for 0d0h1m31s."
    assert shown(path, now=NOW + timedelta(seconds=60))[0] == 0
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, None, 0, -1, "1", 1 << 80):
        code, text = shown(written(tmp_path, {**built(), "pid": pid}))
        assert code == 3 and f"Unknown: The agent (process {pid}) is gone" in text
    del gone


def test_where_there_is_no_agent_that_is_said(tmp_path: Path) -> None:
    assert shown(str(tmp_path)) == (4, "No agent runs here.\n")
    code, text = shown(str(tmp_path / "home.status.json"))
    assert code == 4 and values(text) == {"Tunnel": "home", "Status": "No agent runs for it."}
    code, text = shown(str(tmp_path / "home.status.json"), written(tmp_path, built()))
    assert code == 3, "one runs, and one is missing"


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "{}", '{"state": 1}', "[" * 5000, '{"state": "up", "a": "' + "x" * (1 << 20)])
def test_a_broken_file_is_called_so(tmp_path: Path, content: str) -> None:
    code, text = shown(written(tmp_path, content))
    assert code == 4 and "does not hold a status" in text


def test_a_pipe_in_the_place_of_the_file_does_not_hold_us_up(tmp_path: Path) -> None:
    path = tmp_path / "tsp.status.json"
    os.mkfifo(path)
    code, text = shown(str(path))
    assert code == 4 and "it is no plain file" in text


def test_no_link_is_followed(tmp_path: Path) -> None:
    written(tmp_path, built(), "other")
    (tmp_path / "tsp.status.json").symlink_to(tmp_path / "other.status.json")
    code, text = shown(str(tmp_path / "tsp.status.json"))
    assert code == 4 and "cannot be read" in text


def test_nobodys_words_drive_the_terminal(tmp_path: Path) -> None:
    nasty = "\x1b]0;owned\x07\n\u202e\ud800 é"
    data = {**built(), "name": nasty, "mode_why": nasty, "broker": nasty, "nat": {"said": nasty},
            "last_error": {"message": nasty, "hint": None, "code": nasty}}
    _code, text = shown(written(tmp_path, data))
    assert all(char.isprintable() or char == "\n" for char in text) and len(text.splitlines()) == len(shown(written(
        tmp_path, {**data, "name": "tsp"}))[1].splitlines())
    assert "\\x1b]0;owned\\x07\\n\\u202e\\ud800 é" in text
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert statusview.show([str(tmp_path)], False, plain, NOW) == 0, "and one that knows no é is spared it"


@pytest.mark.parametrize("junk", [None, [], {}, "x", -1, 1e400, True, {"a": []}])
def test_values_of_another_kind_stop_nothing(tmp_path: Path, junk: Any) -> None:
    for key in built():
        if key not in ("state", "pid"):
            assert "Tunnel" in shown(written(tmp_path, {**built(), key: junk}))[1]


def test_a_status_of_the_first_schema_can_be_shown(tmp_path: Path) -> None:
    code, text = shown(written(tmp_path, {key: value for key, value in built().items() if key in SCHEMA_1}))
    said = values(text)
    assert code == 0 and said["Broker"] == "192.0.2.1" and said["Local addresses"] == "192.0.2.20, 2001:db8:f::2"


def test_agents_are_found_where_they_are_as_a_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tsp-home", "tsp", "tsp-home-apply", "tspd"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to(tmp_path / "run")
    monkeypatch.setattr(statusview, "PARENTS", (str(tmp_path / "run"), str(tmp_path / "var/run"), str(tmp_path / "none")))
    assert statusview.usual_folders() == [str(tmp_path / "run/tsp"), str(tmp_path / "run/tsp-home")]
    path = written(tmp_path / "run/tsp-home", built(replace(UP, now=datetime.now(timezone.utc))), "home")
    assert statusview.find(statusview.usual_folders()) == [path]
    out = io.StringIO()
    assert main([path], False, out) == 0 and "Connected" in out.getvalue()
    assert main([], False, out) == 4
