# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written for netplan, as goldens; where it steps back; and that what netplan writes anew stays the same for networkd."""

from __future__ import annotations

import os
import subprocess

import jinja2
import pytest
import yaml
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.backends import netplan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.setup import linux_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host, lease

FILE = "/etc/netplan/90-tsp-tsp.yaml"
PREFIX = {"v6v4": "2001:db8:a::/48", "v4v6": "203.0.113.64/26"}
CASES = [(kind, mode, route) for kind in ("host", "router") for mode in PREFIX for route in ("metric", "source", "replace", "none")]


def one_renderer():
    """The recorded host, with its LAN interface networkd's too (it was NetworkManager's)."""
    made = host("netplan")
    made["links"]["eth2"].update(renderer="networkd", network_file="/run/systemd/network/10-netplan-eth2.network", connection=None)
    return made


def setup_of(mode="v6v4", router=False, made=None, **options):
    granted = lease(mode, PREFIX[mode] if router else None)
    return linux_setup(granted, made or one_renderer(), backend="netplan", lan_interfaces=["eth2"] if router else [], **options)


def files(repository, setup):
    """{path: text} of what the backend itself writes."""
    folder = jinja2.FileSystemLoader(repository / "templates" / "linux")
    environment = jinja2.Environment(loader=folder, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return {item["path"]: environment.get_template(item["template"]).render(linux=setup, **item.get("vars", {}))
            for item in setup["files"] if item["template"].startswith("netplan")}


@pytest.mark.parametrize(("kind", "mode", "route"), CASES, ids=["-".join(case) for case in CASES])
def test_golden(repository, golden, kind, mode, route):
    written = files(repository, setup_of(mode, kind == "router", default_route=route))
    golden(f"linux/netplan/{kind}-{mode}-{route}.txt", "".join(f"--- {path}\n{text}\n" for path, text in written.items()))


@pytest.mark.parametrize(("kind", "mode", "route"), CASES, ids=["-".join(case) for case in CASES])
def test_every_route_and_rule_is_somewhere(repository, kind, mode, route):
    setup = setup_of(mode, kind == "router", default_route=route)
    written = files(repository, setup)
    said = yaml.safe_load(written.pop(FILE))["network"]["tunnels"]["tsp0"]
    rest = "".join(written.values())
    assert len(said["routes"]) + rest.count("[Route]") == len(setup["routes"])
    assert [entry["to"] for entry in said["routes"]] == [item["destination"] for item in setup["routes"] if not item["from"]]
    assert rest.count("[RoutingPolicyRule]") == len(setup["rules"])
    assert said["addresses"] == [item["cidr"] for item in setup["addresses"]]


def test_a_lan_is_extended_where_netplan_defines_it(repository):
    made = one_renderer()
    made["links"]["eth2"].update(netplan_type="bridges", netplan_id='br "lan"')
    network = yaml.safe_load(files(repository, setup_of(router=True, made=made))[FILE])["network"]
    assert network["bridges"] == {'br "lan"': {"addresses": ["2001:db8:a::1/64"]}} and set(network) == {"version", "tunnels", "bridges"}


def test_netplan_may_be_read_by_root_alone():
    assert [item["mode"] for item in setup_of()["files"] if item["path"] == FILE] == ["0600"]


def test_no_tunnel_over_udp():
    with pytest.raises(LocalError, match="netplan has no key for a tunnel over UDP") as caught:
        linux_setup(lease("v6udpv4"), host("netplan"), backend="netplan")
    assert caught.value.code == "backend_cannot"


@pytest.mark.parametrize(("link", "change", "why"), [
    ("eth1", {"renderer": "NetworkManager"}, "hands the tunnel on to systemd-networkd alone"),
    ("eth2", {"renderer": "NetworkManager"}, "hands the LAN interface eth2 on to NetworkManager"),
    ("eth2", {"governor": "none", "netplan_id": None}, "netplan does not define the LAN interface eth2"),
    ("eth2", {"network_file": "/run/systemd/network/10-netplan-eth1.network", "netplan_id": "all"}, "netplan's all is also eth1")])
def test_where_it_steps_back(link, change, why):
    made = one_renderer()
    made["links"][link].update(change)
    with pytest.raises(LocalError, match=why):
        setup_of(router=True, made=made)


def test_interfaces_whose_files_netplan_writes_anew_are_left_alone(tmp_path):
    """networkd looks at the inode and the time of a file to find out whether it was changed."""
    root, programs = tmp_path / "network", tmp_path / "bin"
    root.mkdir()
    programs.mkdir()
    for name, text in (("10-netplan-same.network", "same"), ("10-netplan-changed.network", "old"), ("10-netplan-gone.network", "gone"),
                       ("10-site.network", "the site's")):
        (root / name).write_text(text, encoding="utf-8")
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.iterdir()}
    (programs / "netplan").write_text(f"""#!/bin/sh
cd {root} && rm ./*-netplan-* && printf same >10-netplan-same.network && printf new >10-netplan-changed.network &&
printf fresh >10-netplan-fresh.network
""", encoding="utf-8")
    (programs / "netplan").chmod(0o755)
    script = netplan.GENERATE.replace(netplan.GENERATED, str(root)).replace("/run/", f"{tmp_path}/")
    subprocess.run(["sh", "-c", script], check=True, timeout=60, env={"PATH": f"{programs}:{os.environ['PATH']}"})
    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.iterdir()}
    assert set(after) == {"10-netplan-same.network", "10-netplan-changed.network", "10-netplan-fresh.network", "10-site.network"}
    assert {name for name in after if after[name] == before.get(name)} == {"10-netplan-same.network", "10-site.network"}
    assert (root / "10-netplan-changed.network").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tsp-netplan")] == []
