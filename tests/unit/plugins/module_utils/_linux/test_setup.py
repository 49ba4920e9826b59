# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole set-up of hosts and routers as goldens, and what about it matters most said one by one."""

from __future__ import annotations

import json

import jinja2
import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import items
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.backend import Parts
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.picture import table_of
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.setup import linux_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import Plain, host, known, lease

PREFIX = {"v6v4": "2001:db8:a::/48", "v6udpv4": "2001:db8:a::/56", "v4v6": "203.0.113.64/26"}
COMMON = ("modules.conf.j2", "sysctl.conf.j2", "keepalive.service.j2")
CASES = [(kind, mode, route, backend) for mode in PREFIX for kind in ("host", "router") for route, backend in (
    ("metric", "networkd"), ("source", "networkd"), ("replace", "networkd"), ("none", "networkd"), ("metric", "agent"))]


def setup_of(mode="v6v4", prefix=None, made=None, backend="networkd", registry=None, **options):
    return linux_setup(lease(mode, prefix), made or host(), backend=backend, known=registry or known(), **options)


def render(repository, name, setup):
    folder = jinja2.FileSystemLoader(repository / "templates" / "linux")
    environment = jinja2.Environment(loader=folder, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(name).render(linux=setup)


@pytest.mark.parametrize(("kind", "mode", "route", "backend"), CASES, ids=["-".join(case) for case in CASES])
def test_golden(repository, golden, kind, mode, route, backend):
    router = kind == "router"
    lans = ["eth2"] if router else []
    setup = setup_of(mode, PREFIX[mode] if router else None, backend=backend, default_route=route, lan_interfaces=lans)
    told = {key: value for key, value in setup.items() if key not in ("numbers", "tools", "management")}
    files = "".join(f"\n--- {item['path']} ({item['mode']})\n{render(repository, item['template'], setup)}" for item in setup["files"]
                    if item["template"] in COMMON)
    golden(f"linux/setup/{kind}-{mode}-{route}-{backend}.txt", json.dumps(told, indent=1, sort_keys=True) + "\n" + files)


def test_it_is_plain_data_and_the_same_each_time():
    one, other = setup_of(prefix=PREFIX["v6v4"], lan_interfaces=["eth2"]), setup_of(prefix=PREFIX["v6v4"], lan_interfaces=["eth2"])
    assert json.loads(json.dumps(one)) == one == other


def test_items_come_in_the_order_in_which_one_needs_another():
    setup = setup_of(prefix=PREFIX["v6v4"], made=host("ifupdown"), backend="ifupdown", lan_interfaces=["eth2"])
    assert [items.describe(item) for item in setup["items"]] == [
        "tunnel tsp0 (sit) from 198.51.100.31 to 203.0.113.1",
        "address 2001:db8:f00::2/128 on tsp0",
        "route to 2001:db8:f00::1/128 through tsp0 with metric 64",
        "route to 2001:db8:a::/48 unreachable with metric 65535",
        "route to ::/0 through tsp0 with metric 2048",
        "address 2001:db8:a::1/64 on eth2",
        "net.ipv6.conf.tsp0.accept_ra = 0",
        "net.ipv6.conf.up0.accept_ra = 2",
        "net.ipv6.conf.all.forwarding = 1"]


def test_a_prefix_that_is_one_lan_needs_no_route_to_nowhere():
    assert not [item for item in setup_of(prefix="2001:db8:a::/64", lan_interfaces=["eth2"])["items"] if item.get("type") == "unreachable"]


def test_a_host_does_not_forward():
    assert forwards(setup_of()) == {} and not setup_of()["forwarding"]
    assert setup_of(forwarding="true")["forwarding"] and forwards(setup_of(forwarding=True))
    assert not forwards(setup_of(prefix=PREFIX["v6v4"], lan_interfaces=["eth2"], forwarding=False))


def forwards(setup):
    """The variables, without those of the tunnel's device that every tunnel has."""
    return {item["name"]: item["value"] for item in setup["sysctls"] if not item["name"].endswith(("tsp0/accept_ra", "tsp0/rp_filter"))}


def sysctls(made, mode="v6v4"):
    return forwards(setup_of(mode, PREFIX[mode], made, lan_interfaces=["eth2"]))


def test_the_tunnel_takes_no_router_advertisements_and_lets_answers_in():
    assert [(item["name"], item["value"]) for item in setup_of()["sysctls"]] == [("net/ipv6/conf/tsp0/accept_ra", "0")]
    assert [(item["name"], item["value"]) for item in setup_of("v4v6")["sysctls"]] == [("net/ipv4/conf/tsp0/rp_filter", "2")]


@pytest.mark.parametrize(("mode", "force", "needed"), [("v6v4", False, True), ("v6v4", True, False), ("v4v6", False, False)])
def test_only_forwarding_everywhere_may_silence_networkd(mode, force, needed):
    made = host()
    for entry in made["links"].values():
        entry["has_force_forwarding"] = force
    setup = setup_of(mode, PREFIX[mode], made, lan_interfaces=["eth2"])
    assert [(entry["device"], entry["needs_accept_ra"]) for entry in setup["ra_interfaces"]] == [("up0", needed)]


def test_a_router_keeps_its_default_route_of_router_advertisements():
    kernel, networkd = host("ifupdown"), host("networkd")
    assert sysctls_of(kernel, "ifupdown") == {"net/ipv6/conf/up0/accept_ra": "2", "net/ipv6/conf/all/forwarding": "1"}
    # networkd listens itself, and has told the kernel not to.
    networkd["links"]["up0"]["accept_ra"] = 0
    assert sysctls(networkd) == {"net/ipv6/conf/all/forwarding": "1"}
    setup = setup_of(prefix=PREFIX["v6v4"], made=networkd, lan_interfaces=["eth2"])
    assert [(entry["device"], entry["needs_accept_ra"], entry["network_file"]) for entry in setup["ra_interfaces"]] == [
        ("up0", True, "/etc/systemd/network/10-up0.network")]


def sysctls_of(made, backend):
    setup = setup_of(prefix=PREFIX["v6v4"], made=made, backend=backend, lan_interfaces=["eth2"])
    return forwards(setup)


def test_what_an_earlier_run_set_stays_while_the_advertised_route_is_away():
    made = host("ifupdown")
    made["default_routes"] = []
    made["links"]["up0"]["accept_ra"] = 2
    assert "net/ipv6/conf/up0/accept_ra" not in sysctls_of(made, "ifupdown")
    made["ours"] = {"tsp-linux-tsp": {"devices": [], "files": [], "addresses": [], "unfinished": False, "items": [
        items.sysctl("net/ipv6/conf/up0/accept_ra", "2")]}}
    assert sysctls_of(made, "ifupdown")["net/ipv6/conf/up0/accept_ra"] == "2"


def test_single_interfaces_forward_where_the_kernel_can():
    made = host()
    for entry in made["links"].values():
        entry["has_force_forwarding"] = True
    assert sysctls(made) == {"net/ipv6/conf/eth2/force_forwarding": "1", "net/ipv6/conf/tsp0/force_forwarding": "1"}
    assert sysctls(host(), "v4v6") == {"net/ipv4/conf/eth2/forwarding": "1", "net/ipv4/conf/tsp0/forwarding": "1"}


def defaults(setup):
    return [(item["destination"], item["device"], item["metric"], item["from"], item["table"], bool(item.get("absent")))
            for item in setup["items"] if item["kind"] == "route" and item["destination"] in ("::/0", "0.0.0.0/0")]


def native(made, family, metric, device="eth1", gateway="198.51.100.1"):
    made["default_routes"].append({"family": family, "device": device, "gateway": gateway, "metric": metric, "protocol": "static",
                                   "from": None})


def test_a_source_specific_default_route():
    six = setup_of(prefix=PREFIX["v6v4"], default_route="source")
    assert defaults(six) == [("::/0", "tsp0", 2048, source, "main", False) for source in ("2001:db8:f00::2/128", PREFIX["v6v4"])]
    four = setup_of("v4v6", PREFIX["v4v6"], default_route="source")
    table = table_of("tsp")
    assert defaults(four) == [("0.0.0.0/0", "tsp0", 2048, None, table, False)]
    assert [(rule["from"], rule["table"], rule["suppress_prefixlength"]) for rule in four["rules"]] == [
        ("192.0.2.2/32", "main", 0), ("192.0.2.2/32", table, None), (PREFIX["v4v6"], "main", 0), (PREFIX["v4v6"], table, None)]
    assert all(rule["priority"] < 32766 for rule in four["rules"]) and "no native default route" in " ".join(four["why"])


def test_replace_comes_before_every_native_route():
    assert defaults(setup_of(default_route="replace")) == [("::/0", "tsp0", 1, None, "main", False)]


def test_replace_takes_a_native_route_away_only_where_no_better_metric_is_left():
    made = host("ifupdown")
    native(made, 4, 0)
    setup = setup_of("v4v6", made=made, backend="auto", default_route="replace", registry=known())
    assert defaults(setup) == [("0.0.0.0/0", "eth1", 0, None, "main", True), ("0.0.0.0/0", "tsp0", 1, None, "main", False)]
    assert setup["backend"] == "script" and "cannot keep away" in " ".join(setup["why"])
    with pytest.raises(LocalError) as caught:
        setup_of("v4v6", made=made, backend="ifupdown", default_route="replace")
    assert caught.value.code == "backend_cannot"


def test_what_was_taken_away_stays_away_in_the_next_run():
    made = host("ifupdown")
    native(made, 4, 0)
    first = setup_of("v4v6", made=made, backend="auto", default_route="replace")
    made["default_routes"] = [{"family": 4, "device": "tsp0", "gateway": None, "metric": 1, "protocol": "static", "from": None}]
    made["links"]["tsp0"] = {**made["links"]["eth2"], "addresses": [], "alias": "tunnelbroker.tsp:tsp"}
    made["ours"] = {"tsp-linux-tsp": {"devices": ["tsp0"], "files": [], "addresses": [], "unfinished": False, "items": [
        item for item in first["items"] if item.get("absent")]}}
    assert setup_of("v4v6", made=made, backend="auto", default_route="replace")["items"] == first["items"]


def test_a_native_route_with_a_worse_metric_is_told():
    made = host()
    native(made, 6, 20100, gateway="fe80::1")
    assert any("metric 20100: with 2048 the tunnel's wins" in said for said in setup_of(made=made)["why"])


def test_our_own_default_route_is_not_a_native_one():
    made = host()
    native(made, 6, 4000, device="tsp0")
    made["links"]["tsp0"] = {**made["links"]["eth2"], "addresses": [], "alias": "tunnelbroker.tsp:tsp"}
    assert not any("4000" in said for said in setup_of(made=made)["why"])


def test_a_tunnel_over_udp_is_kept_awake_where_no_agent_does():
    setup = setup_of("v6udpv4")
    assert setup["link"]["encap"] == {"type": "fou", "sport": 40000, "dport": 3653} and setup["modules"] == ["fou", "sit"]
    assert setup["keepalive"] == {"interval": 30, "address": "2001:db8:f00::1"}
    assert [service["name"] for service in setup["services"]] == ["tsp-keepalive-tsp.service"]
    assert setup_of("v6udpv4", keepalive_interval=20)["keepalive"]["interval"] == 20
    assert setup_of("v6udpv4", keepalive_interval=60)["keepalive"]["interval"] == 30
    assert setup_of("v6udpv4", backend="agent")["keepalive"] is None and setup_of()["keepalive"] is None


@pytest.mark.parametrize(("change", "code"), [("ping", "no_ping"), ("systemd", "no_keepalive")])
def test_a_tunnel_over_udp_that_nobody_could_keep_awake(change, code):
    made = host()
    if change == "ping":
        made["tools"]["ping"] = None
    else:
        made["service_manager"] = "none"
    with pytest.raises(LocalError) as caught:
        setup_of("v6udpv4", made=made)
    assert caught.value.code == code


def test_the_agent_makes_what_it_needs_itself():
    setup = setup_of("v6udpv4", "2001:db8:a::/56", backend="auto", lan_interfaces=["eth2"])
    assert setup["backend"] == "agent" and setup["items"] == setup["sysctls"] == setup["settle"] == []
    assert [item["path"] for item in setup["files"]] == ["/etc/modules-load.d/tsp-tsp.conf"]


def test_the_agent_gets_the_modules_of_what_the_broker_may_grant_next():
    any_mode = linux_setup(lease("v6v4", request=TunnelRequest(mode="v6anyv4")), host(), backend="agent", known=known())
    assert any_mode["modules"] == ["sit", "fou"]
    assert setup_of(backend="agent")["modules"] == ["sit"]


def test_what_is_built_in_is_not_loaded():
    made = host()
    made["kinds"]["sit"] = {"available": True, "how": "builtin"}
    setup = setup_of(made=made)
    assert setup["modules"] == setup["stop"] == [] and not [item for item in setup["files"] if "modules-load" in item["path"]]


def test_a_backend_s_items_take_the_place_of_the_neutral_ones():
    class Own(Plain):
        def parts(self, setup, host):
            more = items.sysctl("net/ipv4/ip_forward", "1")
            return Parts(items=[{**setup["routes"][0], "make": True}, more], settle=[{"argv": ["networkctl", "reload"]}])

    setup = setup_of(registry=Own)
    assert [item["make"] for item in setup["items"]] == [False, False, True, False, True, True]
    assert setup["items"][-1]["name"] == "net/ipv4/ip_forward" and setup["settle"] == [{"argv": ["networkctl", "reload"]}]


@pytest.mark.parametrize(("mtu", "path_mtu", "expected"), [(1500, None, 1480), (1492, None, 1472), (9000, None, 1480), (1492, 1400, 1380)])
def test_the_mtu_follows_the_path_or_the_uplink(mtu, path_mtu, expected):
    made = host()
    made["links"]["eth1"]["mtu"] = mtu
    setup = linux_setup(lease(path_mtu=path_mtu), made, known=known())
    assert setup["numbers"]["mtu"] == setup["link"]["mtu"] == expected


def test_the_probe():
    assert setup_of(probe_count="2", probe_timeout="20")["probe"] == {
        "address": "2001:db8:f00::1", "source": "2001:db8:f00::2", "interface": "tsp0", "count": 2, "timeout": 20.0}
    assert setup_of(probe=False)["probe"] is None


def test_two_tunnels_have_two_tables():
    assert table_of("a") != table_of("b") and table_of("a") == table_of("a")
