# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two parts of a running agent: what the one that reads the network may, and what becomes of the tunnel when either of them dies."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Agent, Net, wait_for
from ansible_collections.tunnelbroker.tsp.tests.integration.test_agent_netns import picture, ping
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

pytestmark = pytest.mark.root
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
"""As the unit of systemd starts it: another user, no capability, none to be gained."""
PYTHON = "/usr/bin/python3"
"""One that any user may read."""
CONNECT = """
import os, socket, sys, time
os.setuid(65533)
s = socket.socket(socket.AF_UNIX)
while True:
    try:
        s.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.01)
s.settimeout(30)
print(repr(s.recv(1)))
"""


@pytest.fixture(scope="module")
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Lab("parts", lambda: request.session.testsfailed) as lab:
        made = Net(lab)
        made.start_broker()
        yield made


def facts(agent: Agent, pid: str) -> dict[str, str]:
    """/proc/PID/status."""
    lines = agent.host.run("cat", f"/proc/{pid}/status").stdout.splitlines()
    return {name: value.strip() for name, _colon, value in (line.partition(":") for line in lines)}


def parts(agent: Agent) -> tuple[str, str]:
    """Process ids: (reads the network, changes the host)."""
    first = agent.host.run("cat", "/run/tsp-tsp/tsp.pid").stdout.strip()
    return first, next(pid for pid in agent.pids() if facts(agent, pid)["PPid"] == first)


def test_what_reads_the_network_has_no_rights_and_cannot_get_any(net: Net) -> None:
    with net.agent() as agent:
        agent.wait_up()
        reader, changer = (facts(agent, pid) for pid in parts(agent))
        assert set(reader["Uid"].split()) == {"65534"} and set(reader["Gid"].split()) == {"65534"} and reader["Groups"] in ("", "65534")
        assert {reader[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert reader["NoNewPrivs"] == "1"
        assert set(changer["Uid"].split()) == {"0"}
        assert ping(agent.host, "2001:db8:f::1")
        private = agent.host.run("stat", "-c", "%U %a", "/run/tsp-tsp-apply").stdout.split()
        assert private == ["root", "700"]
        argv = agent.host.run("sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '").stdout
        assert PASSWORD not in argv and "tsp-agent" in argv


def test_the_part_without_rights_dies_and_the_other_leaves_nothing(net: Net) -> None:
    with net.agent() as agent:
        agent.wait_up()
        assert agent.end() == 0
        before = picture(agent)
        agent.process = agent.start()
        agent.wait_up()
        assert picture(agent) != before
        agent.host.run("kill", "-9", parts(agent)[0])
        assert agent.process.wait(60) != 0, "whoever supervises it learns that it failed"
        wait_for("no process is left", lambda: not agent.pids())
        assert picture(agent) == before
        agent.process = agent.start()
        assert agent.wait_up()["negotiations"] == 0, "the stored lease goes on"


def test_the_part_with_the_rights_dies_and_the_next_start_cleans_up(net: Net) -> None:
    with net.agent() as agent:
        agent.wait_up()
        assert agent.end() == 0
        before = picture(agent)
        agent.process = agent.start()
        agent.wait_up()
        agent.host.run("kill", "-9", parts(agent)[1])
        assert agent.process.wait(60) != 0, "whoever supervises it learns that it failed"
        wait_for("no process is left", lambda: not agent.pids())
        agent.said("the part of the agent that changes the host has ended")
        agent.process = agent.start()
        assert agent.wait_up()["negotiations"] == 0, "the stored lease goes on"
        assert agent.end() == 0
        assert picture(agent) == before


def test_two_units_as_systemd_starts_them(net: Net) -> None:
    """The one starts without rights and waits; the other comes, is known by being root, and does what has to be done."""
    with net.agent(user="root") as first:
        first.wait_up()
        assert first.end() == 0
        before = picture(first)
    host = net.host
    host.run("sh", "-c", "mkdir -p /run/tsp-tsp && chown 65534:65534 /run/tsp-tsp /var/lib/tsp && chown 65534 /var/lib/tsp/*; "
             "cp /etc/tsp/tsp.json /etc/tsp/tsp.secret /run/; chown 65534 /run/tsp.json /run/tsp.secret; "
             "sed -i 's#/etc/tsp/tsp.secret#/run/tsp.secret#' /run/tsp.json")
    program = str(net.program)
    net.folder.chmod(0o755)
    reader = host.popen(*UNPRIVILEGED, PYTHON, program, "--config", "/run/tsp.json", "--foreground", label="reader")
    stranger = host.popen(PYTHON, "-c", CONNECT, "/run/tsp-tsp/tsp.apply", label="stranger")
    assert stranger.wait(60) == 0 and host.log_path("stranger").read_text().strip() == "b''", "who is not root is sent away"
    changer = host.popen(PYTHON, program, "--config", "/etc/tsp/tsp.json", "--apply", label="changer")
    try:
        agent = _Seen(net, reader)
        agent.wait_up()
        assert ping(host, "2001:db8:f::1")
        assert host.run("ls", "/run/tsp-tsp").stdout.split() == ["tsp.pid", "tsp.status.json"]
        end_waiting(first, "second")
        assert ping(host, "2001:db8:f::1"), "beside an agent that lives another one touches nothing"
        reader.terminate()
        assert reader.wait(60) == 0, host.log_path("reader").read_text()
        assert changer.wait(60) == 0, host.log_path("changer").read_text()
        host.run("sh", "-c", "rm -f /run/tsp.json /run/tsp.secret; rmdir /run/tsp-tsp || true")
        assert picture(agent) == before
    finally:
        for process in (reader, changer):
            process.kill()
            process.wait(30)


def test_what_a_killed_agent_and_its_other_part_left_is_taken_away_without_one(net: Net) -> None:
    """As when systemd has started the part with the rights again, and then both are to stop."""
    with net.agent(user="root") as agent:
        agent.wait_up()
        assert agent.end() == 0
        before = picture(agent)
        agent.process = agent.start()
        agent.wait_up()
        agent.host.run("kill", "-9", *agent.pids())
        wait_for("no process is left", lambda: not agent.pids())
        assert picture(agent) != before
        end_waiting(agent, "lonely")
        assert picture(agent) == before


def end_waiting(agent: Agent, label: str) -> None:
    """Start one more part with the rights, for which no agent waits, and end it when it looks for one."""
    others = agent.pids()
    process = agent.host.popen(PYTHON, str(agent.net.program), "--config", "/etc/tsp/tsp.json", "--apply", label=label)

    def looks() -> bool:
        new = [pid for pid in agent.pids() if pid not in others]
        return bool(new) and bool(int(facts(agent, new[0])["SigCgt"], 16) >> 14 & 1)  # SIGTERM
    try:
        wait_for("it looks for an agent", looks)
        process.terminate()
        assert process.wait(60) == 0, agent.host.log_path(label).read_text()
    finally:
        process.kill()
        process.wait(30)


class _Seen(Agent):
    """An agent that somebody else started."""

    def __init__(self, net: Net, process: subprocess.Popen[Any]) -> None:  # pylint: disable=super-init-not-called
        self.net, self.host, self.process = net, net.host, process
        self.config = {"runtime_dir": "/run/tsp-tsp"}
