# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent as a program, in namespaces of this computer: a host behind a NAT, and the collection's broker.

`agent_rss_mib`: memory of an agent that keeps one idle v6udpv4 tunnel, after a minute: what its two processes hold together, memory that
they share counted once, and what they have mapped of Python and its libraries counted in full although others may have it mapped, too.
`agent_rss_network_mib`, `agent_rss_applier_mib`: resident memory of each as ps shows it. `agent_one_process_mib`: resident memory where one
process does both (`user: root`). The Python is the system's, started as by the units, where there is one (/usr/bin/python3).
`agent_cpu_percent`: processor time of all its processes in that minute, in percent of one processor.

`agent_100_rss_mib`, `agent_100_cpu_percent`: the same of one agent that keeps a hundred idle tunnels; processor time for each of them.
`agent_100_up_s`: seconds until all are up.

`recovery_beyond_loss_s`: the NAT gets another public address and forgets its flows, so nothing comes back any more. Seconds from the
moment when the keepalive calls the tunnel lost until the broker's end answers through the new one; median. `recovery_total_s`: from the
change at the NAT, with a ping a second.

`black_hole_extra_s`: five brokers are configured, the first swallows whatever is sent to it: seconds that the first tunnel takes longer
than where the second is the first; medians. `first_tunnel_s`: without a black hole.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable

import _collection  # noqa: F401  # pylint: disable=unused-import
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Agent, Net
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

TARGETS = {"agent_rss_mib": ("<", 25.0), "agent_cpu_percent": ("<=", 0.1), "agent_100_cpu_percent": ("<=", 0.1),
           "recovery_beyond_loss_s": ("<=", 2.0), "black_hole_extra_s": ("<=", 3.0)}
IDLE = 60.0
ROUNDS = 5
TUNNELS = 100
STATUS = "run/tsp-tsp/tsp.status.json"
PROGRAM = "/usr/local/bin/tsp-agent.pyz"
HOLE = "192.0.2.99"


def until(condition: Callable[[], Any], what: str, seconds: float = 180.0) -> Any:
    """The first true value, looked for every 10 ms. RuntimeError with `what` when it never comes."""
    ends = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > ends:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.01)
    return value


def files(net: Net) -> Path:
    """The host's files as seen from here."""
    return Path(f"/proc/{net.host.pid}/root")


def status(net: Net, name: str = STATUS) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((files(net) / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def memory(net: Net, pid: str) -> tuple[float, float, float]:
    """MiB of a process: its share of what it wrote, what it has mapped of files, all that is resident."""
    found = {}
    for name in ("smaps_rollup", "status"):
        for line in (files(net) / f"proc/{pid}/{name}").read_text(encoding="ascii").splitlines():
            words = line.split()
            if len(words) == 3 and words[2] == "kB":
                found[words[0]] = int(words[1]) / 1024
    return found["Pss_Anon:"], found["RssFile:"], found["VmRSS:"]


def processor(net: Net, pids: list[str]) -> float:
    """Seconds of processor time used so far, all threads."""
    total = 0
    for pid in pids:
        for thread in (files(net) / f"proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9


def up(net: Net, name: str = STATUS) -> bool:
    """Whether the broker's end has answered through the tunnel."""
    found = status(net, name)
    return found.get("state") == "up" and found.get("last_rtt_ms") is not None


def idle(net: Net, agent: Agent) -> tuple[float, list[float], float]:
    """(MiB of all processes together, of each as ps shows it, the largest last, percent of a processor) over and after IDLE seconds."""
    pids = agent.pids()
    before, began = processor(net, pids), time.monotonic()
    time.sleep(IDLE)
    used = (processor(net, pids) - before) / (time.monotonic() - began) * 100
    held = [memory(net, pid) for pid in pids]
    together = sum(own for own, _file, _all in held) + max(file for _own, file, _all in held)
    return together, sorted(every for _own, _file, every in held), used


def as_installed(net: Net) -> None:
    """The program where everybody may read it, and the Python of the system."""
    net.host.run("install", "-m", "755", str(net.program), PROGRAM)
    net.program = Path(PROGRAM)
    if os.access("/usr/bin/python3", os.X_OK):
        net.python = ["/usr/bin/python3", "-B", "-E", "-s"]


def one_tunnel() -> dict[str, float]:
    out: dict[str, float] = {}
    with Lab("bench-agent") as lab:
        net = Net(lab, keepalive=30)
        as_installed(net)
        net.start_broker()
        usual: dict[str, Any] = {"log_level": "info", "request": {"keepalive_interval": 30}}
        with net.agent(user="nobody", **usual) as agent:
            until(lambda: up(net), "the tunnel")
            pss, each, used = idle(net, agent)
            out.update(agent_rss_mib=pss, agent_rss_applier_mib=each[0], agent_rss_network_mib=each[-1], agent_cpu_percent=used)
        with net.agent(**usual) as agent:
            until(lambda: up(net), "the tunnel")
            time.sleep(10)
            out["agent_one_process_mib"] = max(memory(net, pid)[2] for pid in agent.pids())
    return out


def recovery() -> dict[str, float]:
    beyond, total = [], []
    with Lab("bench-agent-recovery") as lab:
        net = Net(lab)
        net.start_broker()
        with net.agent(keepalive={"longest_interval": 1}, log_level="info"):
            until(lambda: up(net), "the tunnel")
            for number in range(ROUNDS):
                old, new = 20 + number, 21 + number
                lost = status(net)["negotiations"]
                began = time.monotonic()
                net.nat_host.ip(f"addr del 192.0.2.{old}/24 dev wan", f"addr add 192.0.2.{new}/24 dev wan")
                net.nat.forget()
                until(lambda: status(net).get("state") in ("lost", "negotiating", "waiting"), "the loss")
                noticed = time.monotonic()
                until(lambda lost=lost: up(net) and status(net)["negotiations"] > lost, "the tunnel again")
                beyond.append(time.monotonic() - noticed)
                total.append(time.monotonic() - began)
    return {"recovery_beyond_loss_s": statistics.median(beyond), "recovery_total_s": statistics.median(total)}


def black_hole() -> dict[str, float]:
    took: dict[bool, list[float]] = {False: [], True: []}
    with Lab("bench-agent-hole") as lab:
        net = Net(lab, brokers=4)
        for broker in net.brokers:
            broker.start()
        net.nat_host.nft(f"table ip hole {{ chain pass {{ type filter hook prerouting priority -300; ip daddr {HOLE} drop; }}; }}")
        living = [broker.outer for broker in net.brokers]
        for number in range(2 * ROUNDS):
            hole = bool(number % 2)
            folder = f"/tmp/{number}"  # an agent that has never been here: no lease, no memory of brokers
            began = time.monotonic()
            with net.agent(broker={"brokers": [HOLE, *living] if hole else [*living, HOLE], "deadline": 60}, state_dir=folder,
                           lease_file=f"{folder}/tsp.fact", log_level="info"):
                until(lambda: up(net), "the tunnel")
                took[hole].append(time.monotonic() - began)
    plain = statistics.median(took[False])
    return {"first_tunnel_s": plain, "black_hole_extra_s": statistics.median(took[True]) - plain}


def account(user: str) -> dict[str, str]:
    """As a broker's configuration has it."""
    return {"username": user, "digest_ha1": hashlib.md5(f"{user}:broker.example:{PASSWORD}".encode()).hexdigest()}


def many() -> dict[str, float]:
    with Lab("bench-agent-many") as lab:
        net = Net(lab, keepalive=30)
        as_installed(net)
        users = [f"user{number}" for number in range(TUNNELS)]
        net.brokers[0].start(accounts=[account(user) for user in users], log={"level": "info", "format": "text"})
        net.host.run("sh", "-c", "mkdir -p /etc/tsp/many && umask 077 && cat > /etc/tsp/tsp.secret", input=PASSWORD + "\n")
        for number, user in enumerate(users):
            name = f"t{number}"
            config = {"name": name, "device": name, "request": {"mode": "v6udpv4", "host_type": "host", "keepalive_interval": 30},
                      "broker": {"brokers": ["192.0.2.1"], "username": user, "password_file": "/etc/tsp/tsp.secret", "min_interval": 0,
                                 "deadline": 60},
                      "link": {"default_route": "none"}, "lease_file": f"/tmp/many/{name}.fact", "state_dir": f"/tmp/many/{name}",
                      "runtime_dir": "/run/tsp-tsp", "user": "nobody"}
            (files(net) / f"etc/tsp/many/{name}.json").write_text(json.dumps(config), encoding="utf-8")
        agent = Agent(net, {}, config_path="/etc/tsp/many")
        try:
            began = time.monotonic()
            until(lambda: all(up(net, f"run/tsp-tsp/t{number}.status.json") for number in range(TUNNELS)), "a hundred tunnels", 600)
            took = time.monotonic() - began
            pss, _each, used = idle(net, agent)
        finally:
            agent.end()
    return {"agent_100_up_s": took, "agent_100_rss_mib": pss, "agent_100_cpu_percent": used / TUNNELS}


def run() -> dict[str, float]:
    """The figures; none, where namespaces cannot be made."""
    if os.geteuid() != 0:
        sys.stderr.write("agent: needs root, for network namespaces\n")
        return {}
    found: dict[str, float] = {}
    for part in (one_tunnel, many, recovery, black_hole):
        found.update(part())
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    chosen = [part for part in (one_tunnel, many, recovery, black_hole) if part.__name__ in sys.argv[1:]]
    for part in chosen:
        sys.stdout.write(json.dumps(part(), indent=1) + "\n")
    if not chosen:
        sys.stdout.write(json.dumps(run(), indent=1) + "\n")
