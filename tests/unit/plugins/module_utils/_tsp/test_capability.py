# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The CAPABILITY line."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import capability

LINE = "CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5 AUTH=PASSDSS-3DES-1"


def test_written_as_the_recorded_brokers_do():
    tunnels, auths = frozenset({"V6UDPV4", "V6V4"}), frozenset({"PASSDSS-3DES-1", "PLAIN", "DIGEST-MD5", "ANONYMOUS"})
    assert capability.build(tunnels, auths) == LINE.encode() + b"\r\n"
    assert capability.parse(LINE, pytest.fail) == (tunnels, auths)


@pytest.mark.parametrize("line, quirks", [
    ("capability tunnel=v6v4 auth=plain", ["capability_case"]),
    ("CAPABILITY TUNNEL=V6V4 AUTH=plain", ["capability_case"]),
    ("CAPABILITY  TUNNEL=V6V4\tAUTH=PLAIN", ["capability_separator"]),
    ("CAPABILITY TUNNEL=V6V4, AUTH=PLAIN", ["capability_separator"]),
    ("CAPABILITY TUNNEL=V6V4 AUTH=PLAIN COLOUR=blue =x TUNNEL= TUNNEL=;reboot", []),
])
def test_tolerances(line, quirks):
    counted = []
    assert capability.parse(line, counted.append) == (frozenset({"V6V4"}), frozenset({"PLAIN"}))
    assert counted == quirks


def test_without_tunnels():
    counted = []
    assert capability.parse("CAPABILITY AUTH=PLAIN", counted.append) == (frozenset(), frozenset({"PLAIN"}))
    assert counted == ["capability_without_tunnels"]


@pytest.mark.parametrize("line", ["", "HELLO", "CAPABILITIES TUNNEL=V6V4", "200 Success"])
def test_other_lines(line):
    assert capability.parse(line, pytest.fail) is None


@pytest.mark.parametrize("tunnels, modes", [
    ("V6V4", "v6v4 v6anyv4"), ("V6UDPV4", "v6udpv4 v6anyv4"), ("V4V6", "v4v6"), ("V6ANYV4", "v6anyv4"),
    ("DSLITE", ""), ("", "v6v4 v6udpv4 v4v6 v6anyv4"),
])
def test_which_modes_are_offered(tunnels, modes):
    offered = [mode for mode in ("v6v4", "v6udpv4", "v4v6", "v6anyv4") if capability.offers(frozenset(tunnels.split()), mode)]
    assert offered == modes.split()
