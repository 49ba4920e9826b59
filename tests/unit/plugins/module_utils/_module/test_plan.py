# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plan import tunnel_plan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease


@pytest.mark.parametrize("mode, mtu, overhead", [("v6v4", 1480, 20), ("v6udpv4", 1472, 28), ("v4v6", 1460, 40)])
def test_one_number_gives_mtu_mss_and_ra_mtu(mode, mtu, overhead):
    plan = tunnel_plan(lease(mode))
    assert (plan["mtu"], plan["overhead"]) == (mtu, overhead)
    assert plan["mss"] == {"ipv6": mtu - 60, "ipv4": mtu - 40}
    assert plan["ra_mtu"] == (None if mode == "v4v6" else mtu)


@pytest.mark.parametrize("mode, link, mtu", [
    ("v6v4", 1492, 1472), ("v6udpv4", 1492, 1464), ("v6v4", 1290, 1280), ("v6udpv4", 1300, 1280), ("v4v6", 1280, 1240),
    ("v6v4", "9000", 8980)])
def test_the_link_sets_the_mtu_down_to_the_floor(mode, link, mtu):
    assert tunnel_plan(lease(mode), link_mtu=link)["mtu"] == mtu


def test_an_override_wins_and_the_floor_holds():
    assert tunnel_plan(lease(), mtu=1280)["mtu"] == 1280
    assert tunnel_plan(lease(), mtu="1400")["mss"]["ipv6"] == 1340
    assert tunnel_plan(lease(), mtu="auto", link_mtu=1500)["mtu"] == 1480
    measured = {**lease().to_dict(), "path_mtu": 1492}
    assert tunnel_plan(measured)["mtu"] == tunnel_plan(measured, link_mtu="auto")["mtu"] == 1472
    assert tunnel_plan(measured, link_mtu=1500)["mtu"] == 1480, "what the play says counts"
    for bad in (1279, 0, -1, 65536, "big", True, [1]):
        with pytest.raises(LocalError) as caught:
            tunnel_plan(lease(), mtu=bad)
        assert caught.value.code == "mtu_invalid"
    with pytest.raises(LocalError) as caught:
        tunnel_plan(lease(), link_mtu=100)
    assert caught.value.code == "mtu_invalid"


@pytest.mark.parametrize("length", range(48, 65))
def test_every_prefix_length_gives_a_64_inside_the_prefix(length):
    prefix = ip_network(("2001:db8:8000::", length))
    plan = tunnel_plan(lease(prefix=str(prefix)), lan_interfaces=["eth1"])
    (lan,) = plan["lan"]
    assert lan == {"interface": "eth1", "network": "2001:db8:8000::/64", "address": "2001:db8:8000::1", "length": 64,
                   "cidr": "2001:db8:8000::1/64", "netmask": None, "subnet": 0}
    assert plan["unreachable"] == (None if length == 64 else str(prefix))
    assert plan["prefix"] == str(prefix) and plan["prefix_length"] == length and plan["router"] is True
    last = 2 ** (64 - length) - 1
    plan = tunnel_plan(lease(prefix=str(prefix)), lan_interfaces=[{"name": "eth1", "subnet": last}])
    assert ip_address(plan["lan"][0]["address"]) in prefix
    assert ip_network(plan["lan"][0]["network"]).broadcast_address == prefix.broadcast_address
    with pytest.raises(LocalError) as caught:
        tunnel_plan(lease(prefix=str(prefix)), lan_interfaces=[{"name": "eth1", "subnet": last + 1}])
    assert caught.value.code == "prefix_too_small" and str(prefix) in caught.value.message


def test_numbers_given_are_kept_and_the_others_take_the_lowest_left():
    plan = tunnel_plan(lease(prefix="2001:db8:a:f0::/60"), lan_interfaces=[
        "a", {"name": "b", "subnet": 0}, "c", {"name": "d", "subnet": "0xf"}])
    assert [(entry["interface"], entry["subnet"], entry["cidr"]) for entry in plan["lan"]] == [
        ("a", 1, "2001:db8:a:f1::1/64"), ("b", 0, "2001:db8:a:f0::1/64"), ("c", 2, "2001:db8:a:f2::1/64"), ("d", 15, "2001:db8:a:ff::1/64")]


def test_number_as_text_means_the_same_as_the_number():
    for subnet in (10, "10", "0xa"):
        plan = tunnel_plan(lease(prefix="2001:db8:a::/56"), lan_interfaces=[{"name": "b", "subnet": subnet}])
        assert plan["lan"][0]["network"] == "2001:db8:a:a::/64"


@pytest.mark.parametrize("length, interfaces, networks", [
    (24, ["a"], ["10.1.0.0/24"]),
    (24, ["a", "b"], ["10.1.0.0/25", "10.1.0.128/25"]),
    (24, ["a", "b", "c"], ["10.1.0.0/26", "10.1.0.64/26", "10.1.0.128/26"]),
    (28, [{"name": "a", "subnet": 3}], ["10.1.0.12/30"]),
    (30, ["a"], ["10.1.0.0/30"])])
def test_ipv4_prefixes_are_cut_into_as_few_parts_as_do(length, interfaces, networks):
    plan = tunnel_plan(lease("v4v6", f"10.1.0.0/{length}"), lan_interfaces=interfaces)
    assert [entry["network"] for entry in plan["lan"]] == networks
    assert all(ip_address(entry["address"]) == ip_network(entry["network"])[1] for entry in plan["lan"])
    assert plan["lan"][0]["netmask"] == str(ip_network(networks[0]).netmask)
    assert plan["unreachable"] == (None if networks == [f"10.1.0.0/{length}"] else f"10.1.0.0/{length}")


@pytest.mark.parametrize("mode, prefix, interfaces", [
    ("v4v6", "10.1.0.0/31", ["a"]), ("v4v6", "10.1.0.0/30", ["a", "b"]), ("v6v4", "2001:db8:a::/65", ["a"]),
    ("v6v4", "2001:db8:a::/64", ["a", "b"]), ("v6v4", "2001:db8:a::/62", ["a", "b", "c", "d", "e"])])
def test_too_many_interfaces_for_the_prefix_are_refused(mode, prefix, interfaces):
    with pytest.raises(LocalError) as caught:
        tunnel_plan(lease(mode, prefix), lan_interfaces=interfaces)
    assert caught.value.code == "prefix_too_small" and prefix in caught.value.message and caught.value.hint


def test_no_prefix_no_lan():
    plan = tunnel_plan(lease())
    assert plan["lan"] == [] and plan["prefix"] is None and plan["unreachable"] is None and plan["router"] is False
    assert plan["sources"] == ["2001:db8:f00::2/128"]
    with pytest.raises(LocalError) as caught:
        tunnel_plan(lease(), lan_interfaces="eth1")
    assert caught.value.code == "no_prefix" and "router" in caught.value.hint


def test_a_prefix_that_no_lan_uses_goes_nowhere_rather_than_round_in_circles():
    for length in (48, 64, 80):
        assert tunnel_plan(lease(prefix=f"2001:db8:a::/{length}"))["unreachable"] == f"2001:db8:a::/{length}"


@pytest.mark.parametrize("interfaces", [
    [{"subnet": 1}], [{"name": ""}], [{"name": 5}], [7], [{"name": "a", "subnet": -1}], [{"name": "a", "subnet": "x"}],
    [{"name": "a", "vlan": 1}], ["a", "a"], [{"name": "a", "subnet": 1}, {"name": "b", "subnet": 1}]])
def test_contradicting_interfaces_are_refused(interfaces):
    with pytest.raises(LocalError) as caught:
        tunnel_plan(lease(prefix="2001:db8:a::/48"), lan_interfaces=interfaces)
    assert caught.value.code == "lan_invalid" and caught.value.hint


def test_our_lan_address_never_collides_with_our_tunnel_address():
    value = lease(prefix="2001:db8:a::/64")
    inside = replace(value, grant=replace(value.grant, client=replace(value.grant.client, ipv6=IPv6Address("2001:db8:a::1"))))
    assert tunnel_plan(inside, lan_interfaces=["eth1"])["lan"][0]["address"] == "2001:db8:a::2"


def test_a_lan_never_gets_the_brokers_address_and_keeps_off_its_network_while_there_are_others():
    value = lease(prefix="2001:db8:f00::/63").to_dict()
    plan = tunnel_plan(value, lan_interfaces=["eth1", "eth2"])
    assert [entry["cidr"] for entry in plan["lan"]] == ["2001:db8:f00:1::1/64", "2001:db8:f00::3/64"]
    plan = tunnel_plan(value, lan_interfaces=[{"name": "eth1", "subnet": 0}])
    assert plan["lan"][0]["address"] == "2001:db8:f00::3"


def test_ends_of_the_tunnel():
    plan = tunnel_plan(lease("v6udpv4"))
    assert plan["tunnel"] == {"local": "198.51.100.7", "remote": "203.0.113.1", "encapsulation": "udp", "local_port": 40000,
                              "remote_port": 3653}
    assert (plan["address_cidr"], plan["peer"], plan["family"]) == ("2001:db8:f00::2/128", "2001:db8:f00::1", 6)
    assert plan["default_route"] == {"destination": "::/0", "gateway": "2001:db8:f00::1"}
    plan = tunnel_plan(lease("v4v6", "10.1.0.0/24"))
    assert plan["tunnel"] == {"local": "2001:db8:f00::2", "remote": "2001:db8:f00::1", "encapsulation": "ipip6", "local_port": None,
                              "remote_port": None}
    assert (plan["address_cidr"], plan["peer"], plan["family"]) == ("192.0.2.2/32", "192.0.2.1", 4)
    assert plan["default_route"] == {"destination": "0.0.0.0/0", "gateway": "192.0.2.1"}
    assert plan["sources"] == ["192.0.2.2/32", "10.1.0.0/24"]


def test_behind_a_nat_the_tunnel_ends_at_the_hosts_own_address():
    value = replace(lease("v6v4"), local_address=ip_address("10.0.0.2"))
    assert tunnel_plan(value.to_dict())["tunnel"]["local"] == "10.0.0.2"


def test_the_probe_is_the_keepalive_address_or_else_the_brokers_end():
    assert tunnel_plan(lease(grant_changes={"keepalive": None}))["probe"] == "2001:db8:f00::1"
    assert tunnel_plan(lease(grant_changes={"keepalive": None}))["keepalive"] is None
    value = lease().to_dict()
    value["keepalive"] = {"interval": 9, "address": "2001:db8:f00::99"}
    assert tunnel_plan(value)["probe"] == "2001:db8:f00::99"
    assert tunnel_plan(value)["keepalive"] == {"interval": 9, "address": "2001:db8:f00::99"}
    value["keepalive"]["address"] = None
    assert tunnel_plan(value)["keepalive"] == {"interval": 9, "address": "2001:db8:f00::1"}


def test_dict_and_object_give_the_same_and_it_is_json():
    value = lease("v6udpv4", "2001:db8:a::/56")
    plan = tunnel_plan(value, lan_interfaces=["eth1"])
    assert plan == tunnel_plan(value.to_dict(), lan_interfaces=["eth1"]) == json.loads(json.dumps(plan))


def test_a_broken_lease_is_an_error_of_ours():
    with pytest.raises(LocalError) as caught:
        tunnel_plan({"schema": 1})
    assert caught.value.code == "lease_invalid"
