# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the packet filter is made of; tests/integration/test_firewall.py sends packets at it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.firewall import firewall, parts
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError


def setup(mode: str = "v6v4", backend: str = "networkd", family: int = 6) -> dict[str, Any]:
    return {"name": "tsp", "device": "tsp0", "backend": backend, "numbers": {
        "mode": mode, "family": family, "mss": {"ipv6": 1400, "ipv4": 1420},
        "tunnel": {"local": "192.0.2.2", "remote": "192.0.2.1", "local_port": 40123, "remote_port": 3653}}}


def test_nothing_unless_it_is_asked_for() -> None:
    assert firewall(setup()) == {}
    assert parts({**setup(), "firewall": {}}, {"tools": {}}).files == []


def test_each_mode_is_carried_by_its_own_protocol() -> None:
    made = {mode: firewall(setup(mode), enabled=True) for mode in ("v6v4", "v6udpv4", "v4v6")}
    assert {mode: (found["protocol"], found["port"]) for mode, found in made.items()} == {
        "v6v4": (41, None), "v6udpv4": (None, 40123), "v4v6": (4, None)}


def test_an_agent_may_change_its_broker_and_is_not_tied_to_one() -> None:
    made = firewall(setup("v6udpv4", "agent"), enabled=True)
    assert made["port"] is None and made["protocol"] is None and made["filter"]


def test_segments_follow_the_family_inside() -> None:
    assert firewall(setup(), mss_clamp=True)["mss"] == 1400
    assert firewall(setup("v4v6", family=4), mss_clamp=True)["mss"] == 1420


@pytest.mark.parametrize(("given", "taken"), [(22, ["22"]), ("22", ["22"]), ([22, "6000-6063", 22], ["22", "6000-6063"]), ([], [])])
def test_ports(given: Any, taken: list[str]) -> None:
    assert firewall(setup(), enabled=True, tcp=given)["tcp"] == taken


@pytest.mark.parametrize("given", ["ssh", "0", "65536", "9-8", "22; flush ruleset", "22\n", True, [[22]]])
def test_what_is_no_port_is_refused(given: Any) -> None:
    with pytest.raises(LocalError, match="is not a port"):
        firewall(setup(), enabled=True, udp=[given])


def test_further_ends_of_tunnels() -> None:
    assert firewall(setup(), enabled=True, peers=["192.0.2.9"])["sources"] == ["192.0.2.1", "192.0.2.9"]
    for wrong in ("2001:db8::1", "broker.example", "192.0.2.9 accept; drop", 7, "::1%eth0"):
        with pytest.raises(LocalError, match="cannot end a tunnel"):
            firewall(setup(), enabled=True, peers=[wrong])


def test_without_nft_it_says_so() -> None:
    with pytest.raises(LocalError) as caught:
        parts({**setup(), "firewall": firewall(setup(), enabled=True)}, {"tools": {"nft": None}, "service_manager": "systemd"})
    assert caught.value.code == "no_nftables"


def test_systemd_loads_it_at_boot_and_elsewhere_it_is_loaded_now() -> None:
    linux = {**setup(), "firewall": firewall(setup(), enabled=True)}
    booted = parts(linux, {"tools": {"nft": "/usr/sbin/nft"}, "service_manager": "systemd"})
    assert [file["path"] for file in booted.files] == ["/etc/tsp/tsp.nft", "/etc/systemd/system/tsp-firewall-tsp.service"]
    assert booted.services[0]["name"] == "tsp-firewall-tsp.service" and not booted.start
    plain = parts(linux, {"tools": {"nft": "/usr/sbin/nft"}, "service_manager": "none"})
    assert plain.start[0]["undo"] == ["/usr/sbin/nft", "delete", "table", "inet", "tsp_tsp"] and not plain.services
