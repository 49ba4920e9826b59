# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""radvd itself, with what we put into the site's file, and hosts on the LAN that form addresses and drop them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import radvd, radvd_tidy
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.edits import EditContext, Edited
from ansible_collections.tunnelbroker.tsp.tests.integration._advertisements import Advertisement, Listener
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("radvd") is None, reason="radvd is not installed")]

SITE = """interface lan {
    AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;
    AdvLinkMTU 1500;
    prefix 2001:db8:5::/64 { };
};
"""
OLD, NEW = "2001:db8:a::/64", "2001:db8:b::/64"


class Lan:
    """A router with radvd, and two hosts: one as RFC 4862 has it, one that takes lifetimes as they come (RFC 9096 section 3.2)."""

    def __init__(self, lab: Lab) -> None:
        self.router, self.host, self.modern = (lab.namespace(name) for name in ("router", "host", "modern"))
        segment = lab.segment("lan")
        segment.attach(self.router, "lan")
        for host in (self.host, self.modern):
            segment.attach(host, "eth0")
            host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra")
            wait_for("a link-local address", lambda host=host: any(
                not found.get("tentative") for link in host.ip_json("-6 addr show dev eth0") for found in link.get("addr_info", [])))
        if Path("/proc/sys/net/ipv6/conf/all/ra_honor_pio_life").exists():  # since Linux 6.9
            self.modern.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/ra_honor_pio_life")
        self.router.sysctl(net__ipv6__conf__all__forwarding=1)
        self.folder = lab.folder
        os.chmod(self.folder, 0o755)
        self.config, self.pid_file = self.folder / "radvd.conf", self.folder / "radvd.pid"
        self.made = Edited(None)
        self.listener = Listener(self.host, "eth0")

    def start(self, site: str | None) -> None:
        self.config.unlink(missing_ok=True)
        self.made = Edited(site)
        if site is not None:
            self.config.write_text(site)
        self.listener.forget()

    def apply(self, *prefixes: str, present: bool = True, deprecation: int = 7200, **more: Any) -> str:
        """What the transaction does: have the file edited, tested, and read by radvd."""
        wishes = [{"name": "lan", "prefixes": list(prefixes), **more}] if present else []
        text = self.config.read_text() if self.config.exists() else None
        self.made = radvd.edit(EditContext(str(self.config), text, present, {"interfaces": wishes, "deprecation": deprecation}, "tsp",
                                           self.made.state, time.time()))
        self.config.write_text(self.made.text or "")
        self.router.run("radvd", "--configtest", "--config", str(self.config))
        self.reload()
        return self.made.text or ""

    def reload(self) -> None:
        if self.running():
            self.router.run("kill", "-HUP", self.pid_file.read_text().strip())
        else:
            self.router.popen("radvd", "--nodaemon", "--logmethod", "stderr", "--config", str(self.config), "--pidfile", str(self.pid_file))
            wait_for("radvd runs", lambda: self.pid_file.exists() and self.pid_file.read_text().strip())

    def running(self) -> bool:
        return any("radvd --nodaemon" in words for words in self.router.processes())

    def stop(self) -> None:
        if self.running():
            self.router.run("kill", self.pid_file.read_text().strip())
            wait_for("radvd is gone", lambda: not self.running())


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> Iterator[Lan]:
    with Lab("radvd", lambda: request.session.testsfailed) as lab:
        lan = Lan(lab)
        yield lan
        lan.listener.close()


@pytest.fixture
def lan(whole: Lan) -> Iterator[Lan]:
    yield whole
    whole.stop()
    for host in (whole.host, whole.modern):
        host.ip("-6 addr flush dev eth0 scope global", "-6 route flush dev eth0 proto ra")


def addresses(host: Namespace, prefix: str) -> dict[str, dict[str, Any]]:
    """The addresses of a host below a /64, as `ip` tells of them."""
    start = prefix.replace("::/64", ":")
    return {found["local"]: found for link in host.ip_json("-6 addr show dev eth0 scope global") for found in link.get("addr_info", [])
            if found.get("local", "").startswith(start)}


def preferred(host: Namespace, prefix: str) -> bool:
    return any(not found.get("deprecated") for found in addresses(host, prefix).values())


def test_hosts_form_addresses_and_renumber(lan: Lan) -> None:
    lan.start(SITE)
    lan.apply(OLD, mtu=1480, rdnss=["2001:db8::53"], dnssl=["lan.example"])
    said = lan.listener.hear(lambda said: OLD in said.prefixes)
    assert said == Advertisement(said.router_lifetime, 1480, {"2001:db8:5::/64": (86400, 14400), OLD: (5400, 2700)},
                                 {"2001:db8::53": said.rdnss["2001:db8::53"]}, {"lan.example": said.dnssl["lan.example"]})
    assert said.router_lifetime > 0 and said.rdnss["2001:db8::53"] > 0 and said.dnssl["lan.example"] > 0
    for host in (lan.host, lan.modern):
        wait_for("an address", lambda host=host: preferred(host, OLD))
    assert lan.host.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu").stdout.strip() == "1480"

    lan.apply(NEW, mtu=1480)
    said = lan.listener.hear(lambda said: said.prefixes.get(OLD, (1, 1))[1] == 0)
    assert said.prefixes == {"2001:db8:5::/64": (86400, 14400), NEW: (5400, 2700), OLD: (5100, 0)}, "both in one advertisement"
    assert said.rdnss == {"2001:db8::53": 0} and said.dnssl == {"lan.example": 0}
    for host in (lan.host, lan.modern):
        wait_for("the new address", lambda host=host: preferred(host, NEW))
        wait_for("the old one is no longer used", lambda host=host: not preferred(host, OLD))
    assert addresses(lan.host, OLD), "and yet sessions over it live on"
    assert all(found["valid_life_time"] <= 5400 for found in addresses(lan.host, OLD).values())
    text = lan.config.read_text()
    assert lan.apply(NEW, mtu=1480) == text, "a second run changes nothing"
    assert lan.listener.hear().prefixes[OLD] == (5100, 0)


def test_after_its_deadline_a_prefix_is_gone_without_a_run(lan: Lan) -> None:
    """The program that the timer would start, with a stand-in for systemctl."""
    lan.start(SITE)
    lan.apply(OLD)
    lan.listener.hear(lambda said: OLD in said.prefixes)
    wait_for("an address", lambda: preferred(lan.modern, OLD))
    lan.apply(NEW, deprecation=12)
    said = lan.listener.hear(lambda said: OLD in said.prefixes and said.prefixes[OLD][1] == 0)
    assert said.prefixes[OLD][0] <= 12
    wait_for("the old address is deprecated", lambda: not preferred(lan.modern, OLD))
    program, bin_ = lan.folder / "tidy.py", lan.folder / "bin"
    program.write_text(radvd_tidy.program())
    bin_.mkdir(exist_ok=True)
    (bin_ / "systemctl").write_text("#!/bin/sh\necho \"$*\" >> \"$(dirname \"$0\")/told\"\n")
    (bin_ / "systemctl").chmod(0o755)
    job = {"name": "tsp", "config": str(lan.config), "step": radvd.step_of(12), "radvd": shutil.which("radvd"), "unit": "radvd.service",
           "state_dir": str(lan.folder / "state"), "timer": "t.timer", "files": [str(program)]}
    waiting = True
    while waiting:  # as often as the timer, which is the point here: the deadline is a time of the clock
        before = lan.config.read_text()
        lan.router.run(sys.executable, "-B", "-E", "-s", str(program), "--now", json.dumps(job),
                       env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"})
        if lan.config.read_text() != before:
            lan.reload()
        waiting = program.exists()
        time.sleep(0.2)
    assert OLD not in lan.listener.hear(lambda said: OLD not in said.prefixes).prefixes
    assert "try-reload-or-restart radvd.service" in (bin_ / "told").read_text()
    if Path("/proc/sys/net/ipv6/conf/all/ra_honor_pio_life").exists():
        wait_for("the address is gone", lambda: not addresses(lan.modern, OLD))
    assert preferred(lan.modern, NEW)
    text = lan.config.read_text()
    assert lan.apply(NEW) == text, "the next run finds nothing to do"


def test_a_teardown_that_withdraws_at_once(lan: Lan) -> None:
    lan.start(None)
    lan.apply(OLD, mtu=1480)
    assert lan.listener.hear(lambda said: OLD in said.prefixes).router_lifetime == 1800
    wait_for("an address", lambda: preferred(lan.modern, OLD))
    lan.apply(present=False, deprecation=0)
    said = lan.listener.hear(lambda said: said.prefixes.get(OLD) == (0, 0))
    assert said.router_lifetime == 0 and said.mtu is None
    wait_for("no default route is left", lambda: not lan.modern.ip_json("-6 route show default"))
    wait_for("the address is no longer used", lambda: not preferred(lan.modern, OLD))


def test_what_the_site_says_stays(lan: Lan) -> None:
    lan.start(SITE.replace("1500", "1400"))
    lan.apply(NEW, mtu=1480)
    said = lan.listener.hear(lambda said: NEW in said.prefixes)
    assert said.mtu == 1400 and "2001:db8:5::/64" in said.prefixes
    later = radvd.edit(EditContext(str(lan.config), lan.config.read_text(), False, {"deprecation": 0}, "tsp", lan.made.state, time.time()))
    gone = radvd.edit(EditContext(str(lan.config), later.text, False, {}, "tsp", later.state, time.time() + 7200))
    assert gone.text == SITE.replace("1500", "1400") and not gone.state
