# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The emulator's data plane: real packets over raw sockets, in a network namespace of the test's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator import packets


@pytest.mark.root
def test_pings_travel_through_tunnels_and_only_through_tunnels_that_are_up(repository: Path) -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(Path(__file__).with_name("_two_routers.py")), str(repository / "tests" / "lab")],
        capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for name in ("ipv6ip", "ipv6"):
        assert re.search(r"\n!!!\nSuccess rate is 100 percent \(3/3\), round-trip min/avg/max = \d+/\d+/\d+ ms\n", said[name]), said[name]
    assert "\n!!\n" in said["plain"]
    for name in ("nobody", "other end down"):
        assert "\n..\nSuccess rate is 0 percent (0/2)\n" in said[name]
    assert said["answered"] == "6"


@pytest.mark.parametrize(("source", "target"), [("2001:db8::1", "2001:db8::2"), ("192.0.2.1", "192.0.2.2")])
@pytest.mark.parametrize("size", [0, 1, 56])
def test_what_is_built_can_be_read_and_a_flipped_bit_cannot(source: str, target: str, size: int) -> None:
    echo = packets.Echo("request", ip_address(source), ip_address(target), 0x1234, 7, bytes(range(size)))
    data = packets.packet(echo)
    assert packets.parse(data) == echo
    for place in range(len(data) - 8 - size, len(data)):
        broken = bytearray(data)
        broken[place] ^= 4
        assert packets.parse(bytes(broken)) != echo
    for length in range(len(data) - 1):
        assert packets.parse(data[:length]) is None
