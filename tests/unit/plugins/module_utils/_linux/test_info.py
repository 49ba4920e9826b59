# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What linux_info says of hosts that were recorded, and of the same hosts when something is otherwise."""

from __future__ import annotations

import json

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.info import gather
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.info_task import run
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import HOSTS, Completed, Recorded, record, seen

CONF6 = "/proc/sys/net/ipv6/conf"
LINKS = "ip -j -d addr show"
NMCLI = "nmcli -t -f DEVICE,STATE,CON-UUID,CONNECTION device"


@pytest.mark.parametrize(("name", "eth1", "eth2"), [
    ("networkd", {"governor": "networkd", "network_file": "/etc/systemd/network/10-eth1.network"}, {"governor": "networkd"}),
    ("netplan", {"governor": "netplan", "renderer": "networkd", "netplan_type": "ethernets", "netplan_id": "eth1",
                 "network_file": "/run/systemd/network/10-netplan-eth1.network"},
     {"governor": "netplan", "renderer": "NetworkManager", "netplan_type": "ethernets", "netplan_id": "eth2",
      "connection": "e4f315ef-c9bc-3458-827e-dbff93a2bac6"}),
    ("networkmanager", {"governor": "networkmanager", "connection": "3a6a8d0e-3e5a-4b1c-9c5e-000000000001"},
     {"governor": "networkmanager"}),
    ("ifupdown", {"governor": "ifupdown", "connection": None}, {"governor": "ifupdown"}),
])
def test_who_governs_which_interface(name, eth1, eth2):
    host, warnings = seen(record(name))
    assert not warnings
    for device, expected in (("eth1", eth1), ("eth2", eth2), ("eth0", {"governor": "none"}), ("lo", {"governor": "none"})):
        assert {key: host["links"][device][key] for key in expected} == expected
    assert host["governors"][name] is True


def test_what_networkd_leaves_alone_is_not_governed_by_it():
    told = record("networkd")
    index = json.loads(told["run"][LINKS][1])[2]["ifindex"]
    told["text"][f"/run/systemd/netif/links/{index}"] = "ADMIN_STATE=unmanaged\nNETWORK_FILE=/etc/systemd/network/10-eth1.network\n"
    assert seen(told)[0]["links"]["eth1"]["governor"] == "none"


@pytest.mark.parametrize(("line", "governor", "connection"), [
    (r"eth1:connected:1-2-3:a\:b\\c", "networkmanager", "1-2-3"),
    ("eth1:connected (externally):1-2-3:eth1", "none", None),
    ("eth1:disconnected::", "networkmanager", None),
    ("eth1:unmanaged::", "none", None),
    ("eth1:connected:1-2-3:netplan-eth1", "netplan", "1-2-3"),
])
def test_words_of_networkmanager(line, governor, connection):
    told = record("networkmanager")
    told["run"][NMCLI] = [0, f"{line}\n", ""]
    link = seen(told)[0]["links"]["eth1"]
    assert (link["governor"], link["connection"]) == (governor, connection)


def test_networkmanager_without_nmcli_is_a_warning():
    told = record("networkmanager")
    told["tool"]["nmcli"] = None
    host, warnings = seen(told)
    assert host["tools"]["nmcli"] is None and host["links"]["eth1"]["governor"] == "none"
    assert any("nmcli is not there" in said for said in warnings)


@pytest.mark.parametrize(("text", "sources", "flavour", "program"), [
    ("source /etc/network/interfaces.d/*\n", True, "ifupdown", "/usr/sbin/ifup"),
    ("source-directory interfaces.d\n", True, "ifupdown-ng", "/usr/sbin/ifupdown"),
    ("source /etc/network/interfaces.d/*.cfg\n", False, "ifupdown2", "/usr/share/ifupdown2/__main__.py"),
    ("# source /etc/network/interfaces.d/*\nauto lo\n", False, "ifupdown", "/usr/sbin/ifup"),
])
def test_the_interfaces_file(text, sources, flavour, program):
    told = record("ifupdown")
    told["text"]["/etc/network/interfaces"] = text
    told["real"]["/usr/sbin/ifup"] = program
    assert seen(told)[0]["interfaces_file"] == {"sources_d": sources, "flavour": flavour}


@pytest.mark.parametrize(("change", "how", "available"), [
    ({}, "module", True),
    ({"/proc/modules": "sit 40960 0 - Live 0x0\n"}, "loaded", True),
    ({"/lib/modules/6.1.0-50-cloud-amd64/modules.builtin": "kernel/net/ipv6/sit.ko\n"}, "builtin", True),
    ({"modprobe": [1, "", "modprobe: FATAL: Module sit not found in directory /lib/modules/6.1"]}, "missing", False),
    ({"modprobe": [0, "install /bin/false \n", ""]}, "missing", False),
])
def test_how_the_kernel_has_a_tunnel(change, how, available):
    told = record("networkd")
    for path, answer in change.items():
        if path == "modprobe":
            told["run"]["modprobe -n -v sit"] = answer
        else:
            told["text"][path] = answer
    assert seen(told)[0]["kinds"]["sit"] == {"how": how, "available": available}


@pytest.mark.parametrize(("device", "loaded", "expected"), [
    (True, False, {"available": True, "how": "builtin"}),      # a container, or a kernel with the driver built in
    (False, True, {"available": False, "how": "loaded"}),      # a container without the device
    (False, False, {"available": False, "how": "missing"}),
])
def test_the_tun_device(device, loaded, expected):
    told = record("networkd")
    told["exists"]["/dev/net/tun"] = device
    told["text"]["/proc/modules"] = "tun 1 0 - Live 0x0\n" if loaded else ""
    told["run"].pop("modprobe -n -v tun")
    assert seen(told)[0]["kinds"]["tun"] == expected


def test_ipv6_switched_off_is_said_with_the_reason():
    told = record("networkd")
    told["text"][f"{CONF6}/all/disable_ipv6"] = "1\n"
    assert seen(told)[0]["ipv6_why"] == "net.ipv6.conf.all.disable_ipv6 is 1."
    told["names"][CONF6] = []
    host = seen(told)[0]
    assert host["ipv6"] is False and "ipv6.disable=1" in host["ipv6_why"]


def test_how_we_came_in_is_found_behind_sudo():
    told = record("networkd")
    own = told["identity"]["pid"]
    told["text"][f"/proc/{own}/environ"] = "PATH=/bin\0SUDO_USER=x"
    told["text"][f"/proc/{own}/status"] = "Name:\tpython3\nPPid:\t77\n"
    told["text"]["/proc/77/environ"] = "SSH_CONNECTION=10.99.0.1 40428 10.99.0.131 22"
    assert seen(told)[0]["management"] == {"peer": "10.99.0.1", "local": "10.99.0.131", "device": "eth0"}


def test_nobody_came_in_over_ssh():
    told = record("networkd")
    for path in [path for path in told["text"] if path.endswith("/environ")]:
        told["text"][path] = "SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535"
    assert seen(told)[0]["management"] == {"peer": None, "local": None, "device": None}


def test_addresses_that_can_change_are_told_apart():
    host = seen(record("networkd"))[0]
    assert host["links"]["up0"]["dynamic"] == host["links"]["up0"]["addresses"] != []
    assert host["links"]["eth1"]["dynamic"] == []
    assert [(route["device"], route["protocol"], route["metric"]) for route in host["default_routes"]] == [("up0", "ra", 1024)]


def test_every_hop_of_a_default_route_counts():
    told = record("ifupdown")
    told["run"]["ip -j -4 route show default"] = [0, json.dumps([
        {"dst": "default", "metric": 100, "protocol": "static", "nexthops": [{"dev": "eth1", "gateway": "198.51.100.1"}, {"dev": "eth2"}]},
        {"type": "unreachable", "dst": "default"}]), ""]
    assert [(r["device"], r["gateway"]) for r in seen(told)[0]["default_routes"] if r["family"] == 4] == [
        ("eth1", "198.51.100.1"), ("eth2", None)]


def test_what_earlier_runs_made_and_agents_hold_is_known():
    told = record("networkd")
    item = {"kind": "address", "device": "eth2", "cidr": "2001:db8:a::1/64"}
    sysctl = {"kind": "sysctl", "name": "net/ipv6/conf/all/forwarding", "value": "1"}
    memory = {"schema": 1, "name": "tsp-linux-tsp", "devices": ["tsp0"], "files": {"/etc/a": {"was": {"content": "c2VjcmV0"}}}, "edits": {},
              "directories": {}, "items": [item, sysctl], "facts": [], "services": {}, "settle": []}
    told["names"].update({"/var/lib/tsp-apply": ["tsp-linux-tsp.before.json", "tsp-x"], "/run": ["tsp-b", "tspx"],
                          "/run/tsp-b": ["b.undo.json"]})
    told["text"]["/var/lib/tsp-apply/tsp-linux-tsp.before.json"] = json.dumps(memory)
    told["exists"]["/var/lib/tsp-apply/tsp-x/journal.json"] = True
    told["text"]["/run/tsp-b/b.undo.json"] = json.dumps({"address eth3 2001:db8:b::1/64": ["ip"], "sysctl x=1": ["sysctl"]})
    host, warnings = seen(told)
    assert not warnings
    assert host["ours"] == {
        "tsp-linux-tsp": {"devices": ["tsp0"], "files": ["/etc/a"], "addresses": ["eth2 2001:db8:a::1/64"], "items": [sysctl],
                          "unfinished": False},
        "tsp-x": {"devices": [], "files": [], "addresses": [], "items": [], "unfinished": True},
        "agent:b": {"devices": [], "files": [], "addresses": ["eth3 2001:db8:b::1/64"], "items": [], "unfinished": False}}
    assert "c2VjcmV0" not in json.dumps(host)


@pytest.mark.parametrize("text", ["", "[1]", '{"items": 1}', '{"devices": [], "files": {}, "edits": {}, "items": [{"kind": "address"}]}'])
def test_half_a_memory_is_a_warning(text):
    told = record("networkd")
    told["names"]["/var/lib/tsp-apply"] = ["a.before.json"]
    told["text"]["/var/lib/tsp-apply/a.before.json"] = text
    host, warnings = seen(told)
    assert host["ours"] == {} and any("a.before.json cannot be read" in said for said in warnings)


def test_without_systemd_and_without_tools():
    told = record("ifupdown")
    told["exists"]["/run/systemd/system"] = False
    told["tool"] = {}
    told["run"] = {}
    host, warnings = seen(told)
    assert host["service_manager"] == "none" and host["systemd_version"] is None and host["links"] == {}
    assert not any(host["governors"].values()) and host["tools"]["ip"] is None
    assert any("ip -j -d addr show does not work here" in said for said in warnings)


def test_radvd_is_seen_with_and_without_systemd():
    told = record("networkmanager")
    assert seen(told)[0]["radvd"] == {"installed": True, "active": False, "enabled": False, "config": "/etc/radvd.conf",
                                      "interfaces": ["eth2"]}
    told["exists"]["/run/systemd/system"] = False
    told["text"].update({"/run/radvd.pid": "99\n", "/proc/99/comm": "radvd\n"})
    assert seen(told)[0]["radvd"]["active"] is True


def test_other_users_are_warned():
    told = record("networkd")
    told["identity"]["uid"] = 1000
    host, warnings = seen(told)
    assert host["root"] is False and any("Only root" in said for said in warnings)


@pytest.mark.parametrize("name", HOSTS)
def test_nothing_is_asked_that_changes_a_host(name):
    for line in record(name)["run"]:
        assert line.startswith(("ip -j ", "systemctl show ", "systemctl --version", "modprobe -n ", "nmcli -t -f "))


def test_this_host_is_seen():
    host, _warnings = gather()
    assert host["system"] and host["links"]["lo"]["up"] and "127.0.0.1/8" in host["links"]["lo"]["addresses"]


def test_the_task_gives_a_fact_when_asked():
    look = Recorded(record("networkd"), Completed)
    result = run({"fact": "tsp_host", "state_dir": "/var/lib/tsp-apply"}, look=look)
    assert result["changed"] is False and result["ansible_facts"] == {"tsp_host": result["host"]}
    assert "ansible_facts" not in run({"fact": None, "state_dir": "/var/lib/tsp-apply"}, look=look)
    with pytest.raises(LocalError) as caught:
        run({"fact": "a b", "state_dir": "/x"}, look=look)
    assert caught.value.code == "invalid_option"
