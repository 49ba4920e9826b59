# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bad input on a machine with systemd, through the roles: one clear error each, the same in check mode, and nothing is touched.

For each state of the host there is one look at it, and then every case in check mode and in earnest. The leases are as a broker would
have granted them; what only an exchange shows is asked of the laboratory's broker.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Run
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import PROJECT
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Machine, Nic, Rig, why_not
from ansible_collections.tunnelbroker.tsp.tests.lab.vm.site import BROKER, Site

WHY_NOT = why_not()
pytestmark = [pytest.mark.root, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
OUTER = "192.0.2.30"
OUTER6, BROKER6 = "2001:db8:1::30", "2001:db8:1::1"
PREFIX = "2001:db8:a1::/56"
PICTURE = r"""
ip -o addr show | sed 's/^[0-9]*: //; s/ *valid_lft.*//'
ip -o link show | sed 's/^[0-9]*: //; s/ *qlen.*//'
for family in -4 -6; do ip $family route show table all | sed 's/ expires [0-9]*sec//'; ip $family rule show; done
ip fou show 2>/dev/null
find /etc /usr/local /var/lib/tsp* /run/systemd/network /run/systemd/system -type f -exec md5sum {} + 2>/dev/null
find /etc /usr/local /var/lib/tsp* /run/tsp* ! -type f 2>/dev/null
systemctl list-units --all --plain --no-legend 'tsp*' 'radvd*' | tr -s ' '
nft list ruleset
grep -s "" /proc/sys/net/ipv[46]/conf/{all,default,wan,lan,lan2,mgmt}/*
true
"""
NO_MODULES = "install sit /bin/false\\ninstall fou /bin/false\\ninstall ip6_tunnel /bin/false\\n"
STATES = {
    "clean": ("", ""),
    "crowded": ("""
ip link add taken0 type dummy
ip link add theirs type sit local 192.0.2.30 remote 192.0.2.1 ttl 64
ip link add dead0 type dummy; echo 1 >/proc/sys/net/ipv6/conf/dead0/disable_ipv6
ip link set lan2 up; ip addr add 2001:db8:f:9::2/128 dev lan2 nodad
ip addr add 2001:db8:b0::5/48 dev lan nodad
ip addr add 2001:db8:b1:0::5/64 dev lan2 nodad
mv /usr/sbin/radvd /usr/sbin/radvd.away; mv /usr/sbin/nft /usr/sbin/nft.away
""", """
mv /usr/sbin/nft.away /usr/sbin/nft; mv /usr/sbin/radvd.away /usr/sbin/radvd
ip addr del 2001:db8:b0::5/48 dev lan
ip addr del 2001:db8:f:9::2/128 dev lan2; ip addr del 2001:db8:b1:0::5/64 dev lan2
for name in taken0 theirs dead0; do ip link del $name; done
rmmod sit
"""),
    "etc read-only": ("mount --bind /etc /etc; mount -o remount,bind,ro /etc", "umount /etc"),
    "var read-only": ("mount --bind /var/lib /var/lib; mount -o remount,bind,ro /var/lib", "umount /var/lib"),
    "no IPv6": ("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6", "echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6"),
    "no modules": (f"printf '{NO_MODULES}' >/etc/modprobe.d/none.conf", "rm /etc/modprobe.d/none.conf"),
    "not root": ("", ""),
}
"""Of the host: how it is made, and how it is undone."""
OWN_MIND = """
from module_utils._broker.inventory import Inventory
whole = Inventory.prefix
Inventory.prefix = lambda self, version, length, fixed: whole(self, version, 56 if length == 62 else length, fixed)
"""


def lease(mode: str = "v6v4", prefix: str | None = PREFIX, server: str = "192.0.2.2", number: int = 1,
          outer: str = OUTER) -> dict[str, Any]:
    """A lease as a broker would have granted it."""
    inside, udp = mode == "v4v6", mode == "v6udpv4"
    client = ("203.0.113.2", OUTER6) if inside else (outer, f"2001:db8:f:{number}::2")
    far = ("203.0.113.1", BROKER6) if inside else (server, f"2001:db8:f:{number}::1")
    return {"schema": 1, "broker": "far.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "digest-md5",
            "username": "alice", "mode": mode,
            "client": {"ipv4": client[0], "ipv6": client[1], "dns_name": None, "udp_port": 40000 if udp else None},
            "server": {"ipv4": far[0], "ipv6": far[1], "dns_name": None, "udp_port": 3653 if udp else None},
            "prefix": prefix, "dns_servers": [], "keepalive": None, "lifetime": None,
            "obtained_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "path_mtu": 1500,
            "request": {"mode": mode, "host_type": "router"}, "local_address": OUTER6 if inside else outer}


@dataclass(frozen=True)
class Case:
    """One wish. code: of the error; None where Ansible itself refuses. said: words of its sentences. role: linux, given a lease; or
    tunnel, which asks the broker."""

    name: str
    code: str | None
    said: str
    state: str = "clean"
    wishes: dict[str, Any] = field(default_factory=dict)
    lease: dict[str, Any] = field(default_factory=lease)
    role: str = "linux"
    attempts: tuple[str, ...] = ("check", "run")


def lan(*interfaces: Any, **more: Any) -> dict[str, Any]:
    return {"linux_lan_interfaces": list(interfaces), **more}


def magic(name: str) -> Case:
    return Case(f"unknown-{name}", None, rf"{name} must be one of: .*magic", wishes={name: "magic"}, attempts=("run",))


def asked(name: str, code: str, said: str, state: str, **wishes: Any) -> Case:
    return Case(name, code, said, state, wishes, role="tunnel", attempts=("run",))


FOU = {"linux_data_plane": "fou"}
CASES = (
    Case("lan-missing", "lan_missing", "no interface nix on this host.*lan, lan2, mgmt", wishes=lan("nix")),
    Case("lan-is-the-uplink", "lan_invalid", "wan is the interface that the tunnel leaves by", wishes=lan("wan")),
    Case("lan-is-the-tunnel", "lan_invalid", "tsp0 is the tunnel itself", wishes=lan("tsp0")),
    Case("lan-named-twice", "lan_invalid", "lan is named twice", wishes=lan("lan", "lan")),
    Case("subnet-given-twice", "lan_invalid", "Subnet 1 is given to two",
         wishes=lan({"name": "lan", "subnet": 1}, {"name": "lan2", "subnet": 1})),
    Case("subnet-out-of-range", "prefix_too_small", "too few for subnet 256.*shorter prefix_length",
         wishes=lan({"name": "lan", "subnet": 256})),
    Case("a-64-for-two-lans", "prefix_too_small", "holds 1 network of length 64, too few for 2 LAN interfaces", wishes=lan("lan", "lan2"),
         lease=lease(prefix="2001:db8:a1::/64")),
    Case("subnets-exhausted", "prefix_too_small", "holds 2 networks of length 64, too few for 3", wishes=lan("lan", "lan2", "mgmt"),
         lease=lease(prefix="2001:db8:a1::/63")),
    Case("prefix-longer-than-a-lan", "prefix_too_small", "longer than 64 bits", wishes=lan("lan"), lease=lease(prefix="2001:db8:a1::/72")),
    Case("no-prefix", "no_prefix", "no delegated prefix for LAN interface lan.*host_type: router", wishes=lan("lan"),
         lease=lease(prefix=None)),
    Case("address-gone", "address_gone", "192.0.2.99, which is no address of this host any more.*tunnel_renew",
         lease=lease(outer="192.0.2.99"), wishes={"linux_backend": "ifupdown"}),
    Case("backend-of-another-system", "backend_mismatch", "NetworkManager is not at work", wishes={"linux_backend": "networkmanager"}),
    Case("backend-without-a-tun-device", "backend_cannot", "Only the agent carries packets through a TUN device", lease=lease("v6udpv4"),
         wishes={"linux_backend": "ifupdown", "linux_data_plane": "tun"}),
    Case("mtu-below-the-floor", "mtu_invalid", "mtu 1200 is out of range.*1280", wishes={"linux_mtu": 1200}),
    Case("name-of-the-tunnel", "name_invalid", "letters", wishes={"tunnel_name": "a b"}),
    Case("name-of-the-device", "device_invalid", "15 letters", wishes={"linux_device": "a-name-that-is-too-long"}),
    Case("no-port", "firewall_invalid", "'ssh' is not a port", wishes={"linux_firewall": True, "linux_firewall_tcp": ["ssh"]}),
    Case("no-lease", "lease_invalid", "it has no 'mode'", lease={"schema": 1}),
    *map(magic, ("linux_backend", "linux_data_plane", "linux_default_route", "linux_service_manager", "tunnel_state")),

    Case("device-of-somebody-else", "device_taken", r"There is a device taken0 \(dummy\)", "crowded", {"linux_device": "taken0"}),
    Case("tunnel-of-somebody-else", "endpoints_taken", "tunnel theirs from 192.0.2.30 to 192.0.2.1 already", "crowded",
         lease=lease(server="192.0.2.1")),
    Case("inner-address-elsewhere", "address_taken", "2001:db8:f:9::2, our address inside the tunnel, is on lan2", "crowded",
         lease=lease(number=9)),
    Case("lan-holds-an-overlapping-prefix", "lan_conflict", "lan is to get 2001:db8:b0::/64, but lan holds 2001:db8:b0::5/48 as well",
         "crowded", lan("lan"), lease(prefix="2001:db8:b0::/56")),
    Case("the-network-is-on-another-lan", "lan_conflict", "lan is to get 2001:db8:b1::/64, but lan2 holds 2001:db8:b1::5/64 and not lan",
         "crowded", lan("lan"), lease(prefix="2001:db8:b1::/56")),
    Case("lan-without-ipv6", "lan_ipv6_disabled", "dead0", "crowded", lan("dead0")),
    Case("no-radvd", "radvd_missing", "radvd is not installed.*radvd_install", "crowded", lan("lan", linux_radvd=True)),
    Case("no-nft", "no_nftables", "no nft.*Install nftables", "crowded", {"linux_firewall": True}),

    Case("etc-read-only", "read_only", "^/etc of this host cannot be written", "etc read-only"),
    Case("var-lib-read-only", "read_only", "/var/lib of this host cannot be written", "var read-only"),
    Case("ipv6-switched-off", "ipv6_disabled", r"net.ipv6.conf.default.disable_ipv6 is 1", "no IPv6"),
    Case("no-root", "not_root", "Only root.*become: true", "not root"),
    Case("no-sit", "no_sit", "has no sit", "no modules"),
    Case("no-ip6-tunnel", "no_ip6tnl", "has no ip6tnl.*ip6_tunnel", "no modules", lease=lease("v4v6", "203.0.113.64/26")),
    Case("no-fou", "no_fou", "has no fou.*linux_data_plane to auto", "no modules", FOU, lease("v6udpv4")),

    # Nothing of this needs a lease to be known: the broker is not asked.
    Case("asked-lan-missing", "lan_missing", "no interface nix", wishes={"tunnel_lan_interfaces": ["nix"]}, role="tunnel"),
    asked("asked-unknown-backend", "invalid_option", "linux_backend 'magic' is unknown", "clean", linux_backend="magic"),
    asked("asked-no-sit", "no_sit", "has no sit", "no modules", tunnel_mode="v6v4"),
    asked("asked-no-fou", "no_fou", "has no fou", "no modules", **FOU),
    asked("asked-etc-read-only", "read_only", "/etc of this host", "etc read-only"),
)


def plays() -> list[dict[str, Any]]:
    """One for each state and role. Each case is a host of the inventory, and all of them are one machine: so they go side by side."""
    out: list[dict[str, Any]] = []
    for state, (make, undo) in STATES.items():
        become = {"become": True, "become_method": "su", "become_user": "nobody", "become_flags": "-s /bin/sh",
                  "vars": {"ansible_remote_tmp": "/tmp/nobody"}}
        look = {"tunnelbroker.tsp.linux_info": {}, "register": "tunnel_host", "run_once": True, **(become if state == "not root" else {})}
        inside = [look, *(attempt(role, how) for role in ("linux", "tunnel") for how in ("check", "run"))]
        tasks = [{"raw": make, "run_once": True}, {"block": inside, "always": [{"raw": undo or "true", "run_once": True}]}]
        out.append({"hosts": group(state), "gather_facts": False, "tasks": tasks if make else tasks[1:]})
    return out


def attempt(role: str, how: str) -> dict[str, Any]:
    return {"block": [{"include_role": {"name": f"tunnelbroker.tsp.{role}"}}], "check_mode": how == "check", "rescue": [{"meta": "noop"}],
            "when": f"case_role == '{role}' and '{how}' in case_attempts"}


def group(state: str) -> str:
    return re.sub(r"\W+", "_", state)


def failures(output: str) -> dict[str, list[dict[str, Any]]]:
    """What Ansible printed for each case: in check mode, and in earnest."""
    out: dict[str, list[dict[str, Any]]] = {}
    for name, result in re.findall(r"^fatal: \[(.*?)\]: FAILED! => (\{.*)", output, re.MULTILINE):
        out.setdefault(name, []).append(json.loads(result))
    return out


def own_mind(folder: Path) -> Path:
    """The broker, but for one thing: who asks for a /62 gets a /56. RFC 5572 (section 4.7.2) lets brokers do such things."""
    folder.mkdir()
    (folder / "module_utils").symlink_to(PROJECT / "plugins/module_utils")
    (folder / "sitecustomize.py").write_text(OWN_MIND)
    return folder


class World:
    """A router with ifupdown, and a broker that grants another length than /62."""

    def __init__(self, lab: Lab) -> None:
        self.site = Site(lab)
        self.rig = Rig(lab)
        self.host: Machine = self.rig.start(
            "host", self.site.outside(30, "wan"), Nic("lan", lab.segment("lan"), ("10.1.0.1/24", "fd00:1::1/64")),
            Nic("lan2", lab.segment("lan2")), governor="ifupdown")
        self.site.start_broker(["alice"], plugins=own_mind(lab.folder / "plugins"))
        self.host.wait()
        self.ansible = self.rig.ansible(lab.folder / "ansible", ANSIBLE_CALLBACK_RESULT_FORMAT="json")
        self.inventory = self.ansible.write_inventory(self.rig.inventory({"host": self.host}, self.site.variables("alice")))
        self.many = self.ansible.write_inventory(self._cases(), "cases.json")
        self.book = lab.folder / "play.json"

    def _cases(self) -> dict[str, Any]:
        groups: dict[str, Any] = {group(state): {"hosts": {}} for state in STATES}
        for case in CASES:
            groups[group(case.state)]["hosts"][case.name] = {
                **self.rig.host_variables(self.host), "case_role": case.role, "case_attempts": list(case.attempts), **case.wishes,
                **({"tunnel_lease": case.lease} if case.role == "linux" else {})}
        return {"all": {"children": groups, "vars": self.site.variables("alice")}}

    def run(self, play: list[dict[str, Any]], *words: str, inventory: Path | None = None, **variables: Any) -> Run:
        self.book.write_text(json.dumps(play), encoding="utf-8")
        return self.ansible.playbook(str(self.book), "-e", json.dumps(variables), *words, inventory=inventory or self.inventory,
                                     timeout=900)

    def refused(self, role: str, *words: str, **variables: Any) -> dict[str, Any]:
        """The result of the task that fails."""
        run = self.role(role, *words, **variables)
        failed = re.search(r"^fatal: \[host\]: FAILED! => (\{.*)", run.output, re.MULTILINE)
        assert run.returncode == 2 and failed, run.output
        result: dict[str, Any] = json.loads(failed[1])
        return result

    def role(self, role: str, *words: str, **variables: Any) -> Run:
        return self.run([{"hosts": "all", "gather_facts": False, "roles": [f"tunnelbroker.tsp.{role}"]}], *words, **variables)

    def picture(self) -> list[str]:
        return sorted(self.host.run("bash -s", input=PICTURE).stdout.splitlines())

    def changed_since(self, before: list[str], patience: float = 60) -> tuple[list[str], list[str]]:
        """What is gone and what is new, once the dust has settled."""
        end = time.monotonic() + patience
        while True:
            now = self.picture()
            if now == before or time.monotonic() > end:
                return sorted(set(before) - set(now)), sorted(set(now) - set(before))
            time.sleep(0.5)


@dataclass(frozen=True)
class Told:
    """How all cases ended, what Ansible printed, and what of the host is another."""

    results: dict[str, list[dict[str, Any]]]
    output: str
    changed: tuple[list[str], list[str]]


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab("bad-input", lambda: request.session.testsfailed) as lab:
        yield World(lab)


@pytest.fixture(scope="module")
def told(world: World) -> Told:
    before = world.picture()
    run = world.run(plays(), "--forks", "8", inventory=world.many)
    return Told(failures(run.output), run.output, world.changed_since(before))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_clear_error(told: Told, case: Case) -> None:
    results = told.results[case.name]
    assert len(results) == len(case.attempts), results
    result = results[-1]
    assert re.search(case.said, result["msg"], re.DOTALL), result["msg"]
    for noise in ("Traceback", "{{", "filter plugin", "template", "KeyError"):
        assert noise not in result["msg"]
    if case.code is not None:
        error = result["error"]
        assert (error["code"], error["kind"], bool(error["hint"])) == (case.code, "local", True), error
        assert result["msg"] == f"{error['message']} {error['hint']}"
    assert results[0]["msg"] == result["msg"]


def test_nothing_was_touched(told: Told) -> None:
    assert told.changed == ([], [])


def test_nothing_secret_was_said(world: World, told: Told) -> None:
    assert world.site.passwords["alice"] not in told.output and "Traceback" not in told.output


@pytest.fixture
def loaded(world: World) -> Iterator[list[str]]:
    """The host with what a transaction may leave behind: the module, which brings a device."""
    world.host.run("modprobe sit")
    yield world.picture()
    world.host.run("rmmod sit")


def test_a_full_disk_and_a_broken_file_leave_nothing_half_done(world: World, loaded: list[str]) -> None:
    given = {"tunnel_lease": lease(), "linux_backend": "ifupdown", "linux_probe": False, "linux_lan_interfaces": ["lan"]}
    folder = "/etc/network/interfaces.d"
    world.host.run(f"mount -t tmpfs -o size=4k,mode=755 tmpfs {folder}; head -c 4096 /dev/zero >{folder}/full")
    full = world.refused("linux", **given)
    world.host.run(f"umount {folder}")
    assert full["error"]["code"] == "host_refused" and "No space left on device. Everything is as it was before." in full["msg"]

    world.host.run("echo 'interface lan2 { AdvSendAdvert perhaps; };' >/etc/radvd.conf")
    broken = [world.refused("linux", *words, **given, linux_radvd=True) for words in (["--check"], [])]
    world.host.run("rm /etc/radvd.conf")
    assert (broken[1]["error"]["code"], broken[1]["error"]["kind"]) == ("test_failed", "local"), broken
    said = [re.search("as they are: .*/etc/radvd.conf:1 error: syntax error", result["msg"]) for result in broken]
    assert said[0] and said[1] and said[0][0] == said[1][0], broken
    assert world.changed_since(loaded) == ([], [])


def test_a_prefix_of_another_length_is_said_and_with_strict_refused(world: World) -> None:
    asked = {"tunnel_host_type": "router", "tunnel_prefix_length": 62, "tunnel_mode": "v6v4", "linux_backend": "ifupdown"}
    before = world.picture()
    refused = world.refused("tunnel", **asked, tunnel_strict=True)
    assert (refused["error"]["code"], refused["error"]["kind"]) == ("bad_grant", "remote")
    assert re.search("a prefix of length 62 was asked for, and the broker delegated .*/56.*strict", refused["msg"])
    # It remembers when it asked, and whom.
    assert [line for line in sum(world.changed_since(before, 0), []) if "/var/lib/tsp" not in line] == []
    unknown = world.refused("tunnel", **{**asked, "tunnel_prefix_length": 40})
    assert (unknown["error"]["code"], unknown["error"]["status"]) == ("prefix_length_unsupported", 518)
    assert "Ask for another prefix_length" in unknown["msg"]
    taken = world.run([{"hosts": "all", "gather_facts": False, "tasks": [{"tunnelbroker.tsp.tunnel": {
        "broker": [BROKER], "mode": "v6v4", "host_type": "router", "prefix_length": 62, "username": "alice", "min_interval": 0,
        "password": world.site.passwords["alice"], "lease_file": "/run/lease"}}]}])
    assert taken.returncode == 0 and re.search("A prefix of length 62 was asked for, and the broker delegated .*/56", taken.output)


def test_another_way_is_taken_where_the_kernel_cannot(world: World) -> None:
    """The last one: its tunnel stays."""
    world.host.run(f"printf '{NO_MODULES}' >/etc/modprobe.d/none.conf")
    shown = {"debug": {"msg": "{{ ansible_facts.tunnel_setup | to_json }} {{ ansible_facts.tunnel_proof | to_json }}"}}
    run = world.run([{"hosts": "all", "gather_facts": False, "roles": ["tunnelbroker.tsp.tunnel"], "post_tasks": [shown]}],
                    linux_probe_timeout=60)
    assert run.returncode == 0, run.output
    for words in ('"data_plane": "tun"', '"mode": "v6udpv4"', "has no sit", '"proved": true'):
        assert words.replace('"', '\\"') in run.output, run.output
