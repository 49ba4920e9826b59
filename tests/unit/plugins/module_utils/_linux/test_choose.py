# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mode, data plane and backend for hosts and leases, and the sentences that say why."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.choose import data_plane_of, linux_mode, mode_of
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.setup import linux_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host, known, lease


def without(*kinds, name="networkd"):
    made = host(name)
    for kind in kinds:
        made["kinds"][kind] = {"available": False, "how": "missing"}
    return made


@pytest.mark.parametrize(("missing", "wanted", "data_plane", "mode"), [
    ((), "v6anyv4", "auto", "v6anyv4"),
    (("fou",), "v6anyv4", "auto", "v6anyv4"),
    (("tun",), "v6anyv4", "auto", "v6anyv4"),
    (("sit",), "v6anyv4", "auto", "v6udpv4"),
    (("sit", "fou"), "v6anyv4", "tun", "v6udpv4"),
    (("fou", "tun"), "v6anyv4", "auto", "v6v4"),
    ((), "v4v6", "auto", "v4v6"),
    (("fou",), "v6udpv4", "auto", "v6udpv4"),
])
def test_the_mode_to_ask_for(missing, wanted, data_plane, mode):
    assert linux_mode(wanted, without(*missing), data_plane=data_plane) == mode


@pytest.mark.parametrize(("missing", "wanted", "data_plane", "code"), [
    (("sit",), "v6v4", "auto", "no_sit"),
    (("ip6tnl",), "v4v6", "auto", "no_ip6tnl"),
    (("fou",), "v6udpv4", "fou", "no_fou"),
    (("fou",), "v6anyv4", "fou", "no_fou"),
    (("sit",), "v6udpv4", "fou", "no_sit"),
    (("tun",), "v6udpv4", "tun", "no_tun"),
    (("tun",), "v6anyv4", "tun", "no_tun"),
    (("sit", "fou"), "v6anyv4", "fou", "no_fou"),
    (("sit",), "v6anyv4", "fou", "no_sit"),
    (("fou", "tun"), "v6udpv4", "auto", "no_tun"),
    (("sit", "fou", "tun"), "v6anyv4", "auto", "no_tunnel_module"),
    ((), "v6", "auto", "invalid_option"),
    ((), "v6udpv4", "gre", "invalid_option"),
])
def test_what_the_kernel_cannot_carry_is_not_asked_for(missing, wanted, data_plane, code):
    with pytest.raises(LocalError) as caught:
        linux_mode(wanted, without(*missing), data_plane=data_plane)
    assert caught.value.code == code and caught.value.hint


def test_the_reason_for_another_mode_names_the_kernel():
    assert "has no sit" in mode_of("v6anyv4", without("sit"))[1]


@pytest.mark.parametrize(("mode", "missing", "wanted", "data_plane"), [
    ("v6v4", (), "auto", "sit"), ("v6udpv4", (), "auto", "fou"), ("v6udpv4", ("fou",), "auto", "tun"), ("v6udpv4", ("sit",), "auto", "tun"),
    ("v6udpv4", (), "tun", "tun"), ("v4v6", (), "auto", "ip6tnl"), ("v6v4", (), "tun", "sit")])
def test_the_data_plane(mode, missing, wanted, data_plane):
    assert data_plane_of(mode, without(*missing), wanted)[0] == data_plane


def backend_of(made, granted, wanted="auto", registry=None, **options):
    setup = linux_setup(granted, made, backend=wanted, known=registry or known(), **options)
    return setup["backend"], " ".join(setup["why"])


@pytest.mark.parametrize("name", ["networkd", "netplan", "networkmanager", "ifupdown"])
def test_who_governs_the_uplink_keeps_the_tunnel(name):
    backend, why = backend_of(host(name), lease())
    assert backend == name and "governs eth1" in why


@pytest.mark.parametrize(("granted", "said"), [
    (lease("v6udpv4"), "NAT"), (lease(lifetime=86400), "24 hours"), (lease(auth_method="anonymous", username=None), "anonymous")])
def test_what_needs_care_is_kept_by_the_agent(granted, said):
    backend, why = backend_of(host(), granted)
    assert backend == "agent" and said in why


def test_a_lease_of_a_week_or_without_end_is_configured_once():
    assert backend_of(host(), lease(lifetime=604800))[0] == "networkd"
    assert backend_of(host(), lease(lifetime=None))[0] == "networkd"


def test_an_address_that_can_change_is_kept_by_the_agent():
    made = host()
    made["links"]["eth1"]["dynamic"] = ["198.51.100.31/24"]
    backend, why = backend_of(made, lease())
    assert backend == "agent" and "DHCP" in why


def test_a_backend_that_cannot_gives_way_to_the_script_with_the_reason():
    backend, why = backend_of(host("netplan"), lease(), registry=known(netplan="It has no key for that."))
    assert backend == "script" and "no key for that" in why and "netplan governs eth1" in why


def test_where_nothing_runs_units_the_agent_is_left():
    made = host("ifupdown")
    made["service_manager"] = "none"
    backend, why = backend_of(made, lease(), registry=known(ifupdown="No."))
    assert backend == "agent" and "run a unit at boot" in why


def test_nobody_governs_the_uplink():
    made = host()
    made["links"]["eth1"].update(governor="none", network_file=None)
    backend, why = backend_of(made, lease())
    assert backend == "script" and "No configuration system governs eth1" in why


@pytest.mark.parametrize(("name", "wanted", "expected"), [
    ("networkd", "script", "script"), ("networkd", "agent", "agent"), ("networkd", "networkd", "networkd"),
    ("netplan", "networkd", "networkd"), ("netplan", "netplan", "netplan")])
def test_a_backend_that_is_named(name, wanted, expected):
    assert backend_of(host(name), lease(), wanted)[0] == expected


@pytest.mark.parametrize(("name", "wanted"), [
    ("networkd", "ifupdown"), ("networkd", "networkmanager"), ("netplan", "ifupdown"), ("netplan", "networkmanager"),
    ("ifupdown", "networkd")])
def test_a_backend_that_is_named_and_does_not_govern(name, wanted):
    with pytest.raises(LocalError) as caught:
        backend_of(host(name), lease(), wanted)
    assert caught.value.code == "backend_mismatch" and "linux_backend" in caught.value.hint


def test_a_backend_that_nobody_knows():
    with pytest.raises(LocalError) as caught:
        backend_of(host(), lease(), "wicked")
    assert caught.value.code == "invalid_option" and "networkd" in caught.value.hint


def test_a_backend_that_is_named_and_is_not_at_work():
    made = host("ifupdown")
    made["links"]["eth1"]["governor"] = "none"
    assert backend_of(made, lease(), "ifupdown")[0] == "ifupdown"
    with pytest.raises(LocalError, match="is not at work"):
        backend_of(made, lease(), "networkmanager")


def test_a_backend_that_is_named_and_cannot():
    with pytest.raises(LocalError) as caught:
        backend_of(host("netplan"), lease("v6udpv4"), "netplan", known(netplan="It has no key for FOU."))
    assert caught.value.code == "backend_cannot" and "no key for FOU" in caught.value.message
    with pytest.raises(LocalError) as caught:
        backend_of(without("fou"), lease("v6udpv4"), "networkd")
    assert caught.value.code == "backend_cannot" and "TUN" in caught.value.message


def test_a_native_backend_for_a_tunnel_that_needs_care_is_a_warning():
    setup = linux_setup(lease("v6udpv4"), host(), backend="networkd", known=known())
    assert setup["data_plane"] == "fou" and "does not look after the tunnel" in " ".join(setup["warnings"])


def test_why_another_mode_was_asked_for():
    made = without("sit")
    granted = lease("v6udpv4", request=TunnelRequest(mode="v6udpv4"))
    assert "has no sit" in linux_setup(granted, made, mode="v6anyv4", known=known())["why"][0]
    granted = lease("v6udpv4", request=TunnelRequest(mode="v6anyv4"))
    assert "there is a NAT" in linux_setup(granted, host(), mode="v6anyv4", known=known())["why"][0]
