# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written for systemd-networkd, as goldens; where it steps back; and what the command that follows the files does."""

from __future__ import annotations

import os
import subprocess

import jinja2
import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.setup import linux_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host, lease

FOLDER = "/etc/systemd/network"
PREFIX = {"v6v4": "2001:db8:a::/48", "v6udpv4": "2001:db8:a::/56", "v4v6": "203.0.113.64/26"}
CASES = [(kind, mode, route) for kind in ("host", "router") for mode in PREFIX for route in ("metric", "source", "replace", "none")]


def setup_of(mode="v6v4", router=False, made=None, **options):
    granted = lease(mode, PREFIX[mode] if router else None)
    return linux_setup(granted, made or host("networkd"), backend="networkd", lan_interfaces=["eth2"] if router else [], **options)


def files(repository, setup):
    """{path: text} of what the backend itself writes."""
    folder = jinja2.FileSystemLoader(repository / "templates" / "linux")
    environment = jinja2.Environment(loader=folder, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return {item["path"]: environment.get_template(item["template"]).render(linux=setup, **item.get("vars", {}))
            for item in setup["files"] if item["template"].startswith("networkd")}


def sections(text):
    """[(section, {key: value})], in order."""
    out = []
    for line in text.splitlines():
        if line.startswith("["):
            out.append((line.strip("[]"), {}))
        elif "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            out[-1][1][key] = value
    return out


def stranger(governor="none", **changes):
    """A host whose LAN interface networkd leaves alone."""
    made = host("networkd")
    made["links"]["eth2"].update(governor=governor, network_file=None, **changes)
    return made


@pytest.mark.parametrize(("kind", "mode", "route"), CASES, ids=["-".join(case) for case in CASES])
def test_golden(repository, golden, kind, mode, route):
    written = files(repository, setup_of(mode, kind == "router", default_route=route))
    golden(f"linux/networkd/{kind}-{mode}-{route}.txt", "".join(f"--- {path}\n{text}\n" for path, text in written.items()))


@pytest.mark.parametrize(("mode", "route"), [(mode, route) for mode in PREFIX for route in ("metric", "source")])
def test_every_route_and_rule_is_there(repository, mode, route):
    setup = setup_of(mode, True, default_route=route)
    written = sections(files(repository, setup)[f"{FOLDER}/05-tsp-tsp.network"])
    routes = [(keys["Destination"], keys.get("Source"), keys.get("Type", "unicast"), int(keys["Metric"]), keys.get("Table", "main"))
              for name, keys in written if name == "Route"]
    assert routes == [(item["destination"], item["from"], item["type"], item["metric"], str(item["table"])) for item in setup["routes"]]
    rules = [(keys["From"], int(keys["Priority"]), keys.get("SuppressPrefixLength")) for name, keys in written
             if name == "RoutingPolicyRule"]
    assert rules == [(item["from"], item["priority"], None if item["suppress_prefixlength"] is None else "0") for item in setup["rules"]]


def test_a_tunnel_of_another_name_has_files_of_its_own(repository):
    first, second = files(repository, setup_of("v6udpv4", True)), files(repository, setup_of("v6udpv4", True, name="second", device="tsp1"))
    assert not set(first) & set(second)


def test_a_boot_does_not_wait_for_the_tunnel(repository):
    written = sections(files(repository, setup_of())[f"{FOLDER}/05-tsp-tsp.network"])
    assert ("Link", {"MTUBytes": "1480", "RequiredForOnline": "no"}) in written


@pytest.mark.parametrize("folder", ["/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network"])
def test_the_file_of_a_lan_is_extended_wherever_it_lies(repository, folder):
    made = host("networkd")
    made["links"]["eth2"]["network_file"] = f"{folder}/80-lan.network"
    setup = setup_of(router=True, made=made)
    assert sections(files(repository, setup)[f"{FOLDER}/80-lan.network.d/tsp-tsp.conf"]) == [("Network", {"Address": "2001:db8:a::1/64"})]
    assert {"path": f"{FOLDER}/80-lan.network.d", "mode": "0755"} in setup["directories"]


def test_a_lan_that_nobody_governs_keeps_what_it_has(repository):
    setup = setup_of(router=True, made=stranger())
    own = dict(sections(files(repository, setup)[f"{FOLDER}/05-tsp-tsp-eth2.network"]))
    assert own["Match"] == {"Name": "eth2"} and own["Network"]["Address"] == "2001:db8:a::1/64"
    assert own["Network"]["KeepConfiguration"] == "static" and own["Link"]["RequiredForOnline"] == "no"
    # What networkd changes on an interface that it takes over is part of the plan, and hence comes back.
    changed = {item["name"]: item["value"] for item in setup["items"] if item["kind"] == "sysctl"}
    assert changed["net/ipv6/conf/eth2/accept_ra"] == "0" and changed["net/ipv4/conf/eth2/promote_secondaries"] == "1"


def test_a_lan_without_a_carrier_gets_its_address_by_hand():
    assert [item["make"] for item in setup_of(router=True)["items"] if item["kind"] == "address"] == [False, True]


def test_the_uplink_is_left_alone(repository):
    """networkd goes on listening to router advertisements by itself when the kernel forwards."""
    setup = setup_of(router=True)
    assert [entry["device"] for entry in setup["ra_interfaces"]] == ["up0"] and setup["forwarding"]
    assert not [path for path in files(repository, setup) if "up0" in path or "eth1" in path]


@pytest.mark.parametrize("governor", ["networkmanager", "ifupdown"])
def test_a_lan_of_somebody_else(governor):
    with pytest.raises(LocalError, match=f"eth2 is governed by {governor}") as caught:
        setup_of(router=True, made=stranger(governor))
    assert caught.value.code == "backend_cannot"


def test_a_file_of_several_interfaces_is_not_extended():
    made = host("networkd")
    made["links"]["up0"]["network_file"] = made["links"]["eth2"]["network_file"]
    with pytest.raises(LocalError, match="eth2.network is also that of up0"):
        setup_of(router=True, made=made)


def test_a_networkd_without_reload():
    made = host("networkd")
    made["systemd_version"] = 241
    with pytest.raises(LocalError, match="systemd-networkd 241 is too old"):
        setup_of(made=made)
    made["systemd_version"], made["tools"]["networkctl"] = 252, None
    with pytest.raises(LocalError, match="networkctl is missing"):
        setup_of(made=made)


SIT = "7: tsp0@NONE: \\    link/sit 198.51.100.31 peer 203.0.113.1 \\    sit ip6ip remote 203.0.113.1 local 198.51.100.31 ttl 64 "
FOU = SIT + "pmtudisc encap fou encap-sport 40000 encap-dport 3653 noencap-csum "
TUNNEL6 = "7: tsp0@NONE: \\    ip6tnl ipip6 remote 2001:db8:f00::1 local 2001:db8:ee::31 hoplimit 64 encaplimit none "


class Programs:
    """`ip` and `networkctl` that say what the kernel has and note what they are told."""

    def __init__(self, tmp_path):
        self.folder, self.log = tmp_path / "bin", tmp_path / "log"
        self.folder.mkdir()
        self.write("networkctl", 'echo "networkctl $*" >>"$LOG"')

    def write(self, name, text):
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (self.folder / name).chmod(0o755)

    def told(self, setup, written, link, ports=()):
        """What settle does: written: {path: text} lie on the host. link: what `ip link show` says, None without a device."""
        root = self.folder.parent / "root"
        root.mkdir(exist_ok=True)
        argv = list(setup["settle"][0]["argv"])
        for number, path in enumerate(argv[4:], 4):
            argv[number] = str(root / os.path.basename(path))
            if path in written:
                (root / os.path.basename(path)).write_text(written[path], encoding="utf-8")
        shown = "exit 1" if link is None else f"printf '%s\\n' '{link}'"
        listed = "; ".join(f'echo "port {port} ipproto 41"' for port in ports) or "true"
        self.write("ip", f'case "$*" in *"link show"*) {shown} ;; "fou show") {listed} ;; *) echo "ip $*" >>"$LOG" ;; esac')
        self.log.write_text("", encoding="utf-8")
        subprocess.run(argv, check=True, timeout=60, env={"PATH": f"{self.folder}:{os.environ['PATH']}", "LOG": str(self.log)})
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("mode", "link", "gone"), [
    ("v6v4", None, False), ("v6v4", SIT, False), ("v6v4", FOU, True), ("v6v4", SIT.replace("203.0.113.1 ", "203.0.113.11 "), True),
    ("v6v4", SIT.replace("198.51.100.31 ttl", "198.51.100.3 ttl"), True), ("v6udpv4", FOU, False), ("v6udpv4", SIT, True),
    ("v6udpv4", FOU.replace("40000", "40001"), True), ("v6udpv4", FOU.replace("3653", "36530"), True), ("v4v6", TUNNEL6, False),
    ("v4v6", SIT, True)])
def test_a_device_with_other_ends_goes_before_the_reload(repository, tmp_path, mode, link, gone):
    setup = setup_of(mode)
    told = Programs(tmp_path).told(setup, files(repository, setup), link, [40000])
    assert told == (["ip link delete tsp0"] if gone else []) + ["networkctl reload"]


@pytest.mark.parametrize("link", [SIT, FOU, TUNNEL6])
def test_the_device_goes_with_its_files(tmp_path, link):
    assert Programs(tmp_path).told(setup_of("v6udpv4"), {}, link) == ["ip link delete tsp0", "networkctl reload"]


def test_a_lost_udp_port_is_made_again(repository, tmp_path):
    setup = setup_of("v6udpv4")
    told = Programs(tmp_path).told(setup, files(repository, setup), FOU, [4000, 400001])
    assert told == ["networkctl reload", "ip fou add port 40000 ipproto 41"]
