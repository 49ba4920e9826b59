# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent with tunnels of the kernel's own: made, kept, healed after a kill, gone without a trace.

The guest itself is the agent's host; the broker runs in the network namespace `server`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _guest import SECONDS, kill_agent, let_in, run, wait_for

CONFIG = """
name: server.example
modes: [v6v4, v4v6]
auth: {anonymous: true, digest-md5: false, passdss-3des-1: false}
anonymous: {prefix: true}
pools:
  ipv6: 2001:db8:e::/64
  prefixes: [{network: "2001:db8:4000::/34", lengths: "48-64", default: 56}]
  ipv4: 203.0.113.0/24
data_plane: {kind: kernel}
store: {path: leases.db}
"""


def picture() -> dict[str, Any]:
    """Links, addresses, routes and forwarding of the guest, without what the loading of a module leaves (sit0, ip6tnl0)."""
    links = [link for link in json.loads(run("ip -j addr show")) if link["ifname"] not in ("sit0", "ip6tnl0")]
    routes = [route for family in ("-4", "-6") for route in json.loads(run(f"ip -j {family} route show"))]
    return {"links": {link["ifname"]: (link["mtu"], sorted(a["local"] for a in link["addr_info"])) for link in links},
            "routes": sorted(json.dumps(route, sort_keys=True) for route in routes if route.get("dev") not in ("sit0", "ip6tnl0")),
            "forwarding": [Path(f"/proc/sys/net/{name}").read_text() for name in ("ipv6/conf/all/forwarding", "ipv4/ip_forward")]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """198.51.100.1 and 2001:db8:9::1; the guest is .2 and ::2."""
    folder = tmp_path_factory.mktemp("server")
    run("ip netns add server")
    run("ip link add wan0 type veth peer name wan0 netns server")
    for where, number in (("", 2), ("-n server ", 1)):
        for words in ("link set lo up", "link set wan0 up", f"addr add 198.51.100.{number}/24 dev wan0",
                      f"addr add 2001:db8:9::{number}/64 dev wan0 nodad"):
            run(f"ip {where}{words}")
    run("ip link add lan0 type bridge")
    run("ip link set lan0 up")
    (folder / "broker.yml").write_text(CONFIG, encoding="utf-8")
    with (folder / "log").open("ab") as log:
        program = subprocess.Popen(["ip", "netns", "exec", "server", sys.executable, "/opt/broker", "serve", "--config",
                                    str(folder / "broker.yml")], stdout=log, stderr=log)
    wait_for(lambda: ":3653" in run("ip netns exec server ss -lunt") or program.poll() is not None, "the broker's port")
    assert program.poll() is None, (folder / "log").read_text(encoding="utf-8")
    yield
    program.kill()
    program.wait()
    run("ip netns del server")
    run("ip link del lan0")


class Agent:
    def __init__(self, folder: Path, broker: str, **request: Any) -> None:
        self.folder = let_in(folder)
        (folder / "tsp.json").write_text(json.dumps({
            "device": "tsp7", "request": request, "broker": {"brokers": [broker], "auth_method": "anonymous", "min_interval": 0},
            "link": {"lan_interfaces": ["lan0"] if request.get("host_type") == "router" else []},
            "lease_file": str(folder / "lease"), "state_dir": str(folder / "state"), "runtime_dir": str(folder / "run")}))
        self.start()

    def start(self) -> None:
        (self.folder / "run" / "tsp.status.json").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.program = subprocess.Popen([sys.executable, "/opt/agent", "--config", str(self.folder / "tsp.json"), "--foreground"],
                                            stdout=log, stderr=log)

    def up(self) -> dict[str, Any]:
        def look() -> Any:
            assert self.program.poll() is None, self.log()
            try:
                status = json.loads((self.folder / "run" / "tsp.status.json").read_text())
            except (OSError, ValueError):
                return None
            return status if status["state"] == "up" and status["last_rtt_ms"] is not None else None
        return wait_for(look, "the tunnel to be up and answered")

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")


def whole_life(agent: Agent, before: dict[str, Any], kind: str, ping: Callable[[dict[str, Any]], None]) -> None:
    """Up and proved; killed and started again, from the stored lease; ended."""
    status = agent.up()
    link = json.loads(run("ip -j -d link show dev tsp7"))[0]
    assert link["linkinfo"]["info_kind"] == kind and link["ifalias"] == "tunnelbroker.tsp:tsp" and link["mtu"] == status["mtu"]
    ping(status)
    kill_agent()
    agent.program.wait(SECONDS)
    assert "tsp7" in picture()["links"], "a kernel's tunnel outlives its agent"
    agent.start()
    status = agent.up()
    assert status["negotiations"] == 0, agent.log()
    ping(status)
    agent.program.send_signal(signal.SIGTERM)
    assert agent.program.wait(SECONDS) == 0, agent.log()
    assert picture() == before and "Traceback" not in agent.log(), agent.log()


def test_the_agent_keeps_a_sit_tunnel(server: None, tmp_path: Path) -> None:
    before = picture()

    def ping(status: dict[str, Any]) -> None:
        run("ping -6 -c1 -W9 2001:db8:e::1")
        run(f"ip netns exec server ping -6 -c1 -W9 -I 2001:db8:e::1 {status['lease']['client']['ipv6']}")
        run(f"ip netns exec server ping -6 -c1 -W9 -I 2001:db8:e::1 {status['lease']['prefix'].split('/')[0]}1")
        assert status["mtu"] == 1480 and status["lease"]["mode"] == "v6v4"

    whole_life(Agent(tmp_path, "198.51.100.1", mode="v6v4", host_type="router", prefix_length=56), before, "sit", ping)


def test_the_agent_keeps_an_ip6tnl_tunnel(server: None, tmp_path: Path) -> None:
    before = picture()

    def ping(status: dict[str, Any]) -> None:
        run("ping -4 -c1 -W9 203.0.113.1")
        run(f"ip netns exec server ping -4 -c1 -W9 -I 203.0.113.1 {status['lease']['client']['ipv4']}")
        assert status["mtu"] == 1460 and status["lease"]["mode"] == "v4v6"

    whole_life(Agent(tmp_path, "[2001:db8:9::1]", mode="v4v6"), before, "ip6tnl", ping)
