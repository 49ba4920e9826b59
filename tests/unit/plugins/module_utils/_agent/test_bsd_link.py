# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tunnels on kernels of the BSD family in memory: made once, nothing of others touched, all undone, also after a kill at any step."""

from __future__ import annotations

import logging
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import platforms
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.applier import host as host_part
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.applier.host import HostApplier
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd import link as bsd_link
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd.link import BsdLink
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd.plan import make_plan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd.systems import SYSTEMS
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.link import Link
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.linkplan import KINDS, LinkPlan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import AgentConfig, LinkConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plan import tunnel_plan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._bsd_kernel import BsdKernel, Killed

ALL = sorted(SYSTEMS)
MODES = ["v6v4", "v6udpv4", "v4v6"]
LAN = {"default_route": "replace", "lan_interfaces": ("em1",)}


def lease(mode: str, last: str = "2", prefix: str = "2001:db8:8000::/56") -> Lease:
    return Lease.from_dict({
        "schema": 1, "broker": "broker.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "anonymous",
        "username": None, "mode": mode, "client": {"ipv4": "192.0.2.20", "ipv6": f"2001:db8:f::{last}", "udp_port": 4000},
        "server": {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f::1", "udp_port": 3653},
        "prefix": "203.0.113.0/28" if mode == "v4v6" else prefix, "dns_servers": [], "keepalive": {"interval": 30, "address": None},
        "lifetime": 3600, "obtained_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "request": {"mode": mode, "host_type": "router"}})


class Host:
    """A host of one system, and an agent on it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.key = name
        self.system = SYSTEMS[name]
        self.kernel = BsdKernel(self.system)
        self.file = folder / "undo.json"
        self.link = self.started()

    def started(self) -> BsdLink:
        """Another agent, after the one before it ended or was killed."""
        return BsdLink(self.kernel, str(self.file), self.system, self.kernel.open_tun)

    def plan(self, mode: str, device: str = "tsp0", value: Lease | None = None, **link: Any) -> LinkPlan:
        config = LinkConfig(**link)
        numbers = tunnel_plan(value or lease(mode), lan_interfaces=list(config.lan_interfaces))
        return make_plan(numbers, config, device, "tsp", self.system, KINDS[mode][0])

    def up(self, mode: str, device: str = "tsp0", **link: Any) -> list[str]:
        plan = self.plan(mode, device, **link)
        if mode == "v6udpv4" and not self.kernel.open:
            self.link.open_tun(device)
        return self.link.apply(plan)

    def down(self) -> list[str]:
        done = self.link.remove()
        self.kernel.close()
        return done


@pytest.fixture(name="host", params=ALL)
def _host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(request.param, tmp_path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("route", ["metric", "replace", "none"])
def test_up_shows_up_and_down_is_as_before(host: Host, mode: str, route: str) -> None:
    before = host.kernel.picture()
    host.up(mode, default_route=route, lan_interfaces=("em1",))
    plan = host.plan(mode)
    there = host.kernel.links[plan.device]
    assert there["up"] and there["mtu"] == plan.mtu
    assert set(there["addresses"].values()) == {"192.0.2.1" if mode == "v4v6" else "2001:db8:f::1"}
    assert (plan.device[:3] == "gif") is (mode != "v6udpv4")
    family = "203.0.113." if mode == "v4v6" else "2001:db8:8000:"
    assert any(cidr.startswith(family) for cidr in host.kernel.links["em1"]["addresses"])
    assert host.kernel.sysctls["net.inet.ip.forwarding" if mode == "v4v6" else "net.inet6.ip6.forwarding"] == "1"
    assert [line for line in host.down() if line.startswith("failed")] == []
    assert host.kernel.picture() == before
    assert not host.file.exists()


@pytest.mark.parametrize("mode", MODES)
def test_a_second_time_changes_nothing(host: Host, mode: str) -> None:
    host.up(mode, **LAN)
    made = len(host.kernel.changes)
    assert host.up(mode, **LAN) == []
    assert len(host.kernel.changes) == made


@pytest.mark.parametrize("mode", MODES)
def test_killed_at_any_step_the_next_start_cleans_up(host: Host, mode: str, tmp_path: Path) -> None:
    host.up(mode, **LAN)
    steps = len(host.kernel.changes)
    host.down()
    assert steps > 6
    for after in (False, True):
        for step in range(1, steps + 1):
            killed = Host(host.key, tmp_path)
            before = killed.kernel.picture()
            killed.kernel.kill_at, killed.kernel.kill_after = step, after
            with pytest.raises(Killed):
                killed.up(mode, **LAN)
            killed.kernel.dead, killed.kernel.kill_at = False, 0
            killed.kernel.close()
            agent = killed.started()
            agent.recover("tsp0", "tsp")
            assert killed.kernel.picture() == before, f"killed {'after' if after else 'before'} change {step}"
            assert not agent.recover("tsp0", "tsp")
            assert not killed.file.exists()


@pytest.mark.parametrize("mode", MODES)
def test_killed_while_it_takes_away(host: Host, mode: str, tmp_path: Path) -> None:
    before = host.kernel.picture()
    for extra in range(1, 6):
        victim = Host(host.key, tmp_path)
        victim.up(mode, **LAN)
        victim.kernel.kill_at, victim.kernel.kill_after = len(victim.kernel.changes) + extra, True
        with pytest.raises(Killed):
            victim.down()
        victim.kernel.dead, victim.kernel.kill_at = False, 0
        victim.kernel.close()
        victim.started().recover("tsp0", "tsp")
        assert victim.kernel.picture() == before


def test_a_device_of_somebody_else_is_never_touched(host: Host) -> None:
    for device in ("gif7", f"{host.system.tun}7"):
        host.kernel.links[device] = {"mtu": 1280, "up": True, "addresses": {"fd00::1/64": None}, **({"mark": "mine"} if host.system.marks
                                                                                                    else {})}
        before = host.kernel.picture()
        with pytest.raises(LocalError) as caught:
            host.link.recover(device, "tsp")
        assert caught.value.code == "device_taken" and device in caught.value.message
        assert host.kernel.picture() == before
    with pytest.raises(LocalError) as caught:
        host.link.open_tun(f"{host.system.tun}7")
    assert caught.value.code == "device_taken"


@pytest.mark.parametrize("name", ["freebsd", "openbsd"])
def test_a_marked_device_is_known_again_without_its_file(name: str, tmp_path: Path) -> None:
    host = Host(name, tmp_path)
    host.up("v6v4", default_route="none")
    os.unlink(host.file)
    assert host.started().recover("tsp0", "tsp")
    assert "gif40" not in host.kernel.links


def test_a_native_default_route_stays_in_use(host: Host) -> None:
    host.kernel.native_default()
    before = host.kernel.picture()
    host.up("v6v4", default_route="metric")
    defaults = [route for route in host.kernel.routes if route["to"] == "::/0"]
    if host.system.priority:
        assert [route["priority"] for route in defaults] == [8, 60] and host.link.left_out == []
    else:
        assert [route["gateway"] for route in defaults] == ["fe80::1"]
        assert "native one stays" in host.link.left_out[0]
    host.down()
    assert host.kernel.picture() == before


def test_a_default_route_that_replaces_leaves_the_native_one_in_its_place(host: Host) -> None:
    host.kernel.native_default()
    host.up("v6v4", default_route="replace")
    ways = {route["to"]: route["gateway"] for route in host.kernel.routes if ":" in route["to"]}
    assert ways["::/0"] == "fe80::1" and ways["::/1"] == ways["8000::/1"] == "2001:db8:f::1"


def test_routes_by_source_are_refused_with_a_way_out(host: Host) -> None:
    with pytest.raises(LocalError) as caught:
        host.plan("v6v4", default_route="source")
    assert caught.value.code == "no_source_routes" and host.system.name in caught.value.message and "replace" in caught.value.hint


def test_what_of_the_prefix_is_unused_goes_nowhere(host: Host) -> None:
    host.up("v6v4", **LAN)
    covering = next(route for route in host.kernel.routes if route["to"] == "2001:db8:8000::/56")
    assert covering["dev"] == "lo0" and "R" in covering["flags"]


def test_another_grant_takes_the_place_of_the_old_one_on_the_same_device(host: Host) -> None:
    before = host.kernel.picture()
    host.up("v6v4", **LAN)
    created = [line for line in host.kernel.changes if line.endswith(" create")]
    host.link.apply(host.plan("v6v4", value=lease("v6v4", "9", "2001:db8:9000::/56"), **LAN))
    assert [line for line in host.kernel.changes if line.endswith((" create", " destroy"))] == created
    assert list(host.kernel.links["gif40"]["addresses"]) == ["2001:db8:f::9/128"]
    assert [cidr for cidr in host.kernel.links["em1"]["addresses"] if ":" in cidr] == ["2001:db8:9000::1/64"]
    assert {route["to"] for route in host.kernel.routes if "R" in route["flags"]} == {"2001:db8:9000::/56"}
    host.down()
    assert host.kernel.picture() == before


def test_what_the_lan_had_before_stays(host: Host) -> None:
    host.kernel.links["em1"]["addresses"]["2001:db8:8000::1/64"] = None
    host.kernel.sysctls["net.inet6.ip6.forwarding"] = "1"
    before = host.kernel.picture()
    host.up("v6v4", **LAN)
    host.down()
    assert host.kernel.picture() == before


def test_a_freebsd_that_becomes_a_router_goes_on_listening(tmp_path: Path) -> None:
    host = Host("freebsd", tmp_path)
    host.kernel.links["em0"]["listens"] = True
    host.up("v6v4", **LAN)
    assert host.kernel.sysctls == {"net.inet6.ip6.forwarding": "1", "net.inet.ip.forwarding": "0", "net.inet6.ip6.rfc6204w3": "1"}
    host.up("v6v4", **LAN)
    host.down()
    assert set(host.kernel.sysctls.values()) == {"0"}


@pytest.mark.parametrize(("refuse", "code"), [("gif40 create", "tunnel_refused"), (" tunnel ", "tunnel_refused"), (" mtu ", "link_failed"),
                                              ("-reject", "link_failed"), ("forwarding=1", "link_failed"), ("8000::", "link_failed")])
def test_what_the_kernel_refuses_is_said_and_the_rest_undone(host: Host, refuse: str, code: str) -> None:
    before = host.kernel.picture()
    host.kernel.refuse = refuse
    with pytest.raises(ApplyError) as caught:
        host.up("v6v4", **LAN)
    assert caught.value.code == code and "Operation not permitted" in caught.value.message
    host.kernel.refuse = ""
    assert host.kernel.picture() == before


def test_a_freebsd_tun_goes_when_its_descriptor_does_and_nobody_waits_for_the_other(tmp_path: Path,
                                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """destroy sleeps until the descriptor is closed, which its owner does when the rest is taken away."""
    host = Host("freebsd", tmp_path)
    before = host.kernel.picture()
    host.up("v6udpv4")
    assert "daemon -f ifconfig tun40 destroy" in host.link.remove()
    assert "tun40" in host.kernel.links
    host.kernel.close()
    assert host.kernel.picture() == before
    host.up("v6udpv4")
    host.link.remove()
    monkeypatch.setattr(bsd_link.time, "sleep", lambda _seconds: host.kernel.close())  # its owner closes it a moment later
    host.link.open_tun("tsp0")
    host.down()
    assert host.kernel.picture() == before
    host.kernel.goes = True  # FreeBSD 15: the device goes by itself
    host.link = host.started()
    host.up("v6udpv4")
    assert not [line for line in host.link.remove() if "destroy" in line]
    host.kernel.close()
    assert host.kernel.picture() == before


def test_no_step_is_in_a_file_that_was_cut_off(host: Host) -> None:
    host.file.write_text('{"route ::/0', encoding="utf-8")
    assert host.link.recover("tsp0", "tsp")


@pytest.mark.parametrize("mode", MODES)
def test_the_part_that_changes_the_host_is_at_home_on_each_system(host: Host, mode: str, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """From a lease to the kernel and back, with the file of what is to be undone in its place."""
    monkeypatch.setattr(bsd_link, "open_device", host.kernel.open_tun)
    monkeypatch.setattr(host_part, "open_socket", lambda _probe: None)
    value = lease(mode)
    config = AgentConfig("tsp", "tsp0", value.request, ExchangeOptions(brokers=("broker.example",)),
                         link=LinkConfig(lan_interfaces=("em1",)), runtime_dir=str(tmp_path / "run"))
    (tmp_path / "run-apply").mkdir()
    before = host.kernel.picture()
    applier = HostApplier(config, host.kernel, logging.getLogger("test"), platform=host.key)
    assert not applier.recover() and applier.fou_missing()
    made = applier.set_up(value, KINDS[mode][0], None)
    assert made.name in host.kernel.links and host.kernel.links[made.name]["up"]
    assert applier.set_up(value, KINDS[mode][0], None).done == []
    assert [line for line in applier.take_down() if line.startswith("failed")] == []
    host.kernel.close()
    assert host.kernel.picture() == before


def test_each_system_gets_its_own_side(tmp_path: Path) -> None:
    kernel = BsdKernel(SYSTEMS["freebsd"])
    undo = str(tmp_path / "undo.json")
    assert isinstance(platforms.make_link(kernel, undo, "linux"), Link)
    for name in ("freebsd14", "openbsd7", "netbsd10", "darwin"):
        made = platforms.make_link(kernel, undo, name)
        assert isinstance(made, BsdLink) and platforms.fou_missing(kernel, name).endswith("has no means for it")
    with pytest.raises(LocalError) as caught:
        platforms.make_link(kernel, undo, "sunos5")
    assert caught.value.code == "system_unknown"
    assert platforms.device_name("tsp0", "tun", "linux") == "tsp0" and platforms.device_name("tsp0", "tun", "freebsd14") == "tun40"
    numbers = tunnel_plan(lease("v6v4"))
    assert platforms.make_plan(numbers, LinkConfig(), "tsp0", "tsp", "sit", kernel, "openbsd7").device == "gif40"
    assert platforms.make_plan(numbers, LinkConfig(), "tsp0", "tsp", "sit", kernel, "linux").device == "tsp0"
    with pytest.raises(LocalError) as caught:
        platforms.make_plan(tunnel_plan(lease("v6udpv4")), LinkConfig(), "tsp0", "tsp", "fou", kernel, "freebsd14")
    assert caught.value.code == "no_fou"
