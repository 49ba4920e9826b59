# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One contract for everything that carries packets: none, userspace (in a namespace of its own), kernel (over a fake netlink)."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import config
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends import choose as choose_module
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends import kernel, userspace
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.none import NoDataPlane
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.port import EndTable
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker import _packets as make
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.test_switch import OWN, ROUTED, end

ALL = frozenset(("v6v4", "v6udpv4", "v4v6"))


class FakeNetlink:
    """A kernel with devices, addresses and routes, in memory. lacks: kinds of device it has not; fail: what it refuses."""

    lacks: frozenset[str] = frozenset()
    fail: str = ""
    world: dict[int, dict[str, Any]] = {}

    def __init__(self) -> None:
        if self.fail == "permission":
            raise LocalError("not_permitted", "The kernel refused opening netlink: not permitted.", "")
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def find(self, name: str) -> int | None:
        return next((index for index, device in self.world.items() if device["name"] == name), None)

    def devices(self, prefix: str) -> dict[str, int]:
        return {device["name"]: index for index, device in self.world.items() if device["name"].startswith(prefix)}

    def received(self, prefix: str) -> dict[str, int]:
        return {device["name"]: device["received"] for device in self.world.values() if device["name"].startswith(prefix)}

    def up(self, index: int, mtu: int) -> None:
        self.world[index].update(up=True, mtu=mtu)

    def add_address(self, index: int, address: Any) -> None:
        self.world[index]["addresses"].append(address)

    def add_route(self, index: int, network: Any) -> None:
        if self.fail == "route":
            raise LocalError("netlink_failed", f"The kernel refused the route to {network}: no.", "")
        self.world[index]["routes"].append(network)

    def add_tunnel(self, name: str, kind: str, local: Any, remote: Any) -> int:
        if kind in self.lacks:
            raise LocalError("netlink_failed", f"The kernel refused the {kind} tunnel: Operation not supported.", "")
        assert len(name) <= 15 and self.find(name) is None
        index = max(self.world, default=1) + 1
        self.world[index] = {"name": name, "kind": kind, "local": local, "remote": remote, "addresses": [], "routes": [], "received": 0}
        return index

    def remove(self, index: int) -> None:
        del self.world[index]


class FakeUplink:
    """Stands for the TUN device."""

    def __init__(self, netlink: FakeNetlink, name: str, mtu: int, own: Any, routed: Any) -> None:
        self.netlink, self.written = netlink, []
        self.index = max(netlink.world, default=1) + 1
        netlink.world[self.index] = {"name": name, "kind": "tun", "addresses": list(own), "routes": list(routed), "received": 0}

    def start(self, deliver: Any) -> None:
        self.deliver = deliver

    def write(self, packet: bytes) -> bool:
        self.written.append(packet)
        return True

    def close(self) -> None:
        self.netlink.world.pop(self.index, None)


class FakeRaw:
    """Stands for a raw socket."""

    def __init__(self, version: int, deliver: Any) -> None:
        self.version, self.deliver, self.sent, self.closed = version, deliver, [], False

    def start(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def send(self, packet: bytes, remote: str, local: str | None) -> bool:
        self.sent.append((packet, remote, local))
        return True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> type[FakeNetlink]:
    made = type("Netlink", (FakeNetlink,), {"world": {}})
    for module in (kernel, userspace):
        monkeypatch.setattr(module, "Netlink", made)
    monkeypatch.setattr(userspace, "Uplink", FakeUplink)
    monkeypatch.setattr(userspace, "RawSocket", FakeRaw)
    return made


def plane_of(name: str, table: EndTable, sent: list[Any]) -> Any:
    def send_udp(packet: bytes, peer: tuple[str, int], local: str | None) -> bool:
        sent.append((packet, peer, local))
        return True

    if name == "none":
        return NoDataPlane(table, OWN, ROUTED, send_udp)
    cls = userspace.UserspaceDataPlane if name == "userspace" else kernel.KernelDataPlane
    return cls(table, OWN, ROUTED, send_udp, "tsp0", 1280, ALL)


@pytest.mark.parametrize("name", ["none", "userspace", "kernel"])
def test_every_plane_keeps_the_contract(fakes: type[FakeNetlink], name: str) -> None:
    table, sent = EndTable(), []
    plane = plane_of(name, table, sent)
    assert plane.name == name and plane.modes == ALL and plane.watched <= ALL
    plane.start()
    ends = [end(1, "2001:db8:f::2"), end(2, "2001:db8:f::3", "2001:db8:8000::/56", "v6v4", "192.0.2.9"),
            end(3, "198.51.100.2", None, "v4v6", "2001:db8:ffff::3")]
    ends[2].local = "2001:db8:ffff::1"
    for one in ends:
        table.add(one)
        plane.open(one)
    peer = (ends[0].remote, ends[0].port)
    plane.from_udp(peer, make.ping6("2001:db8:f::2", "2001:db8:f::1"))
    assert [(p[40], to, local) for p, to, local in sent] == [(129, peer, "192.0.2.1")], "a keepalive over UDP is answered by every plane"
    plane.from_udp((ends[0].remote, 9), make.ping6("2001:db8:f::2", "2001:db8:f::1"))
    plane.from_udp(("192.0.2.9", 0), make.ping6("2001:db8:f::3", "2001:db8:f::1"))
    assert len(sent) == 1 and plane.counters["dropped_unknown_peer"] == 2, "only the exact endpoint of the session may send"
    plane.poll(5.0)
    for one in ends:
        plane.close(one)
        table.remove(one)
    plane.close(ends[0])
    plane.stop()
    plane.stop()
    assert not fakes.world, f"left behind: {fakes.world}"


def test_userspace_carries_every_mode(fakes: type[FakeNetlink]) -> None:
    table, sent = EndTable(), []
    plane = plane_of("userspace", table, sent)
    plane.start()
    six, four = end(2, "2001:db8:f::3", None, "v6v4", "192.0.2.9"), end(3, "198.51.100.2", None, "v4v6", "2001:db8:ffff::3")
    table.add(six)
    table.add(four)
    plane._raw["v6v4"].deliver("192.0.2.9", make.ping6("2001:db8:f::3", "2001:db8:f::1"))
    plane._raw["v4v6"].deliver("2001:db8:ffff::3", make.ping4("198.51.100.2", "198.51.100.1"))
    assert [(p[40], to, local) for p, to, local in plane._raw["v6v4"].sent] == [(129, "192.0.2.9", "192.0.2.1")]
    assert plane._raw["v4v6"].sent[0][0][20] == 0
    plane._raw["v6v4"].deliver("192.0.2.99", make.ping6("2001:db8:f::3", "2001:db8:f::1"))
    assert plane.counters["dropped_unknown_peer"] == 1
    plane._uplink.deliver(make.udp6("2001:db8:1::1", "2001:db8:f::3"))
    assert len(plane._raw["v6v4"].sent) == 2
    device, = fakes.world.values()
    assert device["addresses"] == list(OWN) and device["routes"] == list(ROUTED)
    plane.stop()


def test_an_unknown_raw_peer_is_offered_to_wake_its_lease(fakes: type[FakeNetlink]) -> None:
    table = EndTable()
    plane = plane_of("userspace", table, [])
    plane.start()
    asked = []

    def wake(mode: str, remote: str, source: bytes) -> Any:
        asked.append((mode, remote, IPv6Address(source)))
        one = end(2, "2001:db8:f::3", None, "v6v4", remote)
        table.add(one)
        return one

    plane.wake = wake
    plane._raw["v6v4"].deliver("192.0.2.9", make.ping6("2001:db8:f::3", "2001:db8:f::1"))
    assert asked == [("v6v4", "192.0.2.9", IPv6Address("2001:db8:f::3"))] and len(plane._raw["v6v4"].sent) == 1
    plane.stop()


def test_kernel_makes_one_device_per_client_with_its_routes(fakes: type[FakeNetlink]) -> None:
    table = EndTable()
    plane = plane_of("kernel", table, [])
    plane.start()
    six = end(40000, "2001:db8:f::3", "2001:db8:8000::/56", "v6v4", "192.0.2.9")
    four = end(2, "198.51.100.2", "203.0.113.0/29", "v4v6", "2001:db8:ffff::3")
    four.local = "2001:db8:ffff::1"
    for one in (six, four):
        table.add(one)
        plane.open(one)
    sit, tnl = (next(d for d in fakes.world.values() if d["kind"] == kind) for kind in ("sit", "ip6tnl"))
    assert (sit["local"], sit["remote"]) == (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.9")) and sit["up"] and sit["mtu"] == 1280
    assert sit["routes"] == [IPv6Network("2001:db8:f::3/128"), IPv6Network("2001:db8:8000::/56")] and sit["name"] == "tspbuv4"
    assert tnl["routes"] == [IPv4Network("198.51.100.2/32"), IPv4Network("203.0.113.0/29")]
    sit["received"] = 5
    plane.poll(77.0)
    assert six.last_seen == 77.0 and four.last_seen == 0.0
    plane.poll(99.0)
    assert six.last_seen == 77.0, "a counter that stands still is silence"
    plane.stop()
    assert not fakes.world


def test_what_a_killed_broker_left_is_removed_at_the_next_start(fakes: type[FakeNetlink]) -> None:
    fakes.world[7] = {"name": "tspb12", "kind": "sit", "received": 0}
    fakes.world[8] = {"name": "eth0", "kind": "", "received": 0}
    plane = plane_of("kernel", EndTable(), [])
    plane.start()
    assert sorted(d["name"] for d in fakes.world.values()) == ["eth0", "tsp0"]
    plane.stop()


def test_a_tunnel_that_cannot_be_finished_leaves_no_device(fakes: type[FakeNetlink], monkeypatch: pytest.MonkeyPatch) -> None:
    plane = plane_of("kernel", EndTable(), [])
    plane.start()
    monkeypatch.setattr(fakes, "fail", "route")
    with pytest.raises(LocalError) as caught:
        plane.open(end(2, "2001:db8:f::3", None, "v6v4", "192.0.2.9"))
    assert caught.value.code == "tunnel_failed"
    assert [d["name"] for d in fakes.world.values()] == ["tsp0"]
    plane.stop()


def chosen(kind: str, modes: tuple[str, ...] = ("v6v4", "v6udpv4")) -> tuple[Any, str, bool]:
    made = config.from_data({"name": "b.example", "modes": list(modes), "data_plane": kind,
                             "pools": {"ipv6": "2001:db8:f::/64", "ipv4": "198.51.100.0/24"}})
    return choose_module.choose(made, EndTable(), lambda *_args: True)


@pytest.mark.parametrize(("lacks", "fail", "modes", "name", "words", "lesser"), [
    ((), "", ("v6v4", "v6udpv4"), "kernel", "the kernel has the tunnels", False),
    (("sit",), "", ("v6v4", "v6udpv4"), "userspace", "this kernel has no sit device", False),
    (("ip6tnl",), "", ("v6v4", "v4v6"), "userspace", "this kernel has no ip6tnl device", False),
    (("ip6tnl",), "", ("v6v4",), "kernel", "the kernel has", False),
    (("sit",), "", ("v6udpv4",), "userspace", "v6udpv4 needs no kernel tunnels", False),
    ((), "permission", ("v6v4",), "none", "not permitted", True),
])
def test_auto_takes_the_best_there_is_and_says_why(
        fakes: type[FakeNetlink], monkeypatch: pytest.MonkeyPatch, lacks: tuple[str, ...], fail: str, modes: tuple[str, ...], name: str,
        words: str, lesser: bool) -> None:
    monkeypatch.setattr(fakes, "lacks", frozenset(lacks))
    monkeypatch.setattr(fakes, "fail", fail)
    plane, why, less = chosen("auto", modes)
    assert (plane.name, less) == (name, lesser) and words in why
    plane.stop()
    assert not fakes.world


def test_what_is_asked_for_by_name_is_had_or_refused(fakes: type[FakeNetlink], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "lacks", frozenset(("sit",)))
    with pytest.raises(LocalError) as caught:
        chosen("kernel")
    assert caught.value.code == "no_kernel_tunnels" and "modprobe sit" in caught.value.hint
    monkeypatch.setattr(fakes, "fail", "permission")
    with pytest.raises(LocalError) as caught:
        chosen("userspace")
    assert caught.value.code == "not_permitted"
    assert chosen("none")[0].name == "none"


@pytest.mark.root
def test_the_real_netlink_and_tun_in_a_namespace() -> None:
    """Addresses and routes as the kernel shows them; everything gone after stop."""
    script = Path(__file__).with_name("_namespace_plane.py")
    done = subprocess.run(["unshare", "--net", sys.executable, str(script)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checked" in done.stdout
