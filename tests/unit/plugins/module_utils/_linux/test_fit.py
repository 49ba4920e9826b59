# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What needs no lease to be known is refused before a broker is asked; and a refusal is a value that tasks fail with."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.fit import linux_fit
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import failure, refusal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host

MISSING = {"available": False, "how": "missing"}


@pytest.mark.parametrize(("change", "wishes", "code", "said"), [
    (("ipv6", False), {}, "ipv6_disabled", "disable_ipv6"),
    (("root", False), {}, "not_root", "become"),
    (("read_only", ["/etc"]), {}, "read_only", "/etc"),
    (("read_only", ["/usr/local/lib"]), {"backend": "agent"}, "read_only", "/usr/local/lib"),
    (("radvd", {"installed": False}), {"radvd": True}, "radvd_missing", "radvd_install"),
    (("tools", {"ip": "/bin/ip", "nft": None}), {"firewall_wanted": True}, "no_nftables", "nftables"),
    (None, {"device": "eth2"}, "device_taken", "eth2"),
    (None, {"backend": "networkmanager"}, "backend_mismatch", "NetworkManager is not at work"),
    (None, {"backend": "magic"}, "invalid_option", "linux_backend 'magic' is unknown. Use one of auto, agent"),
    (None, {"data_plane": "magic"}, "invalid_option", "linux_data_plane"),
    (None, {"default_route": "magic"}, "invalid_option", "linux_default_route"),
    (None, {"lan_interfaces": ["eth7"]}, "lan_missing", "eth7"),
    (None, {"lan_interfaces": ["eth2", "eth2"]}, "lan_invalid", "named twice"),
    (None, {"lan_interfaces": ["tsp0"]}, "lan_invalid", "tunnel itself"),
    (None, {"lan_interfaces": [{"name": "eth2", "subnet": 0}, {"name": "up0", "subnet": 0}]}, "lan_invalid", "two LAN interfaces"),
])
def test_what_cannot_be_is_said_before_a_broker_is_asked(change, wishes, code, said):
    made = host()
    if change:
        made[change[0]] = change[1]
    found = linux_fit("v6v4", made, **wishes)
    assert (found["mode"], found["refused"]["code"], found["refused"]["kind"]) == ("v6v4", code, "local")
    assert said in f"{found['refused']['message']} {found['refused']['hint']}"


@pytest.mark.parametrize(("mode", "missing", "code"), [
    ("v6v4", ["sit"], "no_sit"), ("v4v6", ["ip6tnl"], "no_ip6tnl"), ("v6udpv4", ["fou", "tun"], "no_tun"),
    ("v6anyv4", ["sit", "fou", "tun"], "no_tunnel_module"), ("v6v9", [], "invalid_option")])
def test_what_the_kernel_cannot_carry(mode, missing, code):
    made = host()
    made["kinds"].update(dict.fromkeys(missing, MISSING))
    assert linux_fit(mode, made)["refused"]["code"] == code


def test_another_way_is_taken_where_there_is_one():
    made = host()
    made["kinds"]["sit"] = MISSING
    found = linux_fit("v6anyv4", made)
    assert found["mode"] == "v6udpv4" and "has no sit" in found["why"] and found["refused"] is None


@pytest.mark.parametrize("name", ["networkd", "netplan", "networkmanager", "ifupdown"])
def test_what_governs_the_host_fits(name):
    assert linux_fit("v6v4", host(name), backend=name)["refused"] is None


def test_a_lan_of_a_tunnel_of_ipv4_may_be_without_ipv6():
    made = host()
    made["links"]["eth2"]["ipv6"] = False
    assert linux_fit("v4v6", made, lan_interfaces=["eth2"])["refused"] is None
    assert linux_fit("v6v4", made, lan_interfaces=["eth2"])["refused"]["code"] == "lan_ipv6_disabled"


def test_the_result_of_a_refusal_is_that_of_a_failure():
    error = LocalError("read_only", "/etc of this host\ncannot be written.", "Mount it.")
    assert refusal(error.to_dict()) == failure(error)
    assert "\n" not in refusal(error.to_dict())["msg"]
