# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run in an empty network namespace by test_ends.py: the userspace data plane over the real kernel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
# Makes the collection's name resolve.
import conftest  # noqa: E402, F401  pylint: disable=unused-import
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends import kernel  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.port import EndTable  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.userspace import UserspaceDataPlane  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.test_switch import OWN, ROUTED  # noqa: E402

ALL = frozenset(("v6v4", "v6udpv4", "v4v6"))


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


async def main() -> None:
    ip("link", "set", "lo", "up")
    plane = UserspaceDataPlane(EndTable(), OWN, ROUTED, lambda *_args: True, "tsp0", 1280, ALL)
    plane.start()
    shown = ip("addr", "show", "dev", "tsp0")
    assert "mtu 1280" in shown and "2001:db8:f::1/128" in shown and "198.51.100.1/32" in shown, shown
    assert "2001:db8:8000::/33 dev tsp0" in ip("-6", "route") and "198.51.100.0/24 dev tsp0" in ip("-4", "route")
    lacking = kernel.kernel_lacks(ALL)
    assert lacking is None or lacking in ("no sit device", "no ip6tnl device"), lacking
    assert "tspb" not in ip("link"), "the probe left a device behind"
    plane.stop()
    assert "tsp0" not in ip("link") and "2001:db8" not in ip("-6", "route")
    print("checked; kernel tunnels:", lacking or "all there")


asyncio.run(main())
