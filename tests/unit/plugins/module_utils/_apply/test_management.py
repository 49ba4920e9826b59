# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a plan touches the way by which its run came in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import memory
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.items import Item, address, link, route, rule, sysctl
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.management import Way, insist, rides, way
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import FileState
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner

NATIVE6 = Way("2001:db8:99::5", "2001:db8:1::10", "eth0", "::/0", 1024, "ra")
NATIVE4 = Way("198.51.100.5", "192.0.2.10", "eth0", "0.0.0.0/0", 0, "static")
LAN4 = Way("192.0.2.5", "192.0.2.10", "eth0", "192.0.2.0/24", 0, "kernel")
TUNNEL6 = Way("2001:db8:99::5", "2001:db8:f::2", "tsp0", "::/0", 2048, "static")


def tunnel(device: str = "tsp0") -> Item:
    return link(device, "sit", "192.0.2.10", "198.51.100.1", 1480)


@pytest.mark.parametrize(("path", "item", "cut"), [
    # A default route of ours beside the native one, or instead of it.
    (NATIVE6, route("::/0", "tsp0", 2048), False), (NATIVE6, route("::/0", "tsp0", 1), True), (NATIVE6, route("::/0", "tsp0", 1024), True),
    (NATIVE6, route("::/0", "tsp0", 2048, source="2001:db8:f::/48"), False),
    (NATIVE6, route("::/0", "tsp0", 2048, source="2001:db8:1::/48"), True),
    (NATIVE6, route("2001:db8:99::/48", "tsp0", 2048), True), (NATIVE6, route("2001:db8:98::/48", "tsp0", 1), False),
    (NATIVE6, route("2001:db8:99::/48", None, 1024, kind="unreachable"), True), (NATIVE6, route("::/0", "tsp0", 1, table=4653), False),
    (NATIVE4, route("0.0.0.0/0", "tsp0", 2048), False), (NATIVE4, route("0.0.0.0/0", "tsp0", 0), True),
    (NATIVE4, route("::/0", "tsp0", 1), False), (LAN4, route("0.0.0.0/0", "tsp0", 0), False),
    (NATIVE6, {**route("::/0", "eth0", 1024), "absent": True}, True), (NATIVE4, {**route("::/0", "eth0", 1024), "absent": True}, False),
    # The tunnel is the way.
    (TUNNEL6, tunnel(), True), (NATIVE6, tunnel(), False), (TUNNEL6, tunnel("tsp1"), False),
    # Rules and addresses.
    (NATIVE4, rule("192.0.2.0/24", 4653, 100), True), (NATIVE4, rule("192.0.2.0/24", "main", 100), False),
    (NATIVE4, rule("10.0.0.0/8", 4653, 100), False), (NATIVE6, rule("192.0.2.0/24", 4653, 100), False),
    (LAN4, address("eth1", "192.0.2.1/24"), True), (LAN4, address("eth1", "10.1.1.1/24"), False),
    (LAN4, address("eth0", "192.0.2.77/24"), False), (NATIVE6, address("eth1", "2001:db8:f:1::1/64"), False),
    # Variables.
    (NATIVE6, sysctl("net/ipv6/conf/all/forwarding", "1"), True), (TUNNEL6, sysctl("net/ipv6/conf/all/forwarding", "1"), False),
    (NATIVE6, sysctl("net/ipv6/conf/eth1/forwarding", "1"), False), (NATIVE4, sysctl("net/ipv6/conf/all/forwarding", "1"), False),
    (NATIVE6, sysctl("net/ipv6/conf/eth0/disable_ipv6", "1"), True), (NATIVE4, sysctl("net/ipv6/conf/eth0/disable_ipv6", "1"), False),
])
def test_what_is_made(path: Way, item: Item, cut: bool) -> None:
    assert bool(rides([item], [], path)) is cut


def test_a_host_that_keeps_listening_to_routers_keeps_its_way() -> None:
    forwarding, accept = sysctl("net/ipv6/conf/all/forwarding", "1"), sysctl("net/ipv6/conf/eth0/accept_ra", "2")
    assert rides([forwarding], [], NATIVE6) and not rides([accept, forwarding], [], NATIVE6)


@pytest.mark.parametrize(("path", "item", "cut"), [
    (TUNNEL6, tunnel(), True), (NATIVE6, tunnel(), False), (TUNNEL6, route("::/0", "tsp0", 2048), True),
    (NATIVE6, route("::/0", "tsp0", 2048), False), (TUNNEL6, address("tsp0", "2001:db8:f::2/128"), True),
    (LAN4, address("eth0", "192.0.2.10/24"), True), (LAN4, address("eth0", "192.0.2.11/24"), False),
    (NATIVE4, rule("192.0.2.0/24", 4653, 100), True), (TUNNEL6, sysctl("net/ipv6/conf/all/forwarding", "1"), False)])
def test_what_is_taken_away(path: Way, item: Item, cut: bool) -> None:
    assert bool(rides([], [item], path)) is cut


class Host(FakeRunner):
    """A host with an SSH session (sshd 10, sudo 20, python 30) and a route to it."""

    def __init__(self, session: bytes = b"2001:db8:99::5 50000 2001:db8:f::2 22", old_ip: bool = False) -> None:
        super().__init__()
        self.old_ip = old_ip
        self.devices = ["eth0", "tsp0"]
        self.variables: dict[str, str] = {}
        for pid, parent, environment in ((30, 20, b"PATH=/bin\0"), (20, 10, b""), (10, 1, b"A=b\0SSH_CONNECTION=" + session + b"\0")):
            self.files[f"/proc/{pid}/environ"] = FileState(environment, 0o400, 0, 0)
            self.files[f"/proc/{pid}/status"] = FileState(f"Name:\tx\nPPid:\t{parent}\n".encode(), 0o444, 0, 0)
        self.handlers["ip"] = self._ip

    def get_sysctl(self, name: str) -> str | None:
        return self.variables.get(name)

    def _ip(self, argv: Any) -> tuple[int, str, str]:
        if argv[2:4] == ("route", "get"):
            if "fibmatch" in argv and self.old_ip:
                return 255, "", "Error: inet6 prefix is expected rather than \"fibmatch\"."
            match = {"dst": "default", "metric": 2048, "protocol": "static"} if "fibmatch" in argv else {"dst": argv[-3]}
            return 0, json.dumps([{"dev": "tsp0", **match}]), ""
        if "addr" in argv:
            return 0, json.dumps([{"ifname": name, "flags": ["UP"], "mtu": 1480, "addr_info": []} for name in self.devices]), ""
        return 0, "[]", ""


def test_the_session_is_found_behind_sudo() -> None:
    assert way(Host(), 30) == TUNNEL6
    mapped = way(Host(b"::ffff:198.51.100.5 50000 ::ffff:192.0.2.10 22"), 30)
    assert mapped is not None and (mapped.peer, mapped.local, mapped.family) == ("198.51.100.5", "192.0.2.10", 4)


@pytest.mark.parametrize("session", [b"", b"1 2 3", b"a 1 b 2", b"fe80::1%eth0 50000 fe80::2%eth0 22", b"\xff 1 \xff 2"])
def test_no_session_no_way(session: bytes) -> None:
    assert way(Host(session), 30) is None


def test_an_old_iproute_makes_it_careful_and_a_missing_one_does_not_hurt() -> None:
    found = way(Host(old_ip=True), 30)
    assert found is not None and (found.device, found.destination, found.metric) == ("tsp0", "::/0", 1024)
    host = Host()
    del host.handlers["ip"]
    assert way(host, 30) is None


def test_a_change_of_the_way_is_refused_and_none_is_not() -> None:
    host = Host()
    wanted = link("tsp0", "sit", "192.0.2.10", "203.0.113.1", 1480)
    with pytest.raises(LocalError) as caught:
        insist("tsp", [wanted], True, host, "/var/lib/tsp-apply", 30)
    assert caught.value.code == "confirm_timeout_needed" and "2001:db8:99::5" in caught.value.message and "tsp0" in caught.value.message
    insist("tsp", [link("tsp1", "sit", "192.0.2.10", "203.0.113.1", 1480)], True, host, "/var/lib/tsp-apply", 30)
    insist("tsp", [wanted], True, FakeRunner(), "/var/lib/tsp-apply", 30)


def test_a_host_that_listens_already_may_begin_to_forward() -> None:
    host = Host()
    wanted = [sysctl("net/ipv6/conf/all/forwarding", "1"), sysctl("net/ipv6/conf/tsp0/accept_ra", "2")]
    host.variables = {"net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/tsp0/accept_ra": "2"}
    host.handlers["ip"] = lambda argv: (0, json.dumps([{"dev": "tsp0", "dst": "default", "metric": 1024, "protocol": "ra"}]), "")
    insist("tsp", wanted, True, host, "/var/lib/tsp-apply", 30)
    with pytest.raises(LocalError):
        insist("tsp", wanted[:1], True, host, "/var/lib/tsp-apply", 30)


def test_to_take_away_what_an_earlier_run_made_is_refused_too() -> None:
    host = Host()
    host.directories["/var/lib/tsp-apply"] = 0o700
    memory.store(host, "/var/lib/tsp-apply", "tsp", memory.Memory(devices=["tsp0"], items=[tunnel()]).to_dict())
    for items, present in (([], True), ([tunnel()], False)):
        with pytest.raises(LocalError) as caught:
            insist("tsp", items, present, host, "/var/lib/tsp-apply", 30)
        assert "without tunnel tsp0" in caught.value.message
    host.devices.remove("tsp0")  # it is gone already
    insist("tsp", [], True, host, "/var/lib/tsp-apply", 30)


def test_a_memory_that_cannot_be_read_is_left_to_the_transaction() -> None:
    host = Host()
    host.files[memory.path_of("/var/lib/tsp-apply", "tsp")] = FileState(b"{", 0o600, 0, 0)
    insist("tsp", [tunnel()], True, host, "/var/lib/tsp-apply", 30)
