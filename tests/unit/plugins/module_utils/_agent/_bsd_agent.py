# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole agent on a kernel of the BSD family in memory: `python _bsd_agent.py PLATFORM FOLDER`, run by test_bsd_agent.py.

FOLDER/tsp.json is its configuration. It leaves FOLDER/kernel.json, what its kernel has, after each command, and FOLDER/ran, the commands.
Packets of its tun device go to, and come from, the datagram socket FOLDER/device.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLATFORM, FOLDER = sys.argv[1], Path(sys.argv[2])
sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
# Makes the collection's name resolve.
import conftest  # noqa: E402, F401  pylint: disable=unused-import

sys.platform = PLATFORM

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import program, service  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd import link  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd.systems import System, system_of  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.tun import TunDevice  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import Completed  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._bsd_kernel import BsdKernel  # noqa: E402


class Kernel(BsdKernel):
    """One that shows what it has."""

    def run(self, argv: Sequence[str]) -> Completed:
        done = super().run(argv)
        self.show()
        return done

    def show(self) -> None:
        new = FOLDER / "kernel.new"
        new.write_text(json.dumps(self.picture()), encoding="utf-8")
        new.replace(FOLDER / "kernel.json")
        (FOLDER / "ran").write_text("\n".join(self.ran) + "\n", encoding="utf-8")

    def open_tun(self, system: System, name: str) -> tuple[TunDevice, bool]:
        _nothing, goes = super().open_tun(system, name)
        device = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        device.bind(str(FOLDER / "agent"))
        device.connect(str(FOLDER / "device"))
        device.setblocking(False)
        return TunDevice(name, device.detach()), goes


found = system_of(PLATFORM)
assert found is not None
kernel = Kernel(found)
kernel.show()
patched: Any = service
patched.HostKernel = lambda: kernel
link.open_device = kernel.open_tun
code = program.main(["--config", str(FOLDER / "tsp.json"), "--foreground"])
kernel.close()
kernel.show()
raise SystemExit(code)
