# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a router has to advertise for a tunnel, and how it becomes a part of a transaction."""

from __future__ import annotations

import json

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import radvd
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.edits import EditContext
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.radvd import radvd_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plan import tunnel_plan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host, lease

A48 = "2001:db8:a::/48"
LANS = ("eth2", {"name": "eth0", "subnet": 7})
SITE = "interface eth2 {\n    AdvSendAdvert on;\n    prefix fd00:1::/64 { };\n};\n"


def setup_of(mode="v6v4", prefix=A48, made=None, lans=LANS, **options):
    return radvd_setup(lease(mode, prefix).to_dict(), made or host(), lan_interfaces=lans, **options)


def edited(setup, text, present=True, state=None, now=1_790_000_000):
    file = setup["files"][0]
    options = {name: value for name, value in file["edit"].items() if name != "editor"}
    return radvd.edit(EditContext(file["path"], text, present, options, "tsp", state or {}, now))


@pytest.mark.parametrize("site", ["none", "site"])
@pytest.mark.parametrize("manager", ["systemd", "none"])
def test_golden(golden, site, manager):
    setup = setup_of(manager=manager, rdnss=["2001:db8:a::53"], dnssl=["lan.example"])
    made = edited(setup, None if site == "none" else SITE)
    gone = edited(setup, made.text, False, made.state)
    golden(f"linux/radvd/{manager}-{site}.json", json.dumps(setup, indent=1, sort_keys=True) + "\n")
    golden(f"linux/radvd/{manager}-{site}.conf", made.text)
    golden(f"linux/radvd/{manager}-{site}-teardown.conf", gone.text)
    for path, text in gone.others.items():
        if not path.endswith(".py"):
            golden(f"linux/radvd/{path.rsplit('/', 1)[1]}", text)
    assert bool(gone.others) == (manager == "systemd")


def test_the_mtu_is_that_of_the_tunnel_but_never_more_than_the_lan_carries():
    assert [wish["mtu"] for wish in setup_of()["interfaces"]] == [1480, 1480]
    assert setup_of("v6udpv4")["interfaces"][0]["mtu"] == 1472
    made = host()
    made["links"]["eth2"]["mtu"] = 1300
    assert [wish["mtu"] for wish in setup_of(made=made)["interfaces"]] == [1300, 1480]


def test_numbers_that_were_computed_already_give_the_same():
    numbers = tunnel_plan(lease("v6v4", A48), lan_interfaces=LANS)
    assert radvd_setup(lease("v6v4", A48), host(), numbers=numbers) == setup_of()


def test_no_default_router_without_a_default_route():
    made = host()
    assert setup_of(default_route="none", made=made)["interfaces"][0]["default_lifetime"] is None, "the host has a native one"
    made["default_routes"] = [route for route in made["default_routes"] if route["family"] == 4]
    assert setup_of(default_route="none", made=made)["interfaces"][0]["default_lifetime"] == 0
    assert setup_of(default_route="metric", made=made)["interfaces"][0]["default_lifetime"] is None
    assert setup_of(default_route="none", default_lifetime=1800, made=made)["interfaces"][0]["default_lifetime"] == 1800


@pytest.mark.parametrize(("given", "lans", "said"), [
    ({}, ["eth2"], ""), (lease("v6v4", A48), [], "no LAN interface"), (lease("v4v6", "203.0.113.64/26"), ["eth2"], "brings IPv4"),
], ids=["no-lease", "no-lan", "ipv4"])
def test_nothing_to_advertise(given, lans, said):
    made = host()
    made["radvd"]["installed"] = False
    made = radvd_setup(given, made, lan_interfaces=lans)
    assert (made["state"], made["interfaces"], made["files"][0]["edit"]["interfaces"]) == ("absent", [], [])
    assert said in " ".join(made["warnings"]) and bool(said) == bool(made["warnings"])


def test_refused_before_anything_is_touched():
    made = host()
    made["radvd"]["installed"] = False
    with pytest.raises(LocalError) as caught:
        setup_of(made=made)
    assert caught.value.code == "radvd_missing"
    assert setup_of(made=made, install=True)["files"]
    for wrong in ({"valid_lifetime": "soon"}, {"manager": "upstart"}, {"rdnss": [1]}, {"default_lifetime": "x"}):
        with pytest.raises(LocalError) as caught:
            setup_of(**wrong)
        assert caught.value.code == "radvd_invalid"
    with pytest.raises(LocalError) as caught:
        setup_of(prefix="2001:db8:a::/64")
    assert caught.value.code == "prefix_too_small"
