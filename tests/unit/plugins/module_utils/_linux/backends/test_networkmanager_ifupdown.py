# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written for NetworkManager and for ifupdown, as goldens; and where they step back."""

from __future__ import annotations

import configparser
import shlex

import jinja2
import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.setup import linux_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host, lease

PREFIX = {"v6v4": "2001:db8:a::/48", "v6udpv4": "2001:db8:a::/56", "v4v6": "203.0.113.64/26"}
CASES = [(kind, mode, route) for kind in ("host", "router") for mode in PREFIX for route in ("metric", "source", "replace", "none")]


def setup_of(backend, mode="v6v4", router=False, made=None, **options):
    lans = ["eth2"] if router else []
    granted = lease(mode, PREFIX[mode] if router else None)
    return linux_setup(granted, made or host(backend), backend=backend, lan_interfaces=lans, **options)


def files(repository, backend, setup):
    """{path: text} of what the backend itself writes from templates."""
    folder = jinja2.FileSystemLoader(repository / "templates" / "linux")
    environment = jinja2.Environment(loader=folder, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return {item["path"]: environment.get_template(item["template"]).render(linux=setup, **item.get("vars", {}))
            for item in setup["files"] if item.get("template", "").startswith(backend)}


def text_of(repository, backend, setup):
    return "".join(f"--- {path}\n{text}\n" for path, text in files(repository, backend, setup).items())


def commands(setup, word):
    return [item["argv"] for item in (*setup["stop"], *setup["settle"]) if word in " ".join(item["argv"])]


@pytest.mark.parametrize(("kind", "mode", "route"), CASES, ids=["-".join(case) for case in CASES])
@pytest.mark.parametrize("backend", ["networkmanager", "ifupdown"])
def test_golden(repository, golden, backend, kind, mode, route):
    if backend == "networkmanager" and mode == "v6udpv4":
        with pytest.raises(LocalError) as caught:
            setup_of(backend, mode, kind == "router", default_route=route)
        assert caught.value.code == "backend_cannot" and "no property for a tunnel over UDP" in caught.value.message
        return
    setup = setup_of(backend, mode, kind == "router", default_route=route)
    golden(f"linux/{backend}/{kind}-{mode}-{route}.txt", text_of(repository, backend, setup))


@pytest.mark.parametrize("mode", ["v6v4", "v4v6"])
def test_networkmanager_profile_holds_every_route_and_rule(repository, mode):
    setup = setup_of("networkmanager", mode, True, default_route="source")
    text = next(text for path, text in files(repository, "networkmanager", setup).items() if path.endswith(".nmconnection"))
    profile = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    profile.optionxform = str
    profile.read_string(text)
    section = profile["ipv6" if mode == "v6v4" else "ipv4"]
    routes = [key for key in section if key.startswith("route") and not key.endswith("_options")]
    assert [section[f"route{number}"].split(",")[0] for number in range(1, len(routes) + 1)] == [
        item["destination"] for item in setup["routes"]]
    assert len([key for key in section if key.startswith("routing-rule")]) == len(setup["rules"])
    assert profile["connection"]["interface-name"] == "tsp0"


def test_networkmanager_profile_is_readable_by_root_alone_since_it_ignores_others():
    modes = {item["path"]: item["mode"] for item in setup_of("networkmanager", router=True)["files"]}
    assert modes["/etc/NetworkManager/system-connections/tsp-tsp.nmconnection"] == "0600"
    assert modes["/etc/NetworkManager/dispatcher.d/50-tsp-tsp"] == "0755"


def test_networkmanager_knows_a_tunnel_by_its_name():
    one, again, other = (commands(setup_of("networkmanager", name=name), "nmcli")[0][4] for name in ("tsp", "tsp", "second"))
    assert one == again != other


def test_networkmanager_leaves_a_lan_that_it_does_not_manage():
    made = host("networkmanager")
    made["links"]["eth2"].update(governor="none", connection=None)
    with pytest.raises(LocalError, match="does not manage the LAN interface eth2"):
        setup_of("networkmanager", router=True, made=made)


@pytest.mark.parametrize("backend", ["networkmanager", "ifupdown"])
def test_lan_addresses_are_added_without_touching_the_lan(backend):
    setup = setup_of(backend, router=True)
    assert [item["make"] for item in setup["items"] if item["kind"] == "address"] == [False, True]
    assert not commands(setup, "eth2")


def test_ifupdown_includes_its_file_where_the_site_does_not():
    assert not [item for item in setup_of("ifupdown")["files"] if "edit" in item]
    made = host("ifupdown")
    made["interfaces_file"]["sources_d"] = False
    edits = [item for item in setup_of("ifupdown", made=made)["files"] if "edit" in item]
    assert edits == [{"path": "/etc/network/interfaces",
                      "edit": {"editor": "block", "content": "source /etc/network/interfaces.d/tsp-tsp\n"}}]


@pytest.mark.parametrize("flavour", ["ifupdown2", "ifupdown-ng"])
def test_ifupdown_of_somebody_else(flavour):
    made = host("ifupdown")
    made["interfaces_file"]["flavour"] = flavour
    with pytest.raises(LocalError, match=f"this host has {flavour}"):
        setup_of("ifupdown", made=made)


def test_ifupdown_brings_a_lan_up_that_nobody_governs(repository):
    made = host("ifupdown")
    assert "auto eth2" not in text_of(repository, "ifupdown", setup_of("ifupdown", router=True, made=made))
    made["links"]["eth2"]["governor"] = "none"
    assert "auto eth2\niface eth2 inet6 static" in text_of(repository, "ifupdown", setup_of("ifupdown", router=True, made=made))


def test_ifupdown_takes_away_what_does_not_go_with_the_device(repository):
    text = text_of(repository, "ifupdown", setup_of("ifupdown", "v4v6", True, default_route="source"))
    lines = [shlex.split(line) for line in text.splitlines() if line.strip()]
    added = [line[3:] for line in lines if line[0] == "up" and line[4] == "add" and line[3] == "rule"]
    assert added and all(["down", "ip", "-4", "rule", "delete", *line[2:], "||", "true"] in lines for line in added)


@pytest.mark.parametrize(("mode", "mtu"), [
    ("v6v4", "    mtu 1480\n"), ("v6udpv4", " mtu 1472 type sit "), ("v4v6", " mtu 1460 type ip6tnl ")])
def test_ifupdown_sets_the_mtu_of_the_device_and_not_that_of_ipv6_alone(repository, mode, mtu):
    text = text_of(repository, "ifupdown", setup_of("ifupdown", mode))
    assert mtu in text and text.count("mtu ") == 1
