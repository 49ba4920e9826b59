# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bad input: each ends with a clear error before anything is touched."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.choose import linux_mode
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.setup import linux_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host, known, lease

A48, A64, A60 = "2001:db8:a::/48", "2001:db8:a::/64", "2001:db8:a::/60"
OURS = {"devices": [], "files": [], "addresses": [], "items": [], "unfinished": False}


def link(made, name, **changes):
    made["links"][name] = {**made["links"]["eth2"], "addresses": [], "dynamic": [], "alias": "", **changes}


def refused(made, granted, **options):
    with pytest.raises(LocalError) as caught:
        linux_setup(granted, made, known=known(), **options)
    return caught.value


def set_(*path_and_value):
    """A change of a host: set_(key, key, value)."""
    *path, last, value = path_and_value

    def change(made):
        for key in path:
            made = made[key]
        made[last] = value

    return change


def address(name, cidr):
    def change(made):
        made["links"][name]["addresses"].append(cidr)

    return change


@pytest.mark.parametrize(("change", "options", "code", "said"), [
    (set_("system", "FreeBSD"), {}, "not_linux", "FreeBSD"),
    (set_("tools", "ip", None), {}, "no_ip", "iproute2"),
    (set_("links", {}), {}, "no_iproute", "4.17"),
    (set_("ipv6", False), {}, "ipv6_disabled", "disable_ipv6"),
    (set_("read_only", ["/etc"]), {}, "read_only", "/etc"),
    (set_("read_only", ["/var/lib"]), {}, "read_only", "/var/lib"),
    (set_("read_only", ["/etc/systemd"]), {}, "read_only", "/etc/systemd"),
    (set_("read_only", ["/usr/local/lib"]), {"backend": "agent"}, "read_only", "/usr/local/lib"),
    (set_("root", False), {}, "not_root", "become"),
    (set_("kinds", "sit", {"available": False, "how": "missing"}), {}, "no_sit", "sit"),
    (set_("links", "eth1", "addresses", []), {"backend": "networkd"}, "address_gone", "198.51.100.31"),
    (set_("radvd", "installed", False), {"radvd": True}, "radvd_missing", "radvd"),
    (set_("tools", "nft", None), {"firewall": True}, "no_nftables", "nftables"),
    (None, {"lan_interfaces": ["eth7"]}, "lan_missing", "eth0, eth2"),
    (None, {"lan_interfaces": ["eth1"]}, "lan_invalid", "leaves by"),
    (None, {"lan_interfaces": ["tsp0"]}, "lan_invalid", "tunnel itself"),
    (None, {"lan_interfaces": ["lo"]}, "lan_invalid", "lo"),
    (set_("links", "eth2", "ipv6", False), {"lan_interfaces": ["eth2"]}, "lan_ipv6_disabled", "net.ipv6.conf.eth2.disable_ipv6"),
    (address("up0", "2001:db8:a::5/64"), {"lan_interfaces": ["eth2"]}, "lan_conflict", "up0 holds 2001:db8:a::5/64 and not eth2"),
    (address("eth2", "2001:db8:a::5/48"), {"lan_interfaces": ["eth2"]}, "lan_conflict", "eth2 holds 2001:db8:a::5/48 as well"),
    (address("up0", "2001:db8::1/32"), {"lan_interfaces": ["eth2"]}, "lan_conflict", "up0"),
    (None, {"device": "eth2"}, "device_taken", "eth2"),
    (None, {"device": "a-name-that-is-too-long"}, "device_invalid", "15"),
    (None, {"device": "a/b"}, "device_invalid", "15"),
    (None, {"name": "a b"}, "name_invalid", "letters"),
    (None, {"name": "../x"}, "name_invalid", "letters"),
    (None, {"default_route": "best"}, "invalid_option", "none, metric, source, replace"),
    (None, {"metric": 0}, "invalid_option", "2048"),
    (None, {"metric": "x"}, "invalid_option", "metric"),
    (None, {"forwarding": "perhaps"}, "invalid_option", "neither true nor false"),
    (None, {"firewall": "perhaps"}, "invalid_option", "firewall"),
    (None, {"firewall_options": {"tpc": [22]}}, "firewall_invalid", "tpc"),
    (address("up0", "2001:db8:f00::2/64"), {}, "address_taken", "up0"),
    (set_("links", "up0", "kind", "sit"), {}, "endpoints_taken", "up0"),
    (None, {"mtu": 1279}, "mtu_invalid", "1280"),
])
def test_what_cannot_be_is_refused(change, options, code, said):
    made = host()
    made["links"]["up0"]["ends"] = ["198.51.100.31", "203.0.113.1"]
    if change:
        change(made)
    error = refused(made, lease(prefix=A48), **options)
    assert error.code == code
    assert said in f"{error.message} {error.hint}"


def test_a_folder_below_a_read_only_one_is_not_told_twice():
    made = host()
    made["read_only"] = ["/etc", "/etc/systemd", "/var/lib"]
    assert refused(made, lease()).message == "/etc and /var/lib of this host cannot be written."


@pytest.mark.parametrize(("prefix", "lans", "code"), [
    (A64, ["eth2", "up0"], "prefix_too_small"), (A64, [{"name": "eth2", "subnet": 1}], "prefix_too_small"),
    (A60, [{"name": "eth2", "subnet": 16}], "prefix_too_small"), ("2001:db8:a::/72", ["eth2"], "prefix_too_small"),
    (None, ["eth2"], "no_prefix")])
def test_a_prefix_that_cannot_serve_the_lans(prefix, lans, code):
    assert refused(host(), lease(prefix=prefix), lan_interfaces=lans).code == code


@pytest.mark.parametrize(("alias", "ours", "taken"), [
    ("", {}, True),
    ("somebody's", {}, True),
    ("tunnelbroker.tsp:tsp", {}, False),
    ("tunnelbroker.tsp:tsp-linux-tsp", {}, False),
    ("tunnelbroker.tsp:other", {}, True),
    ("", {"tsp-linux-tsp": {**OURS, "devices": ["tsp0"]}}, False),
    ("", {"tsp-linux-tsp": {**OURS, "devices": ["tsp1"]}}, True),
    ("", {"tsp-linux-other": {**OURS, "devices": ["tsp0"]}}, True),
    ("", {"tsp-linux-tsp": {**OURS, "unfinished": True}}, False),
    ("tunnelbroker.tsp:other", {"tsp-linux-tsp": {**OURS, "unfinished": True}}, True),
    ("tunnelbroker.tsp:tsp-tsp", {}, False),
    ("tunnelbroker.tsp:tsp-agent-tsp", {}, False),
    ("tunnelbroker.tsp:tsp-other-tsp", {}, True),
    ("", {"tsp-other-tsp": {**OURS, "devices": ["tsp0"]}}, True),
])
def test_a_device_of_somebody_else_is_left_alone(alias, ours, taken):
    made = host()
    link(made, "tsp0", kind="sit", alias=alias)
    made["ours"] = ours
    if taken:
        assert refused(made, lease()).code == "device_taken"
    else:
        assert linux_setup(lease(), made, known=known())["device"] == "tsp0"


@pytest.mark.parametrize("change", [
    address("eth2", "2001:db8:b::5/64"),        # another delegated prefix
    address("eth2", "2001:db8:a::5/64"),        # another address of this network
    address("eth2", "2001:db8:a::7/128"),       # one out of it, by DHCPv6
    address("up0", "fd00::1/8"),
    address("eth1", "10.0.0.1/8"),
])
def test_addresses_that_are_in_nobodys_way(change):
    made = host()
    change(made)
    assert linux_setup(lease(prefix=A48), made, lan_interfaces=["eth2"], known=known())["lan"][0]["cidr"] == "2001:db8:a::1/64"


def test_an_address_that_we_set_on_another_interface_may_move():
    made = host()
    address("up0", "2001:db8:a::1/64")(made)
    made["ours"] = {"tsp-linux-tsp": {**OURS, "addresses": ["up0 2001:db8:a::1/64"]}}
    assert linux_setup(lease(prefix=A48), made, lan_interfaces=["eth2"], known=known())["lan"][0]["interface"] == "eth2"


@pytest.mark.parametrize("told", [None, {}, [], {"host": {}}, "x", {**host(), "links": None}.keys()])
def test_what_is_no_host_is_refused(told):
    assert refused(told, lease()).code == "host_invalid"
    with pytest.raises(LocalError):
        linux_mode("v6anyv4", told)


def test_a_tunnel_of_ours_that_is_called_otherwise_may_be_in_the_way():
    made = host()
    link(made, "tsp9", kind="sit", ends=["198.51.100.31", "203.0.113.1"], addresses=["2001:db8:f00::2/128"])
    assert refused(made, lease()).code == "address_taken"
    made["ours"] = {"tsp-linux-tsp": {**OURS, "devices": ["tsp9"]}}
    assert linux_setup(lease(), made, known=known())["device"] == "tsp0"


def test_another_tunnel_of_ours_keeps_what_it_has():
    made = host()
    link(made, "tsp9", kind="sit", alias="tunnelbroker.tsp:tsp-second", ends=["198.51.100.31", "203.0.113.1"])
    address("up0", "2001:db8:a::1/64")(made)
    made["ours"] = {"tsp-second": {**OURS, "devices": ["tsp9"], "addresses": ["up0 2001:db8:a::1/64"]}}
    assert refused(made, lease(prefix=A48)).code == "endpoints_taken"
    assert refused(made, lease(prefix=A48), lan_interfaces=["eth2"]).code == "lan_conflict"
    assert linux_setup(lease(prefix=A48), made, name="second", lan_interfaces=["eth2"], known=known())["lan"][0]["interface"] == "eth2"


def test_an_interrupted_run_is_for_the_transaction_to_undo():
    made = host()
    address("up0", "2001:db8:a::1/64")(made)
    assert refused(made, lease(prefix=A48), lan_interfaces=["eth2"]).code == "lan_conflict"
    made["ours"] = {"tsp-linux-tsp": {**OURS, "unfinished": True}}
    assert linux_setup(lease(prefix=A48), made, lan_interfaces=["eth2"], known=known())["lan"][0]["interface"] == "eth2"


def test_an_address_that_is_gone_is_for_the_agent_to_see_to():
    made = host()
    made["links"]["eth1"]["addresses"] = []
    setup = linux_setup(lease(), made, backend="agent", known=known())
    assert "no address of this host" in setup["warnings"][0]
