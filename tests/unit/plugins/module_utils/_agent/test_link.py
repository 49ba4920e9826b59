# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The link plan against a kernel in memory: nothing is added twice, nothing of others is touched, everything is undone."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.link import Link
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.linkplan import FORWARDING, KINDS, LinkPlan, make_plan, own_table
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import LinkConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import Completed
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plan import tunnel_plan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease


def lease(mode: str = "v6udpv4", prefix: str | None = "2001:db8:8000::/56", **client: Any) -> Lease:
    v4v6 = mode == "v4v6"
    if v4v6 and prefix:
        prefix = "203.0.113.0/28"
    return Lease.from_dict({
        "schema": 1, "broker": "broker.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "anonymous",
        "username": None, "mode": mode, "client": {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::2", "udp_port": 4000, **client},
        "server": {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f::1", "udp_port": 3653}, "prefix": prefix, "dns_servers": [],
        "keepalive": {"interval": 30, "address": None}, "lifetime": 3600,
        "obtained_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "request": {"mode": mode, "host_type": "router" if prefix else "host"}})


def plan_for(value: Lease, kind: str | None = None, force: bool = False, **link: Any) -> LinkPlan:
    config = LinkConfig(**link)
    numbers = tunnel_plan(value, lan_interfaces=list(config.lan_interfaces))
    return make_plan(numbers, config, "tsp0", "tsp", kind=kind, force_forwarding=force)


class FakeKernel:
    """Enough of `ip` and /proc/sys to tell right from wrong order: what is added twice or deleted twice fails as it does there."""

    def __init__(self) -> None:
        self.links: dict[str, dict[str, Any]] = {"lo": {"mtu": 65536}, "eth0": {"mtu": 1500}, "eth1": {"mtu": 1500}}
        self.addresses: set[tuple[str, str]] = {("eth0", "10.0.0.2/24")}
        self.routes: list[dict[str, Any]] = [{"dst": "default", "dev": "eth0", "metric": 0, "family": "-4"},
                                             {"dst": "default", "dev": "eth0", "metric": 1024, "protocol": "ra", "family": "-6"}]
        self.sysctls = {FORWARDING[6]: "0", FORWARDING[4]: "0", "net/ipv6/conf/eth0/accept_ra": "1",
                        "net/ipv4/conf/eth1/forwarding": "0", "net/ipv4/conf/tsp0/forwarding": "0",
                        "net/ipv6/conf/eth1/force_forwarding": "0", "net/ipv6/conf/tsp0/force_forwarding": "0"}
        self.rules: list[dict[str, Any]] = []
        self.ports: list[dict[str, Any]] = []
        self.ran: list[str] = []
        self.refuse = ""

    def get_sysctl(self, name: str) -> str | None:
        return self.sysctls.get(name)

    def set_sysctl(self, name: str, value: str) -> None:
        self.ran.append(f"sysctl {name} {value}")
        self.sysctls[name] = value
        if name in FORWARDING.values():  # as in the kernel: all at once, whatever they were
            version = name.split("/")[1]
            self.sysctls.update({key: value for key in self.sysctls
                                 if key.startswith(f"net/{version}/conf/") and key.endswith("/forwarding")})

    def tun(self, name: str) -> None:
        self.links[name] = {"mtu": 1500}

    def remove(self, name: str) -> None:
        self.links.pop(name, None)
        self.addresses = {(device, cidr) for device, cidr in self.addresses if device != name}
        self.routes = [route for route in self.routes if route.get("dev") != name]

    def picture(self) -> Any:
        settings = {name: value for name, value in self.sysctls.items() if "/tsp0/" not in name}
        return copy.deepcopy((self.links, sorted(self.addresses), sorted(self.routes, key=str), settings, self.rules, self.ports))

    def run(self, argv: Sequence[str]) -> Completed:
        words = list(argv)
        if "-j" in words:
            return Completed(tuple(argv), 0, json.dumps(self._show(words)))
        self.ran.append(" ".join(words))
        if self.refuse and self.refuse in self.ran[-1]:
            return Completed(tuple(argv), 2, "", "RTNETLINK answers: Operation not permitted")
        try:
            return Completed(tuple(argv), 0, self._change(words[1:]) or "")
        except KeyError as exc:
            return Completed(tuple(argv), 2, "", f"RTNETLINK answers: {exc.args[0]}")

    def _show(self, words: list[str]) -> list[dict[str, Any]]:
        if "addr" in words:
            return [{"ifname": name, "mtu": link["mtu"], "flags": ["UP"] if link.get("up") else [],
                     **({"ifalias": link["alias"]} if "alias" in link else {}),
                     **({"linkinfo": {"info_data": link["ends"]}} if "ends" in link else {}),
                     "addr_info": [{"local": cidr.split("/")[0], "prefixlen": int(cidr.split("/")[1])}
                                   for device, cidr in sorted(self.addresses) if device == name]} for name, link in self.links.items()]
        if "fou" in words:
            return self.ports
        if "rule" in words:
            return self.rules
        family = "-6" if "-6" in words else "-4"
        table = words[words.index("table") + 1] if "table" in words else "main"
        return [{key: value for key, value in route.items() if key not in ("family", "table")} for route in self.routes
                if route["family"] == family and ("default" not in words or route["dst"] == "default")
                and route.get("table", "main") == table]

    def _change(self, words: list[str]) -> None:
        family = words.pop(0) if words[0] in ("-4", "-6") else "-4"
        what, verb, rest = words[0], words[1], words[2:]
        named = dict(zip(rest, rest[1:]))
        if what == "tunnel":
            if rest[0] in self.links:
                raise KeyError("File exists")
            self.links[rest[0]] = {"mtu": 1480, "ends": {"local": named["local"], "remote": named["remote"]}}
        elif what == "link" and named.get("type") == "sit":
            if verb == "add" and named["name"] in self.links:
                raise KeyError("File exists")
            link = self.links.setdefault(named["name"], {"mtu": 1480}) if verb == "add" else self.links[named["dev"]]
            link["ends"] = {"local": named["local"], "remote": named["remote"]}
            if named["encap"] == "fou":
                link["ends"]["encap"] = {"type": "fou", "sport": int(named["encap-sport"]), "dport": int(named["encap-dport"])}
        elif what == "fou":
            port = {"port": int(named["port"]), "local": named["local"], "peer": named["peer"], "peer_port": int(named["peer_port"])}
            if verb == "add" and port in self.ports or verb == "del" and port not in self.ports:
                raise KeyError("Address already in use" if verb == "add" else "Invalid argument")
            (self.ports.append if verb == "add" else self.ports.remove)(port)
        elif what == "rule":
            source = ip_network(named["from"])
            rule = {"priority": int(named["priority"]), "src": str(source.network_address), "srclen": source.prefixlen,
                    "table": named["lookup"]}
            if verb == "add" and rule in self.rules or verb == "del" and rule not in self.rules:
                raise KeyError("File exists" if verb == "add" else "No such file or directory")
            (self.rules.append if verb == "add" else self.rules.remove)(rule)
        elif what == "link" and verb == "del":
            if named["dev"] not in self.links:
                raise KeyError("Cannot find device")
            self.remove(named["dev"])
        elif what == "link":
            link = self.links[named["dev"]]
            link.update({"mtu": int(named["mtu"])} if "mtu" in named else {"alias": named["alias"]} if "alias" in named else {"up": True})
        elif what == "addr":
            key = (named["dev"], rest[0])
            if named["dev"] not in self.links or (verb == "add") == (key in self.addresses):
                raise KeyError("File exists" if verb == "add" else "Cannot assign requested address")
            (self.addresses.add if verb == "add" else self.addresses.remove)(key)
        elif what == "route":
            kind = "unreachable" if rest[0] == "unreachable" else "unicast"
            where = rest[1] if kind == "unreachable" else rest[0]
            destination = str(ip_network("::/0" if where == "default" else where))
            route = {"dst": destination.removesuffix("/128"), "dev": named.get("dev", "lo"), "metric": int(named.get("metric", 0)),
                     "family": family, **({"type": "unreachable"} if kind == "unreachable" else {}),
                     **{key: named[word] for word, key in (("from", "from"), ("table", "table"), ("via", "gateway"), ("proto", "protocol"))
                        if word in named}}
            if destination in ("::/0", "0.0.0.0/0"):
                route["dst"] = "default"
            rivals = [other for other in self.routes if family == "-6" and verb == "add"
                      and all(other.get(key) == route.get(key) for key in ("dst", "metric", "family", "from", "table"))]
            if rivals or verb == "add" and route in self.routes or verb == "del" and route not in self.routes:
                raise KeyError("File exists" if verb == "add" else "No such process")
            (self.routes.append if verb == "add" else self.routes.remove)(route)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def link(kernel: FakeKernel, tmp_path: Path) -> Link:
    return Link(kernel, str(tmp_path / "undo.json"))


MODES = ["v6udpv4", "v6v4", "v4v6"]


@pytest.mark.parametrize("mode", MODES)
def test_made_once_kept_and_undone(kernel: FakeKernel, link: Link, mode: str, tmp_path: Path) -> None:
    before = kernel.picture()
    if mode == "v6udpv4":
        kernel.tun("tsp0")
    plan = plan_for(lease(mode), lan_interfaces=("eth1",))
    assert link.apply(plan)
    assert {step.key for step in plan.steps if not step.key.startswith("sysctl")} <= link.state()
    assert kernel.links["tsp0"]["alias"] == "tunnelbroker.tsp:tsp" and kernel.links["tsp0"]["up"]
    assert kernel.sysctls["net/ipv4/conf/eth1/forwarding" if mode == "v4v6" else FORWARDING[6]] == "1"
    kernel.ran.clear()
    assert link.apply(plan) == [] and kernel.ran == [], "a second time nothing is touched"
    assert not [line for line in link.remove() if line.startswith("failed")]
    kernel.remove("tsp0")
    assert kernel.picture() == before
    assert not (tmp_path / "undo.json").exists()


def test_the_native_default_route_stays_and_wins(kernel: FakeKernel, link: Link) -> None:
    kernel.tun("tsp0")
    link.apply(plan_for(lease(), lan_interfaces=("eth1",)))
    defaults = {route["dev"]: route["metric"] for route in kernel.routes if route["dst"] == "default" and route["family"] == "-6"}
    assert defaults == {"eth0": 1024, "tsp0": 2048}
    assert kernel.sysctls["net/ipv6/conf/eth0/accept_ra"] == "2", "forwarding would have switched router advertisements off"
    assert kernel.ran.index("sysctl net/ipv6/conf/eth0/accept_ra 2") < kernel.ran.index(f"sysctl {FORWARDING[6]} 1")
    link.remove()
    assert kernel.sysctls["net/ipv6/conf/eth0/accept_ra"] == "1" and kernel.sysctls[FORWARDING[6]] == "0"


def test_no_default_route_when_none_is_wanted(kernel: FakeKernel, link: Link) -> None:
    kernel.tun("tsp0")
    link.apply(plan_for(lease(), default_route="none"))
    assert not [r for r in kernel.routes if r["dev"] == "tsp0" and r["dst"] == "default"]
    assert [r for r in kernel.routes if r["dev"] == "tsp0" and r["dst"] == "2001:db8:f::1"], "the broker's end is reached all the same"


def test_what_was_there_before_stays(kernel: FakeKernel, link: Link) -> None:
    """An address and a setting that are as we want them, but not by us, are not ours to take away."""
    kernel.addresses.add(("eth1", "2001:db8:8000::1/64"))
    kernel.sysctls[FORWARDING[6]] = "1"
    before = kernel.picture()
    kernel.tun("tsp0")
    link.apply(plan_for(lease(), lan_interfaces=("eth1",)))
    link.remove()
    kernel.remove("tsp0")
    assert kernel.picture() == before


def test_another_grant_replaces_what_differs(kernel: FakeKernel, link: Link) -> None:
    kernel.tun("tsp0")
    link.apply(plan_for(lease(), lan_interfaces=("eth1",)))
    kernel.ran.clear()
    link.apply(plan_for(lease(prefix="2001:db8:9000::/56", ipv6="2001:db8:f::3"), lan_interfaces=("eth1",)))
    assert ("eth1", "2001:db8:9000::1/64") in kernel.addresses and ("eth1", "2001:db8:8000::1/64") not in kernel.addresses
    assert {cidr for device, cidr in kernel.addresses if device == "tsp0"} == {"2001:db8:f::3/128"}
    assert not [line for line in kernel.ran if "default" in line or "::/0" in line or "sysctl" in line], "what is the same is left alone"


def test_a_killed_agent_is_cleaned_up_after(kernel: FakeKernel, tmp_path: Path) -> None:
    before = kernel.picture()
    kernel.tun("tsp0")
    undo = str(tmp_path / "undo.json")
    Link(kernel, undo).apply(plan_for(lease(), lan_interfaces=("eth1",)))
    kernel.remove("tsp0")  # a TUN device goes with its process
    assert kernel.picture() != before
    assert Link(kernel, undo).recover("tsp0", "tsp") is True
    assert kernel.picture() == before
    assert Link(kernel, undo).recover("tsp0", "tsp") is False


def test_a_leftover_kernel_tunnel_is_replaced_and_a_foreign_device_refused(kernel: FakeKernel, link: Link, tmp_path: Path) -> None:
    Link(kernel, str(tmp_path / "other.json")).apply(plan_for(lease("v6v4")))
    assert link.recover("tsp0", "tsp") is True and "tsp0" not in kernel.links
    kernel.tun("tsp0")
    with pytest.raises(LocalError) as caught:
        link.recover("tsp0", "tsp")
    assert caught.value.code == "device_taken" and "tsp0" in kernel.links
    kernel.links["tsp0"]["alias"] = "tunnelbroker.tsp:other"
    with pytest.raises(LocalError):
        link.recover("tsp0", "tsp")


@pytest.mark.parametrize("refuse", ["addr add 2001:db8:8000::1/64", "route add unreachable", "route add ::/0", "addr add 2001:db8:f::2"])
def test_a_step_that_is_refused_undoes_those_before(kernel: FakeKernel, link: Link, refuse: str) -> None:
    before = kernel.picture()
    kernel.tun("tsp0")
    kernel.refuse = refuse
    with pytest.raises(ApplyError) as caught:
        link.apply(plan_for(lease(), lan_interfaces=("eth1",)))
    assert caught.value.code == "link_failed" and "Operation not permitted" in caught.value.message and refuse in caught.value.message
    kernel.remove("tsp0")
    assert kernel.picture() == before


def test_a_missing_lan_interface_is_named(kernel: FakeKernel, link: Link) -> None:
    kernel.tun("tsp0")
    with pytest.raises(ApplyError) as caught:
        link.apply(plan_for(lease(), lan_interfaces=("eth9",)))
    assert "eth9" in caught.value.message


def test_the_commands_of_each_mode() -> None:
    v6v4 = [" ".join(step.do) for step in plan_for(lease("v6v4", None)).steps]
    assert v6v4 == [
        "ip link add name tsp0 type sit mode ip6ip local 192.0.2.20 remote 192.0.2.1 ttl 64 encap none",
        "ip link set dev tsp0 alias tunnelbroker.tsp:tsp",
        "ip link set dev tsp0 mtu 1480",
        "ip link set dev tsp0 up",
        "ip -6 addr add 2001:db8:f::2/128 dev tsp0 nodad",
        "ip -6 route add 2001:db8:f::1/128 dev tsp0 metric 64",
        "ip -6 route add ::/0 dev tsp0 metric 2048"]
    v4v6 = [" ".join(step.do) for step in plan_for(lease("v4v6", None)).steps]
    assert v4v6[0] == "ip -6 tunnel add tsp0 mode ipip6 local 2001:db8:f::2 remote 2001:db8:f::1 encaplimit none"
    assert v4v6[-1] == "ip -4 route add 0.0.0.0/0 dev tsp0 metric 2048" and "ip -4 addr add 192.0.2.20/32 dev tsp0" in v4v6
    assert plan_for(lease("v6udpv4", None)).kind == "tun"


FOU_ENDS = "type sit mode ip6ip local 192.0.2.20 remote 192.0.2.1 ttl 64 encap fou encap-sport {} encap-dport 3653 encap-csum"


def test_sit_over_udp_takes_the_port_last_and_gives_it_back_first(kernel: FakeKernel, link: Link) -> None:
    before = kernel.picture()
    let_go: list[int] = []
    plan = plan_for(lease(), "fou", lan_interfaces=("eth1",))
    assert plan.kind == "fou" and "fou" in KINDS["v6udpv4"]
    link.apply(plan, lambda: let_go.append(len(kernel.ran)))
    made = [line for line in kernel.ran if line.startswith(("ip link add", "ip fou"))]
    assert made == [f"ip link add name tsp0 {FOU_ENDS.format(4000)}",
                    "ip fou add port 4000 local 192.0.2.20 peer 192.0.2.1 peer_port 3653 ipproto 41"]
    assert let_go == [kernel.ran.index(made[1])], "the socket is closed right before, no earlier"
    kernel.ran.clear()
    assert link.apply(plan) == []
    link.free_port()
    assert kernel.ran == ["ip fou del port 4000 local 192.0.2.20 peer 192.0.2.1 peer_port 3653"] and "tsp0" in kernel.links
    assert [line for line in link.apply(plan) if "fou add" in line], "and again, when the broker has been asked"
    assert not [line for line in link.remove() if line.startswith("failed")]
    assert kernel.picture() == before


def test_another_port_or_broker_is_given_to_the_device_in_use(kernel: FakeKernel, link: Link, tmp_path: Path) -> None:
    """Addresses and routes stay, so connections do."""
    before = kernel.picture()
    link.apply(plan_for(lease(), "fou"))
    kernel.ran.clear()
    link.apply(plan_for(lease(udp_port=4001), "fou"))
    assert kernel.ran == ["ip fou del port 4000 local 192.0.2.20 peer 192.0.2.1 peer_port 3653",
                          f"ip link set dev tsp0 {FOU_ENDS.format(4001)}",
                          "ip fou add port 4001 local 192.0.2.20 peer 192.0.2.1 peer_port 3653 ipproto 41"]
    assert plan_for(lease(), "fou").device_key == plan_for(lease("v6v4")).device_key != plan_for(lease()).device_key
    Link(kernel, str(tmp_path / "undo.json")).recover("tsp0", "tsp")
    assert kernel.picture() == before, "what a killed agent left is known under its new name too"


@pytest.mark.parametrize("refuse", ["link add name", "fou add"])
def test_a_kernel_that_refuses_the_device_is_told_apart(kernel: FakeKernel, link: Link, refuse: str) -> None:
    before = kernel.picture()
    kernel.refuse = refuse
    with pytest.raises(ApplyError) as caught:
        link.apply(plan_for(lease(), "fou", lan_interfaces=("eth1",)))
    assert caught.value.code == "tunnel_refused" and refuse in caught.value.message and "module" in caught.value.hint
    assert kernel.picture() == before


def test_a_default_route_for_our_own_addresses_only(kernel: FakeKernel, link: Link) -> None:
    before = kernel.picture()
    kernel.tun("tsp0")
    plan = plan_for(lease(), default_route="source", lan_interfaces=("eth1",))
    link.apply(plan)
    ours = {(route.get("from"), route["metric"]) for route in kernel.routes if route["dst"] == "default" and route["dev"] == "tsp0"}
    assert ours == {("2001:db8:f::2/128", 2048), ("2001:db8:8000::/56", 2048)}
    assert link.apply(plan) == []
    link.remove()
    kernel.remove("tsp0")
    assert kernel.picture() == before


def test_by_source_ipv4_has_a_table_of_its_own(kernel: FakeKernel, link: Link) -> None:
    before = kernel.picture()
    plan = plan_for(lease("v4v6"), default_route="source", lan_interfaces=("eth1",))
    link.apply(plan)
    table = str(own_table("tsp0"))
    assert {(rule["priority"], f"{rule['src']}/{rule['srclen']}", rule["table"]) for rule in kernel.rules} == {
        (4652, "192.0.2.20/32", "main"), (4653, "192.0.2.20/32", table),
        (4652, "203.0.113.0/28", "main"), (4653, "203.0.113.0/28", table)}
    assert [line for line in kernel.ran if "suppress_prefixlength 0" in line], "the LAN next door is not reached through the tunnel"
    assert [route for route in kernel.routes if route.get("table") == table and route["dst"] == "default"]
    assert link.apply(plan) == []
    link.remove()
    assert kernel.picture() == before


def test_two_tunnels_of_one_broker_stand_beside_each_other(kernel: FakeKernel, link: Link, tmp_path: Path) -> None:
    """They lead to the same end, and both want a default route of the same metric: a kernel has but one of each."""
    before = kernel.picture()
    kernel.tun("tsp0")
    link.apply(plan_for(lease(prefix=None)))
    alone = kernel.picture()
    other = Link(kernel, str(tmp_path / "other.json"))
    second = lease(prefix=None, ipv6="2001:db8:f::3")
    plan = make_plan(tunnel_plan(second), LinkConfig(), "tsp1", "second")
    kernel.tun("tsp1")
    other.apply(plan)
    assert other.apply(plan) == [], "what is there is found again"
    found = {(route["dst"], route["metric"]) for route in kernel.routes if route["dev"] == "tsp1"}
    assert found == {("2001:db8:f::1", 65), ("default", 2049)}
    link.remove()
    kernel.remove("tsp0")
    other.apply(plan)
    found = {(route["dst"], route["metric"]) for route in kernel.routes if route["dev"] == "tsp1"}
    assert found == {("2001:db8:f::1", 64), ("default", 2048)}
    kernel.tun("tsp0")
    link.apply(plan_for(lease(prefix=None)))
    other.remove()
    kernel.remove("tsp1")
    link.apply(plan_for(lease(prefix=None)))
    assert kernel.picture() == alone
    link.remove()
    kernel.remove("tsp0")
    assert kernel.picture() == before


def test_a_native_route_of_the_same_metric_gets_its_place_back(kernel: FakeKernel, link: Link) -> None:
    kernel.routes[1].update(metric=1, gateway="fe80::1")
    before = kernel.picture()
    kernel.tun("tsp0")
    link.apply(plan_for(lease(), default_route="replace"))
    assert [route["dev"] for route in kernel.routes if route["dst"] == "default" and route["family"] == "-6"] == ["tsp0"]
    assert not [line for line in link.remove() if line.startswith("failed")]
    kernel.remove("tsp0")
    assert kernel.picture() == before


@pytest.mark.parametrize("mode", ["v6udpv4", "v4v6"])
def test_a_default_route_that_wins_and_the_native_one_afterwards(kernel: FakeKernel, link: Link, mode: str, tmp_path: Path) -> None:
    for route in kernel.routes:
        route["gateway"] = "fe80::1" if route["family"] == "-6" else "10.0.0.1"
    before = kernel.picture()
    if mode == "v6udpv4":
        kernel.tun("tsp0")
    plan = plan_for(lease(mode), default_route="replace")
    link.apply(plan)
    family = "-6" if mode == "v6udpv4" else "-4"
    defaults = {route["dev"]: route["metric"] for route in kernel.routes if route["dst"] == "default" and route["family"] == family}
    assert defaults == ({"eth0": 1024, "tsp0": 1} if family == "-6" else {"tsp0": 1}), "only what would win had to go"
    assert link.apply(plan) == []
    if mode == "v6udpv4":
        kernel.remove("tsp0")
    Link(kernel, str(tmp_path / "undo.json")).recover("tsp0", "tsp")
    assert kernel.picture() == before


def test_a_kernel_that_can_forwards_for_the_lan_and_the_tunnel_alone(kernel: FakeKernel, link: Link) -> None:
    kernel.tun("tsp0")
    before = kernel.picture()
    link.apply(plan_for(lease(), force=True, lan_interfaces=("eth1",)))
    assert kernel.sysctls["net/ipv6/conf/eth1/force_forwarding"] == kernel.sysctls["net/ipv6/conf/tsp0/force_forwarding"] == "1"
    assert kernel.sysctls[FORWARDING[6]] == "0" and kernel.sysctls["net/ipv6/conf/eth0/accept_ra"] == "1"
    link.remove()
    assert kernel.picture()[3] == before[3]
    link.apply(plan_for(lease(), force=True, forwarding=True))
    assert kernel.sysctls[FORWARDING[6]] == "1", "without a LAN, who knows where from"


def test_an_interface_that_forwarded_before_does_so_afterwards(kernel: FakeKernel, link: Link) -> None:
    kernel.sysctls.update({"net/ipv6/conf/eth0/forwarding": "0", "net/ipv6/conf/eth1/forwarding": "1"})
    before = kernel.picture()
    kernel.tun("tsp0")
    plan = plan_for(lease(), lan_interfaces=("eth1",))
    link.apply(plan)
    assert kernel.sysctls["net/ipv6/conf/eth0/forwarding"] == "1" and link.apply(plan) == []
    link.remove()
    kernel.remove("tsp0")
    assert kernel.picture() == before
