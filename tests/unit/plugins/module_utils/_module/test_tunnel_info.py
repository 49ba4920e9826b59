# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tunnels of a host, with an agent and without, and of a fleet."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.status import Facts, Status
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import Completed
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.fleet import tunnel_report, tunnel_report_table
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.leasestore import save
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_info_task import on_controller, run
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, NetworkError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=timezone.utc)


class Ip:
    """Answers `ip -j addr show` with these addresses, all on lo, which every host has."""

    def __init__(self, *addresses: str, rc: int = 0, up: bool = True) -> None:
        self._addresses, self._rc, self._flags = addresses, rc, ["UP"] if up else []

    def run(self, argv: Sequence[str], timeout: float = 0) -> Completed:
        assert tuple(argv) == ("ip", "-j", "addr", "show")
        links = [{"ifname": "lo", "mtu": 1480, "flags": self._flags, "addr_info": [{"local": one, "prefixlen": 128}]}
                 for one in self._addresses]
        return Completed(tuple(argv), self._rc, json.dumps([*links, {}]), "ip: not found" if self._rc else "")


class Host:
    """A host in a folder."""

    def __init__(self, folder: Path) -> None:
        self.runtime, self.facts = folder / "run", folder / "facts.d"
        self.runtime.mkdir()
        self.facts.mkdir()

    def agent(self, name: str = "tsp", state: str = "up", **more: Any) -> None:
        facts = Facts(name, "tsp0", state, NOW - timedelta(minutes=1), NOW, 0.0, lease=lease("v6udpv4"), data_plane="tun",
                      **{"last_rtt": 0.0123, "pings_sent": 10, "pings_answered": 9, **more})
        (self.runtime / f"{name}.status.json").write_text(json.dumps(Status(NOW).build(facts)))

    def look(self, *addresses: str, now: datetime = NOW, commands: Ip | None = None) -> dict[str, Any]:
        found = run({"runtime_dirs": [str(self.runtime)], "facts_dir": str(self.facts), "lease_dir": "leases"}, now=now,
                    commands=commands or Ip(*addresses))
        assert found["changed"] is False
        return found

    def one(self, *addresses: str, **more: Any) -> dict[str, Any]:
        found = self.look(*addresses, **more)
        assert len(found["tunnels"]) == 1
        return found["tunnels"][0]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_without_tunnels_has_none(host: Host) -> None:
    assert host.look() == {"changed": False, "tunnels": [], "warnings": []}
    assert run({"runtime_dirs": [], "facts_dir": "/does/not/exist", "lease_dir": ""}, commands=Ip())["warnings"] == []


def test_an_agent_speaks_for_its_tunnel(host: Host) -> None:
    host.agent()
    save(str(host.facts / "tsp.fact"), lease("v6v4"))
    tunnel = host.one("2001:db8:f00::2")
    assert (tunnel["state"], tunnel["connected"], tunnel["mode"]) == ("up", True, "v6udpv4")
    assert host.one(now=NOW + timedelta(hours=1))["connected"] is False


def test_a_native_tunnel_is_known_by_its_lease_and_its_address(host: Host) -> None:
    host.agent("office")
    save(str(host.facts / "home.fact"), lease("v6v4", "2001:db8:a::/48"))
    (host.facts / "others.fact").write_text("[general]\nkey=value\n")
    found = host.look("127.0.0.1", "2001:db8:f00::2")
    native, agent = found["tunnels"]
    assert found["warnings"] == []
    assert (native["name"], native["state"], native["device"], native["mtu"]) == ("home", "native", "lo", 1480)
    assert (native["mode"], native["prefix"], native["connected"]) == ("v6v4", "2001:db8:a::/48", None)
    assert set(native) == set(agent), "both have the same keys"
    assert agent["name"] == "office" and native["loss"] is None and native["packets"]["in"] >= 0


def test_with_v4v6_the_address_is_ipv4(host: Host) -> None:
    save(str(host.facts / "home.fact"), lease("v4v6"))
    assert host.one("192.0.2.2")["state"] == "native"


@pytest.mark.parametrize("commands", [Ip(), Ip("2001:db8:f00::2", up=False)])
def test_a_lease_without_a_device_is_no_tunnel(host: Host, commands: Ip) -> None:
    save(str(host.facts / "home.fact"), lease("v6v4"))
    tunnel = host.one(commands=commands)
    assert tunnel["state"] == "absent" and tunnel["packets"] is None
    assert tunnel["packets_why"] == "No device of the host has 2001:db8:f00::2."


def test_where_addresses_cannot_be_told_that_is_said(host: Host) -> None:
    save(str(host.facts / "home.fact"), lease("v6v4"))
    found = host.look(commands=Ip(rc=127))
    assert found["tunnels"][0]["state"] == "native" and "ip: not found" in found["warnings"][0]


def test_broken_files_are_told_and_stop_nothing(host: Host) -> None:
    (host.runtime / "broken.status.json").write_text("{")
    host.agent()
    os.mkfifo(host.facts / "pipe.fact")
    found = host.look()
    assert [tunnel["name"] for tunnel in found["tunnels"]] == ["tsp"]
    assert "broken.status.json does not hold a status" in found["warnings"][0] and "pipe.fact" in found["warnings"][1]


def test_of_a_device_without_python_the_controllers_leases_tell(tmp_path: Path) -> None:
    path = tmp_path / "r1.json"
    save(str(path), lease("v6v4", "2001:db8:a::/48"))
    found = on_controller({"tsp": str(path), "other": str(tmp_path / "none.json")}, NOW)
    [tunnel] = found["tunnels"]
    assert (tunnel["state"], tunnel["prefix"], tunnel["packets_why"]) == ("native", "2001:db8:a::/48", "Nobody looked at the device.")


def fleet(host: Host) -> dict[str, Any]:
    host.agent()
    host.agent("lost", "waiting", failures=1, error=NetworkError("no_reply", "Nothing came back.", "Look at the\npath.").to_dict())
    save(str(host.facts / "home.fact"), lease("v6v4", "2001:db8:a::/48"))
    found = host.look("2001:db8:f00::2")
    silent = {**found["tunnels"][2], "stale": "The agent is gone.", "connected": False}
    return {"a": found, "b": {"unreachable": True, "msg": "Connection refused"}, "c": {"msg": "No Python.", "rc": 127},
            "d": {"tunnels": []}, "e": {"tunnels": [silent]}}


def test_the_report_has_a_row_for_each_tunnel_and_for_each_host(host: Host) -> None:
    report = tunnel_report(fleet(host), hosts=["e", "a", "b", "c", "d", "f"])
    assert [(row["host"], row["tunnel"], row["state"]) for row in report["rows"]] == [
        ("e", "tsp", "stale"), ("a", "home", "native"), ("a", "lost", "waiting"), ("a", "tsp", "up"), ("b", None, "unreachable"),
        ("c", None, "unknown"), ("d", None, "none"), ("f", None, "unreachable")]
    assert report["summary"] == {"stale": 1, "native": 1, "waiting": 1, "up": 1, "unreachable": 2, "unknown": 1, "none": 1}
    rows = {(row["host"], row["tunnel"]): row for row in report["rows"]}
    assert rows["a", "tsp"]["rtt_ms"] == 12.3 and rows["a", "tsp"]["loss"] == 0.1 and rows["a", "tsp"]["status"]["schema"] == 2
    assert rows["a", "lost"]["problem"] == "Nothing came back. Look at the\npath." and rows["b", None]["problem"] == "Connection refused"
    assert len({frozenset(row) for row in report["rows"]}) == 1, "all rows have the same keys"
    assert report == json.loads(json.dumps(report))


def test_the_table_has_one_aligned_line_for_each_row(host: Host) -> None:
    lines = tunnel_report_table(tunnel_report(fleet(host))).split("\n")
    assert lines[0].split()[:8] == ["host", "tunnel", "state", "mode", "broker", "address", "prefix", "rtt"] and len(lines) == 9
    assert lines[4].split() == ["a", "tsp", "up", "v6udpv4", "broker.example", "2001:db8:f00::2", "-", "12.3", "ms", "10", "%",
                                "ended", "-"]
    assert lines[3].endswith("Nothing came back. Look at the path.") and lines[5].endswith("Connection refused")
    column = lines[0].index("state")
    assert [line[column:].split()[0] for line in lines[2:]] == ["native", "waiting", "up", "unreachable", "unknown", "none", "stale"]


def test_with_v4v6_the_row_shows_the_ipv4_address(host: Host) -> None:
    save(str(host.facts / "home.fact"), lease("v4v6"))
    assert tunnel_report({"a": host.look("192.0.2.2")})["rows"][0]["address"] == "192.0.2.2"


@pytest.mark.parametrize("results", [None, [], {"a": 1}, "x"])
def test_results_of_another_shape_are_refused(results: Any) -> None:
    with pytest.raises(LocalError) as caught:
        tunnel_report(results)
    assert caught.value.code == "report_invalid"
    with pytest.raises(LocalError):
        tunnel_report_table(results)


def test_a_lease_that_ended_is_called_so(host: Host) -> None:
    granted = lease("v6v4")
    save(str(host.facts / "home.fact"), replace(granted, grant=replace(granted.grant, lifetime=60), obtained_at=NOW - timedelta(hours=1)))
    assert tunnel_report_table(tunnel_report({"a": host.look("2001:db8:f00::2")})).split("\n")[2].split()[-2:] == ["ended", "-"]


@pytest.mark.parametrize("junk", [None, [], {}, "x", -1, 1e400, float("nan"), True, {"ratio": "x"}, {"local": 1}, "\x1b[2J"])
def test_a_host_that_talks_nonsense_does_not_cost_the_table(host: Host, junk: Any) -> None:
    host.agent()
    found = host.look()
    for key in found["tunnels"][0]:
        broken = {"tunnels": [{**found["tunnels"][0], key: junk}, junk]}
        table = tunnel_report_table(tunnel_report({"a": found, "b": broken}))
        assert len(table.split("\n")) == 4 + isinstance(junk, dict) and all(char.isprintable() or char == "\n" for char in table)
