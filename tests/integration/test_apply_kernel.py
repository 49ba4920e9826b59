# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses, routes, rules and variables of a real kernel in a transaction, in a namespace: the kernel is as before when it is undone,
taken away, or killed. Tunnels are tested in a virtual machine (tests/kernel)."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace

pytestmark = pytest.mark.root
PICTURE = """
import json, pathlib, subprocess
def run(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
links = [(link["ifname"], link["mtu"], link["flags"], sorted(address["local"] for address in link["addr_info"]))
         for link in json.loads(run("ip", "-j", "addr", "show"))]
routes = [json.dumps({**route, "expires": None}, sort_keys=True) for family in ("-4", "-6")
          for route in json.loads(run("ip", "-j", "-d", family, "route", "show", "table", "all"))]
names = [name for name in sorted(pathlib.Path("/proc/sys/net").glob("ipv?/conf/*/*")) if name.name in ("forwarding", "accept_ra")]
print(json.dumps({"links": sorted(links), "routes": sorted(routes), "rules": [run("ip", "-4", "rule"), run("ip", "-6", "rule")],
                  "sysctls": {str(name): name.read_text() for name in names}}))
"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Lab("apply-kernel") as lab:
        here, other = lab.namespace("host", root=True), lab.namespace("other")
        for device in ("wan0", "lan0"):
            lab.veth(here, device, other, device)
        here.ip("addr add 198.51.100.2/24 dev wan0")
        here.ip("addr add 2001:db8:9::2/64 dev wan0 nodad")
        here.ip("route add default via 2001:db8:9::1 dev wan0 metric 77 proto static")
        here.ip("route add default via 2001:db8:9::1 dev wan0 metric 1024 proto ra expires 1700")
        end = time.monotonic() + 60
        while here.ip("-6 addr show scope link -tentative").count("fe80") < 2:
            assert time.monotonic() < end, "the interfaces got no link-local address"
            time.sleep(0.05)
        yield here


def picture(host: Namespace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.run(sys.executable, "-c", PICTURE).stdout)
    return found


def start(host: Namespace, repository: Path, kind: str, proved: bool = True, at: int = 0) -> Any:
    return host.run(sys.executable, str(repository / "tests/kernel/guest/_items.py"), str(repository / "plugins"), "/var/lib/t/state", kind,
                    "yes" if proved else "no", str(at), check=False, timeout=120)


def do(host: Namespace, repository: Path, kind: str, proved: bool = True) -> dict[str, Any]:
    done = start(host, repository, kind, proved)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_as_before_when_undone_and_when_taken_away(host: Namespace, repository: Path) -> None:
    before = picture(host)
    refused = do(host, repository, "none", proved=False)
    assert refused["error"] == "not_proved" and picture(host) == before, refused
    assert do(host, repository, "none")["changed"]
    routes = host.ip("-6 route show table all")
    assert "unreachable 2001:db8:a::/48" in routes and "default dev wan0 table 4653" in routes
    assert "default from 2001:db8:a::/48 dev wan0" in routes and "metric 77" not in routes and "proto ra metric 1024" in routes
    assert "4653:\tfrom 2001:db8:a::/48 lookup 4653" in host.ip("-6 rule show")
    assert "2001:db8:a:1::1/64" in host.ip("-6 addr show dev lan0")
    settled = picture(host)
    assert not do(host, repository, "none")["changed"] and picture(host) == settled
    host.ip("-6 route del default dev wan0 metric 2048")
    again = do(host, repository, "none")
    assert again["changed"] and "make route to ::/0 through wan0 with metric 2048" in again["steps"] and picture(host) == settled
    assert do(host, repository, "absent")["changed"] and picture(host) == before
    assert not host.run("ls", "-A", "/var/lib/t", check=False).stdout and not do(host, repository, "absent")["changed"]


@pytest.mark.parametrize("new", ["none", "absent"])
def test_killed_at_every_step_the_next_run_converges(host: Namespace, repository: Path, new: str) -> None:
    old = "absent" if new == "none" else "none"
    do(host, repository, "none")
    pictures = {"none": picture(host)}
    do(host, repository, "absent")
    pictures["absent"] = picture(host)
    for at in range(1, 400, 11):
        do(host, repository, old)
        done = start(host, repository, new, True, at)
        if done.returncode != -signal.SIGKILL and done.returncode != 128 + signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            assert at > 20
            return
        do(host, repository, new)
        assert picture(host) == pictures[new], f"killed at {at}"
    pytest.fail("the run never ends")
