# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a router with systemd advertised, until nobody needs it any more: by a timer, without another run, across a reboot.

A host on the LAN forms addresses and drops them as its kernel does.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._advertisements import Listener
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import freeze
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Run
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Machine, Nic, Rig, why_not
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease

WHY_NOT = why_not()
pytestmark = [pytest.mark.root, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
SITE = """# the site's
interface lan {
    AdvSendAdvert on;
    MinRtrAdvInterval 3; MaxRtrAdvInterval 4;
    prefix fd00:1::/64 { };
};
"""
OLD, NEW = "2001:db8:a::/64", "2001:db8:b::/64"
TIMER = "tsp-deprecate-tsp-tsp.timer"
HONORS = Path("/proc/sys/net/ipv6/conf/all/ra_honor_pio_life").exists()
"""Linux 6.9 and newer can take lifetimes as they come (RFC 9096); others keep an address for two hours (RFC 4862)."""
PICTURE = r"""
systemctl is-enabled radvd.service; systemctl is-active radvd.service
systemctl list-units --all --no-legend --no-pager --plain 'tsp*'
find /etc /usr/local /var/lib/tsp* -type f -exec md5sum {} + 2>/dev/null
find /etc/systemd /usr/local /var/lib/tsp* ! -type f 2>/dev/null
true
"""


class World:
    """A router whose network is networkd's, and a host on its LAN."""

    def __init__(self, lab: Lab) -> None:
        self.rig = Rig(lab)
        lan = lab.segment("lan")
        self.host = lab.namespace("host")
        lan.attach(self.host, "eth0")
        self.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
        if HONORS:
            self.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/ra_honor_pio_life")
        self.listener = Listener(self.host, "eth0")
        self.router: Machine = self.rig.start(
            "router", Nic("wan", lab.segment("internet"), "198.51.100.7/24", "198.51.100.1"), Nic("lan", lan, "fd00:1::1/64"),
            governor="networkd", files={"etc/radvd.conf": SITE}, enable=["radvd.service"])
        self.ansible = self.rig.ansible(lab.folder / "ansible")
        freeze(self.ansible.folder)
        self.inventory = self.ansible.write_inventory(self.rig.inventory({"router": self.router}))
        self.book = lab.folder / "play.json"
        self.book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": ["tunnelbroker.tsp.linux"]}]), encoding="utf-8")
        self.router.wait()

    def play(self, prefix: str | None, *words: str, **variables: Any) -> Run:
        """Run the role. prefix: whose lease is in hand; None takes the tunnel away. There is nobody at the other end of the tunnel."""
        given = {} if prefix is None else lease("v6v4", prefix.replace("/64", "/48")).to_dict()
        everything = {"tunnel_state": "present" if given else "absent", "tunnel_lease": given, "linux_backend": "networkd",
                      "linux_radvd": True, "linux_lan_interfaces": ["lan"], "linux_probe": False, **variables}
        run = self.ansible.playbook(str(self.book), "-e", json.dumps(everything), *words, inventory=self.inventory)
        assert run.returncode == 0, run.output
        return run

    def address(self, prefix: str) -> dict[str, Any]:
        """The host's address in a network, as `ip` tells of it; {} when it has none."""
        for link in self.host.ip_json("-6 addr show dev eth0 scope global"):
            for found in link.get("addr_info", []):
                if found.get("local", "").startswith(prefix.replace("::/64", ":")):
                    return dict(found)
        return {}

    def preferred(self, prefix: str) -> bool:
        return not self.address(prefix).get("deprecated", not self.address(prefix))

    def is_active(self, unit: str) -> bool:
        return self.router.run(f"systemctl is-active {unit}", check=False).stdout.strip() == "active"

    def picture(self) -> list[str]:
        return sorted(self.router.run("bash -s", input=PICTURE).stdout.splitlines())


def wait_for(what: str, condition: Callable[[], Any], patience: float = 300) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab("radvd-timer", lambda: request.session.testsfailed) as lab:
        made = World(lab)
        yield made
        made.listener.close()


def test_a_prefix_that_changes(world: World) -> None:
    router = world.router
    world.play(OLD)
    world.listener.hear(lambda said: OLD in said.prefixes, 120)
    wait_for("an address", lambda: world.preferred(OLD))
    assert not world.is_active(TIMER)

    assert world.play(NEW).changed == 1
    said = world.listener.hear(lambda said: said.prefixes.get(OLD, (1, 1))[1] == 0, 120)
    assert said.prefixes[NEW] == (5400, 2700) and 0 < said.prefixes[OLD][0] <= 7200 and "fd00:1::/64" in said.prefixes
    wait_for("the new address", lambda: world.preferred(NEW))
    wait_for("the old one is deprecated", lambda: not world.preferred(OLD))
    assert 0 < world.address(OLD)["valid_life_time"] <= 7200, "and yet sessions over it live on"
    assert world.is_active(TIMER) and world.is_active("radvd.service")

    router.reboot()
    wait_for("the timer is back", lambda: world.is_active(TIMER))
    world.listener.forget()
    later = world.listener.hear(lambda heard: OLD in heard.prefixes, 120)
    assert later.prefixes[OLD][1] == 0 and 0 < later.prefixes[OLD][0] < said.prefixes[OLD][0], "the time of the reboot counts"

    # The deadline, as the clock of the router has it.
    router.run("date -s +7201seconds; systemctl restart " + TIMER)
    pid = router.read("/run/radvd.pid")
    router.run("systemctl start tsp-deprecate-tsp-tsp.service")
    world.listener.hear(lambda said: OLD not in said.prefixes and NEW in said.prefixes, 120)
    wait_for("the timer is gone", lambda: not world.is_active(TIMER))
    assert router.read("/run/radvd.pid") == pid, "radvd went on, and has read its file anew"
    text = router.read("/etc/radvd.conf")
    assert OLD not in text and re.sub(r"(?s)    # BEGIN .*# END [^\n]*\n", "", text) == SITE
    assert not [line for line in world.picture() if "deprecate" in line or "radvd.service.d" in line]
    assert world.play(NEW).changed == 0


def test_a_teardown_on_a_router_that_had_radvd(world: World) -> None:
    """The tunnel goes at once; its prefix by and by, and with it everything that was left."""
    router = world.router
    assert world.play(None, radvd_deprecation=90).changed == 1
    assert router.run("ip link show tsp0", check=False).returncode
    said = world.listener.hear(lambda said: said.prefixes.get(NEW, (1, 1))[1] == 0, 120)
    assert 0 < said.prefixes[NEW][0] <= 90 and said.mtu is None
    wait_for("the last address is deprecated", lambda: not world.preferred(NEW))
    wait_for("the deadline", lambda: not world.is_active(TIMER))
    assert router.read("/etc/radvd.conf") == SITE
    assert list(world.listener.hear(lambda said: NEW not in said.prefixes, 120).prefixes) == ["fd00:1::/64"]
    if HONORS:
        wait_for("the address is gone", lambda: not world.address(NEW))
    assert not [line for line in world.picture() if "tsp" in line]
    assert world.is_active("radvd.service")


def test_a_router_that_had_no_radvd(world: World) -> None:
    router = world.router
    router.run("systemctl disable --now radvd.service; rm /etc/radvd.conf")
    before = world.picture()
    assert world.play(OLD).changed == 1
    assert world.listener.hear(lambda said: OLD in said.prefixes, 120).router_lifetime == 1800
    assert router.run("systemctl is-enabled radvd.service").stdout == "enabled\n"

    # The tunnel stays, what is advertised goes.
    assert world.play(OLD, linux_radvd=False, radvd_deprecation=60).changed == 1
    assert world.listener.hear(lambda said: said.prefixes.get(OLD, (1, 1))[1] == 0, 120).router_lifetime == 0
    assert world.is_active(TIMER)
    router.run("date -s +7201seconds; systemctl start tsp-deprecate-tsp-tsp.service")
    wait_for("the timer is gone", lambda: not world.is_active(TIMER))
    assert not world.is_active("radvd.service")
    assert world.play(OLD, linux_radvd=False).changed == 0, "what the timer did needs no run"
    world.play(None)
    assert world.picture() == before
