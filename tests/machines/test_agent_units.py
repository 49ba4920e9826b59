# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent in its two units under a real systemd: their rights, their ends and beginnings, what they share with the modules, and a host
that is as it was when they are gone. One host has it all, test after test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import why_not
from ansible_collections.tunnelbroker.tsp.tests.machines._backends import differences, prediction
from ansible_collections.tunnelbroker.tsp.tests.machines._units import AGENT, APPLY, HOOK, LEASE, PROGRAM, STATUS, TOLD, World

WHY_NOT = why_not()
pytestmark = [pytest.mark.root, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
KEYS = "tsp-known-keys.txt"
KEPT = "elsewhere.example a2V5\n"
RIGHTS = 1 << 12 | 1 << 13
"""CAP_NET_ADMIN and CAP_NET_RAW."""


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab("units", lambda: request.session.testsfailed) as lab:
        yield World(lab)


@pytest.fixture(scope="module")
def before(world: World) -> list[str]:
    """The host before the first play."""
    return world.picture()


@pytest.fixture(scope="module")
def installed(world: World, before: list[str]) -> World:
    """A host where an older agent, which was root, has left its folder; and then the units."""
    assert before
    world.host.run(f"mkdir -m 755 /var/lib/tsp; umask 077; printf '{KEPT}' >/var/lib/tsp/{KEYS}")
    assert world.play()["changed"]
    world.until_up()
    return world


def test_what_an_older_agent_left_is_the_new_ones(installed: World) -> None:
    assert installed.host.read(f"/var/lib/tsp/{KEYS}") == KEPT
    uid = installed.facts_of(installed.pid(AGENT))["Uid"].split()[0]
    assert set(installed.host.run("stat -c '%u %a' /var/lib/tsp/*").stdout.splitlines()) == {f"{uid} 600"}


def test_neither_part_can_do_more_than_it_must(installed: World) -> None:
    agent, apply = (installed.facts_of(installed.pid(unit)) for unit in (AGENT, APPLY))
    assert "0" not in agent["Uid"].split() + agent["Gid"].split() + agent["Groups"].split()
    assert {int(agent[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")} == {0}
    assert {int(apply[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {RIGHTS}
    for facts in (agent, apply):
        assert facts["NoNewPrivs"] == "1" and facts["Seccomp"] == "2"
    # With no module loaded for it yet, the device file is there all the same before the unit starts.
    assert "stat device" not in installed.host.run("journalctl -b --no-pager").stdout


def test_nobody_else_learns_the_password(installed: World) -> None:
    # From a file, since the words of a command are among what is searched.
    installed.host.run("umask 077; mkdir /opt/sought; cat >/opt/sought/password", input=installed.password + "\n")
    here = "grep -aqF -f /opt/sought/password"
    assert installed.host.run(f"{here} /etc/tsp/tsp.secret").returncode == 0, "the search finds it where it is"
    found = installed.host.run("find / -xdev -type f -perm -o=r ! -path '/proc/*' ! -path '/sys/*' -size -64k -newer /lab/unpacked "
                               "-exec grep -lF -f /opt/sought/password {} +; "
                               "find /run /tmp -type f -perm -o=r -exec grep -lF -f /opt/sought/password {} +; "
                               f"for pid in {installed.pid(AGENT)} {installed.pid(APPLY)}; do "
                               "grep -alF -f /opt/sought/password /proc/$pid/cmdline /proc/$pid/environ; done; "
                               f"journalctl -b --no-pager -a | {here} && echo the journal; true").stdout
    installed.host.run("rm -r /opt/sought")
    assert found == ""


def test_anybody_may_ask_how_it_is(installed: World) -> None:
    said = installed.host.run(f"setpriv --reuid=65534 --regid=65534 --clear-groups {PROGRAM} status")
    assert "Connected" in said.stdout and installed.lease()["client"]["ipv6"] in said.stdout


def test_the_journal_has_levels_and_names(installed: World) -> None:
    assert " tsp-agent-tsp[" in installed.said("-p", "notice") and "up: v6udpv4" in installed.said("-p", "notice")
    assert "ip link" in installed.said() and "ip link" not in installed.said("-p", "notice")
    assert "Traceback" not in installed.said()


def test_reload_asks_again_and_everything_stays(installed: World) -> None:
    was, pid, asked = installed.lease(), installed.pid(AGENT), installed.status()["negotiations"]
    installed.host.run(f"systemctl reload {AGENT}")
    installed.until(f"! grep -q '\"negotiations\": {asked},' {STATUS}")
    installed.until_up()
    assert installed.pid(AGENT) == pid and installed.lease()["client"]["ipv6"] == was["client"]["ipv6"]
    assert installed.fou_ports() == 1


def test_stopped_there_is_nothing_and_started_it_is_back(installed: World) -> None:
    was = installed.lease()
    installed.host.run(f"systemctl stop {AGENT}")
    installed.until_nothing_is_there()
    assert installed.failed() == ""
    installed.host.run(f"systemctl start {AGENT}")
    installed.until_up()
    assert installed.lease()["client"]["ipv6"] == was["client"]["ipv6"] and installed.restarts() == 0


def test_the_part_with_the_rights_does_not_stop_alone(installed: World) -> None:
    pid = installed.pid(APPLY)
    refused = installed.host.run(f"systemctl stop {APPLY}", check=False)
    assert refused.returncode and "dependency only" in refused.stderr
    assert installed.pid(APPLY) == pid and installed.failed() == ""


def test_killed_the_agent_leaves_nothing_and_comes_back(installed: World) -> None:
    was, pid, restarts = installed.lease(), installed.pid(AGENT), installed.restarts()
    installed.host.run(f"kill -9 {pid}")
    # Its own words: while there is an agent, that one has them in the log.
    installed.until(f"journalctl -b -u {APPLY} | grep 'tsp-apply-tsp.*ip link del dev tsp0'")
    installed.until_up(not_pid=pid)
    assert installed.lease()["client"] == was["client"], "the stored lease, and its port"
    assert installed.failed() == "" and installed.fou_ports() == 1 and installed.restarts() == restarts + 1


def test_killed_the_part_with_the_rights_costs_a_restart_and_leaves_nothing(installed: World) -> None:
    """What it had made is known to the next one: a UDP port of the kernel's stays with nobody."""
    was, pid, restarts = installed.lease(), installed.pid(AGENT), installed.restarts()
    installed.host.run(f"kill -9 {installed.pid(APPLY)}")
    installed.until_up(not_pid=pid)
    assert installed.restarts() == restarts + 1 and installed.failed() == ""
    assert installed.fou_ports() == 1 and installed.lease()["client"] == was["client"], "from the same port"


def test_a_lease_that_the_module_renews_is_taken_over(installed: World) -> None:
    pid, was = installed.pid(AGENT), installed.lease()
    installed.renew()
    new = installed.lease()
    assert new["client"]["udp_port"] != was["client"]["udp_port"]
    installed.until(f"grep -q '\"udp_port\": {new['client']['udp_port']}\\b' {STATUS}")
    installed.until_up()
    assert installed.pid(AGENT) == pid and installed.fou_ports() == 1
    uid = installed.facts_of(pid)["Uid"].split()[0]
    assert set(installed.host.run("stat -c '%u %a' /var/lib/tsp/*").stdout.splitlines()) == {f"{uid} 600"}
    assert installed.host.run(f"stat -c '%u %a' {LEASE}").stdout == "0 600\n"


def test_programs_of_the_site_are_told(installed: World) -> None:
    """Predicted, made, and nothing to do the next time."""
    hooked = {"agent_hook_lease": HOOK}
    predicted, done, again = installed.play("--check", **hooked), installed.play(**hooked), installed.play(**hooked)
    assert prediction(predicted) == prediction(done) and done["changed"] and not again["changed"]
    installed.until_up()
    operation, lease = installed.host.read(TOLD).splitlines()
    assert operation == "TSP_TUNNEL_CREATION" and json.loads(lease)["client"]["ipv6"] == installed.lease()["client"]["ipv6"]
    agent = installed.facts_of(installed.pid(AGENT))
    assert int(agent["CapBnd"], 16) == 0 and agent["NoNewPrivs"] == "1", "the part that reads the network has no more rights for it"


def test_the_agent_carries_packets_without_a_right_of_its_own(installed: World) -> None:
    """Through a device that the other part, which may open this one and no other, hands over."""
    assert installed.play(linux_data_plane="tun")["changed"]
    installed.until_up()
    assert installed.status()["data_plane"] == "tun" and installed.fou_ports() == 0
    agent, apply = (installed.facts_of(installed.pid(unit)) for unit in (AGENT, APPLY))
    assert int(agent["CapBnd"], 16) == 0 and int(apply["CapBnd"], 16) == RIGHTS
    assert [line for line in installed.host.read(TOLD).splitlines() if line.startswith("TSP_")][-1] == "TSP_TUNNEL_TEARDOWN"


def test_taken_away_the_host_is_as_it_was(installed: World, before: list[str]) -> None:
    installed.host.run(f"rm /var/lib/tsp/{KEYS}")
    assert installed.play(tunnel_state="absent")["changed"]
    installed.until_nothing_is_there()
    installed.host.run(f"rm {TOLD}")
    assert differences(before, installed.picture()) == []
