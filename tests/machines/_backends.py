# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A router of one of the systems that configure hosts, somebody on its LAN, and a machine with the broker's ends of three tunnels.

       198.51.100.0/24 and 2001:db8:ee::/64
    ───┬──────────────────┬────────────────
       │.1 .2 ::1         │.31 ::31
      far               router ───── LAN ───── neighbour (.66, ::2 of whatever prefix the tunnel brings)

The role linux is given leases as a broker would have granted them.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Run
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import PROJECT
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Machine, Nic, Rig

OUTER, OUTER6 = "198.51.100.31", "2001:db8:ee::31"
BROKER, BROKER6 = "198.51.100.{}", "2001:db8:ee::1"
ELSEWHERE = {4: "192.0.2.99", 6: "2001:db8:dd::1"}
"""Behind the broker, and behind the native default route as well."""
ENDS = "\n".join((
    "modprobe -a sit fou ip6_tunnel",
    f"ip link add s1 type sit local 198.51.100.1 remote {OUTER} ttl 64",
    "ip fou add port 3653 ipproto 41",
    f"ip link add s2 type sit local 198.51.100.2 remote {OUTER} ttl 64 encap fou encap-sport 3653 encap-dport 40000 encap-csum",
    f"ip link add s3 type ip6tnl mode ipip6 local {BROKER6} remote {OUTER6} encaplimit none",
    "for end in s1 s2 s3; do ip link set $end up; done",
    "for n in 1 2; do ip addr add 2001:db8:f:$n::1/128 dev s$n nodad; ip route add 2001:db8:f:$n::2/128 dev s$n; done",
    "for n in 1 2; do ip route add 2001:db8:a$n::/56 dev s$n; done",
    "ip addr add 192.0.2.1/32 dev s3; ip route add 192.0.2.2/32 dev s3; ip route add 203.0.113.64/26 dev s3",
    *(f"ip addr add {address} dev lo" for address in ELSEWHERE.values())))
KERNEL = r"""
exec 2>&1
ip -o addr show | sed 's/^[0-9]*: //; s/ *valid_lft.*//'
ip -o link show | sed 's/^[0-9]*: //; s/ *qlen.*//'
for family in -4 -6; do ip $family route show table all | sed 's/ expires [0-9]*sec//'; ip $family rule show; done
ip fou show
nft list ruleset
cd /proc/sys/net
grep -s "" ipv[46]/conf/*/*
true
"""
# NetworkManager gives lo a profile of its own at each boot, and that another uuid.
FILES = r"""
exec 2>&1
systemctl --root=/ list-unit-files --no-legend --no-pager | sed 's/^/unit file /'
systemctl list-units --all --no-legend --no-pager --plain 'tsp*'
find /etc /run/systemd/network /run/network /usr/local /var/lib/tsp* -type f -exec md5sum {} +
find /etc /usr/local /var/lib/tsp* ! -type f -printf '%y %m %p %l\n'
nmcli -t -f NAME,UUID,DEVICE connection show | grep -v ':lo$' | sed 's/^/profile /'
true
"""


def lease(number: int, mode: str) -> dict[str, Any]:
    """The lease for the tunnel to the broker's end of this number."""
    inside, udp = mode == "v4v6", mode == "v6udpv4"
    client = ("192.0.2.2", OUTER6) if inside else (OUTER, f"2001:db8:f:{number}::2")
    server = ("192.0.2.1", BROKER6) if inside else (BROKER.format(number), f"2001:db8:f:{number}::1")
    return {"schema": 1, "broker": "far.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "digest-md5",
            "username": "alice", "mode": mode, "client": {"ipv4": client[0], "ipv6": client[1], "dns_name": None,
                                                          "udp_port": 40000 if udp else None},
            "server": {"ipv4": server[0], "ipv6": server[1], "dns_name": None, "udp_port": 3653 if udp else None},
            "prefix": "203.0.113.64/26" if inside else f"2001:db8:a{number}::/56", "dns_servers": [], "keepalive": None, "lifetime": None,
            "obtained_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "path_mtu": 1500,
            "request": {"mode": mode, "host_type": "router"}, "local_address": OUTER6 if inside else OUTER}


SIT, UDP, INSIDE = lease(1, "v6v4"), lease(2, "v6udpv4"), lease(3, "v4v6")
LAN = {"v6v4": ("2001:db8:a1::1", "2001:db8:a1::2"), "v6udpv4": ("2001:db8:a2::1", "2001:db8:a2::2"),
       "v4v6": ("203.0.113.65", "203.0.113.66")}
"""Mode to the router's and the neighbour's address on the LAN."""
MTU = {"v6v4": 1480, "v6udpv4": 1472, "v4v6": 1460}


class World:
    """The machines, and what a test does with them."""

    def __init__(self, lab: Lab, governor: str) -> None:
        self.governor = governor
        self.rig = Rig(lab)
        internet, lan = lab.segment("internet"), lab.segment("lan")
        self.neighbour: Namespace = lab.namespace("neighbour")
        lan.attach(self.neighbour, "eth0", "203.0.113.66/26", "2001:db8:a1::2/64", "2001:db8:a2::2/64")
        self.neighbour.ip("route add 192.0.2.1 via 203.0.113.65",
                          *(f"route add 2001:db8:f:{number}::1 via 2001:db8:a{number}::1" for number in (1, 2)))
        addresses = (*(f"{BROKER.format(number)}/24" for number in (1, 2)), f"{BROKER6}/64")
        far = self.rig.start("far", Nic("wan", internet, addresses), kind="lean")
        self.host: Machine = self.rig.start(
            "router", Nic("wan", internet, (f"{OUTER}/24", f"{OUTER6}/64"), (BROKER.format(1), BROKER6)),
            Nic("lan", lan, ("10.0.0.1/24", "fd00:1::1/64")), governor=governor)
        far.wait()
        far.run(ENDS)
        self.host.wait()
        # The modules first: with them come devices such as sit0, which stay.
        self.load_modules()
        self.results = lab.folder / "results.json"
        self.ansible = self.rig.ansible(lab.folder / "ansible", ANSIBLE_CALLBACK_PLUGINS=str(PROJECT / "tests/lab/callback_plugins"),
                                        ANSIBLE_CALLBACKS_ENABLED="lab_results", LAB_RESULTS=str(self.results))
        self.inventory = self.ansible.write_inventory(self.rig.inventory({"router": self.host}))
        self.book = lab.folder / "play.json"
        self.book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": ["tunnelbroker.tsp.linux"]}]), encoding="utf-8")

    def load_modules(self) -> None:
        """A reboot takes away those that the test has loaded."""
        self.host.run("modprobe -a sit fou ip6_tunnel nf_tables")

    def try_play(self, given: dict[str, Any] | None, *words: str, **variables: Any) -> tuple[Run, dict[str, Any]]:
        """(the run of the role, the result of its transaction: {} where there was none). given: the lease; None takes the tunnel away."""
        self.results.unlink(missing_ok=True)
        everything = {"tunnel_state": "present" if given else "absent", "tunnel_lease": given or {}, "linux_lan_interfaces": ["lan"],
                      "linux_probe_timeout": 60, **variables}
        run = self.ansible.playbook(str(self.book), "--diff", "-e", json.dumps(everything), *words, inventory=self.inventory)
        lines = self.results.read_text(encoding="utf-8").splitlines() if self.results.exists() else []
        found = [entry["result"] for entry in map(json.loads, lines) if entry["action"].endswith("apply_config")]
        return run, found[-1] if found else {}

    def play(self, given: dict[str, Any] | None, *words: str, **variables: Any) -> dict[str, Any]:
        """The result of the transaction of a run that must not fail."""
        run, result = self.try_play(given, *words, **variables)
        assert run.returncode == 0 and result, run.output
        assert run.changed == int(result["changed"]), run.output
        return result

    def carries(self, given: dict[str, Any]) -> None:
        """Packets of the largest size from this host and from its LAN get to the broker's end and back. After a boot they may have to
        wait for addresses."""
        mode = given["mode"]
        family = "ipv4" if mode == "v4v6" else "ipv6"
        size = MTU[mode] - {"ipv4": 28, "ipv6": 48}[family]
        for where, source in ((self.host.run, given["client"][family]), (self._from_lan, LAN[mode][1])):
            where(f"timeout 60 sh -c 'until ping -n -q -c1 -W5 -M do -s {size} -I {source} {given['server'][family]}; do sleep 0.2; done'")

    def _from_lan(self, command: str) -> None:
        self.neighbour.run("sh", "-c", command, timeout=90)

    def ways(self, given: dict[str, Any]) -> dict[str, str]:
        """The device by which packets to somewhere else leave: those of the host's own address, of the tunnel's, and of the LAN."""
        mode = given["mode"]
        version = 4 if mode == "v4v6" else 6
        sources = {"native": f"from {OUTER if version == 4 else OUTER6}", "tunnel": f"from {given['client'][f'ipv{version}']}",
                   "lan": f"from {LAN[mode][1]} iif lan"}
        found = {}
        for name, words in sources.items():
            said = json.loads(self.host.run(f"ip -j route get {ELSEWHERE[version]} {words}").stdout)
            found[name] = said[0]["dev"]
        return found

    def default_routes(self) -> list[str]:
        """The native ones, of both families."""
        found = self.host.run("ip route show default; ip -6 route show default").stdout.splitlines()
        return sorted(" ".join(line.split()) for line in found if " dev wan" in line)

    def picture(self, patience: int = 15) -> list[str]:
        """What is there, when the kernel's part has stopped changing."""
        before: list[str] = []
        for _attempt in range(patience):
            now = self.host.run("bash -s", input=KERNEL).stdout.splitlines()
            if now == before:
                break
            before = now
        return before + self.host.run("bash -s", input=FILES).stdout.splitlines()


def differences(before: list[str], after: list[str]) -> list[str]:
    """What went, and what came."""
    return [*(f"- {line}" for line in sorted(set(before) - set(after))), *(f"+ {line}" for line in sorted(set(after) - set(before)))]


def prediction(result: dict[str, Any]) -> dict[str, Any]:
    """What check mode must have right: whether anything changes, which steps there are, and what they change."""
    return {"changed": result["changed"], "steps": result["steps"], "diff": result["diff"]}
