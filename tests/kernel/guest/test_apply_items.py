# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tunnels of the kernel in a transaction: made, kept, replaced by another kind, undone, killed, taken away; and the kernel as before."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _guest import SECONDS, run

PROGRAM = Path(__file__).with_name("_items.py")
PLUGINS = Path(__file__).resolve().parents[3] / "plugins"
KILLS = range(9, 400, 19)


def picture() -> dict[str, Any]:
    """What the kernel has: links, addresses, routes, rules, ports, variables. An ip6tnl device chooses a link-local address at random."""
    links = [(link["ifname"], link["mtu"], link["flags"],
              sorted(address["local"] for address in link["addr_info"] if link["ifname"] != "tsp0" or address["scope"] != "link"))
             for link in json.loads(run("ip -j addr show"))]
    routes = [json.dumps({**route, "expires": None}, sort_keys=True) for family in ("-4", "-6")
              for route in json.loads(run(f"ip -j -d {family} route show table all"))
              if route.get("dev") != "tsp0" or not route["dst"].startswith("fe80:")]
    names = sorted(Path("/proc/sys/net").glob("ipv?/conf/*/*"))
    return {"links": sorted(links), "routes": sorted(routes), "rules": [run("ip -4 rule"), run("ip -6 rule")], "fou": run("ip fou show"),
            "sysctls": {str(name): name.read_text() for name in names if name.name in ("forwarding", "accept_ra")}}


@pytest.fixture(scope="module", autouse=True)
def wires() -> Iterator[None]:
    # The modules first: with them come devices such as sit0, which stay.
    for module in ("sit", "fou", "ip6_tunnel"):
        run(f"modprobe {module}")
    for device in ("wan0", "lan0"):
        run(f"ip link add {device} type veth peer name {device}x")
        run(f"ip link set {device} up")
        run(f"ip link set {device}x up")
    run("ip addr add 198.51.100.2/24 dev wan0")
    run("ip -6 addr add 2001:db8:9::2/64 dev wan0 nodad")
    run("ip -6 route add default via 2001:db8:9::1 dev wan0 metric 77 proto static")
    run("ip -6 route add default via 2001:db8:9::1 dev wan0 metric 1024 proto ra expires 1700")
    end = time.monotonic() + SECONDS
    while "tentative" in run("ip -6 addr show tentative") or run("ip -6 addr show scope link").count("inet6") < 4:
        assert time.monotonic() < end, "the interfaces got no link-local address"
        time.sleep(0.1)
    yield
    for device in ("wan0", "lan0"):
        run(f"ip link del {device}")


def start(folder: Path, kind: str, proved: bool = True, at: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(PROGRAM), str(PLUGINS), str(folder / "state"), kind, "yes" if proved else "no", str(at)],
                          capture_output=True, text=True, timeout=SECONDS, check=False)


def do(folder: Path, kind: str, proved: bool = True) -> dict[str, Any]:
    done = start(folder, kind, proved)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert ("error" in said) is not proved, said
    return said


def made(kind: str) -> None:
    data = json.loads(run("ip -j -d link show dev tsp0"))[0]
    info = data["linkinfo"]
    assert info["info_kind"] == ("ip6tnl" if kind == "ip6tnl" else "sit")
    assert "UP" in data["flags"] and data["ifalias"] == "tunnelbroker.tsp:t"
    port = {"fou": 40000, "other": 40001}.get(kind)
    assert (info["info_data"].get("encap") or {}).get("sport") == port
    assert [entry["port"] for entry in json.loads(run("ip -j fou show") or "[]")] == ([port] if port else [])


def test_each_kind_in_the_place_of_another_and_the_kernel_as_before(tmp_path: Path) -> None:
    before = now = picture()
    for kind in ("sit", "fou", "other", "ip6tnl"):
        if kind in ("sit", "other"):
            refused = do(tmp_path, kind, proved=False)
            assert refused["error"] == "not_proved" and picture() == now, refused
        assert do(tmp_path, kind)["changed"]
        made(kind)
        now = picture()
    assert not do(tmp_path, kind)["changed"] and picture() == now
    run("ip link del tsp0")
    assert do(tmp_path, kind)["changed"] and picture() == now
    assert do(tmp_path, "absent")["changed"] and picture() == before and not list(tmp_path.iterdir())
    assert not do(tmp_path, "absent")["changed"]


def test_killed_between_two_steps_the_next_run_converges(tmp_path: Path) -> None:
    """From a plain tunnel to one over UDP, and from that to nothing: killed all along each way."""
    pictures = {"absent": picture()}
    for kind in ("sit", "fou"):
        do(tmp_path, kind)
        pictures[kind] = picture()
    killed = 0
    for old, new in (("sit", "fou"), ("fou", "absent")):
        for at in KILLS:
            do(tmp_path, old)
            assert picture() == pictures[old]
            done = start(tmp_path, new, True, at)
            if done.returncode != -signal.SIGKILL:
                assert done.returncode == 0, done.stderr
                break
            killed += 1
            do(tmp_path, new)
            assert picture() == pictures[new], f"killed at {at} between {old} and {new}"
        else:
            pytest.fail("the run never ends")
    do(tmp_path, "absent")
    assert killed > 2
