# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The broker grants another prefix while no play runs: the agent has radvd deprecate the old and advertise the new."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import wait_for
from ansible_collections.tunnelbroker.tsp.tests.integration.test_radvd_tunnel import DEPRECATED, SITE, Router, ok
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("radvd") is None, reason="radvd is not installed")]
WANTED: dict[str, Any] = {"linux_radvd": True, "linux_lan_interfaces": ["eth1", "eth2"], "radvd_rdnss": ["2001:db8::53"]}


@pytest.fixture(scope="module")
def router(request: pytest.FixtureRequest) -> Iterator[Router]:
    with Lab("agent-radvd", lambda: request.session.testsfailed) as lab:
        made = Router(lab)
        yield made
        made.listener.close()


def another_prefix(router: Router, network: str) -> None:
    """The broker loses its memory and gives out other networks from now on."""
    broker = router.net.brokers[0]
    broker.kill()
    broker.start(store={"path": str(router.net.folder / f"{network.replace(':', '-').replace('/', '-')}.db")},
                 pools={"ipv6": "2001:db8:f::/64", "prefixes": [{"network": network, "lengths": "48-64", "default": 56}]})


def lease(router: Router) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(router.host.run("cat", "/etc/ansible/facts.d/tsp.fact").stdout)
    return found


def test_another_prefix_reaches_the_lan_without_a_play(router: Router) -> None:
    ok(router.play(router.together, **WANTED))
    old = router.network(1)
    router.listener.hear(lambda said: old in said.prefixes)

    another_prefix(router, "2001:db8:4000::/36")
    wait_for("the agent has another prefix", lambda: lease(router)["prefix"].startswith("2001:db8:4"))
    router.prefix = ""
    new = router.network(1)
    # Both stand in one advertisement: hosts go over to the new, and keep their connections from the old for a while.
    said = router.listener.hear(lambda said: said.prefixes.get(new, (0, 0))[1] > 0 and old in said.prefixes)
    assert said.prefixes[new] == (5400, 2700)
    valid, preferred = said.prefixes[old]
    assert preferred == 0 and 0 < valid <= 5400
    assert said.rdnss["2001:db8::53"] > 0 and said.mtu == 1472, "what the play told stays as it was"
    assert SITE.strip().splitlines()[-2] in router.config(), "and so does what the site wrote"

    done = ok(router.play(router.together, "--diff", **WANTED), 0)
    assert "radvd.conf" not in done.output, "the next play finds what it would have made itself"


def test_it_goes_there_and_back(router: Router) -> None:
    going = router.network(1)
    another_prefix(router, "2001:db8:8000::/33")
    wait_for("the agent has the first prefix again", lambda: lease(router)["prefix"].startswith("2001:db8:8"))
    router.prefix = ""
    back = router.network(1)
    said = router.listener.hear(lambda said: said.prefixes.get(back, (0, 0))[1] > 0 and said.prefixes.get(going, (1, 1))[1] == 0)
    assert said.prefixes[back] == (5400, 2700), "what was going is in use again"
    assert router.config().count(DEPRECATED) == 2, "one on each LAN"
    ok(router.play(router.together, tunnel_state="absent", radvd_deprecation=0, **WANTED))
    assert not router.agents()


def test_a_file_that_the_site_broke_meanwhile_is_left_alone(router: Router) -> None:
    ok(router.play(router.together, **WANTED))
    broken = router.config().replace("AdvSendAdvert on;", "AdvSendAdvert maybe;", 1)
    router.host.run("sh", "-c", "cat > /etc/radvd.conf", input=broken)
    another_prefix(router, "2001:db8:4000::/36")
    wait_for("the agent has another prefix", lambda: lease(router)["prefix"].startswith("2001:db8:4"))
    said = wait_for("the agent says why", lambda: [
        line for line in router.host.run("sh", "-c", "cat /run/tsp-tsp/*.log").stdout.splitlines() if "radvd does not" in line])
    assert "/etc/radvd.conf" in said[0]
    assert router.config() == broken
