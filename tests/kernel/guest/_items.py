# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A transaction with items of the kernel, as a program that can die: python3 _items.py PLUGINS STATE_DIR KIND PROVED DIE_AT

KIND: none (no tunnel), sit, fou, other (fou with another port), ip6tnl; absent takes all away. PROVED: yes or no, what the probe says.
DIE_AT: before which change of the host to die by kill -9, 0 for never. Wants the interfaces wan0 (with 198.51.100.2 and 2001:db8:9::2)
and lan0. Says {"changed", "steps"} or {"error"}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])

from module_utils._apply import items  # noqa: E402
from module_utils._apply.plan import FileChange, Plan, Probe, Settle  # noqa: E402
from module_utils._apply.probe import ProbeResult  # noqa: E402
from module_utils._apply.runner import HostRunner  # noqa: E402
from module_utils._apply.transaction import apply  # noqa: E402
from module_utils._tsp.errors import TspError  # noqa: E402

CHANGES = ("write", "remove", "make_directory", "remove_directory", "run", "set_sysctl")


class Mortal:
    """The host under a program that is killed before its n-th change."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._host = HostRunner()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._host, name)
        if name not in CHANGES:
            return real

        def act(*args: Any, **kwargs: Any) -> Any:
            if name != "run" or not {"show", "-j"} & set(args[0]):
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return act


def plan(kind: str, folder: str) -> Plan:
    ends = ("2001:db8:9::2", "2001:db8:9::1") if kind == "ip6tnl" else ("198.51.100.2", "198.51.100.1")
    device = "wan0" if kind == "none" else "tsp0"
    inner, far = ("203.0.113.2/32", "203.0.113.1/32") if kind == "ip6tnl" else ("2001:db8:f::2/128", "2001:db8:f::1/128")
    wanted = []
    if kind != "none":
        fou = {"fou": (40000, 3653), "other": (40001, 3653)}.get(kind)
        wanted.append(items.link("tsp0", "ip6tnl" if kind == "ip6tnl" else "sit", *ends, 1460 if kind == "ip6tnl" else 1472, fou=fou,
                                 make=True))
    wanted += [items.address(device, inner, make=True), items.route(far, device, 1024, make=True)]
    if kind == "ip6tnl":
        wanted += [items.route("0.0.0.0/0", device, 2048, make=True), items.sysctl("net/ipv4/conf/lan0/forwarding", "1")]
    else:
        wanted += [
            items.route("2001:db8:a::/48", None, 1024, kind="unreachable", make=True), items.route("::/0", device, 2048, make=True),
            items.route("::/0", device, 512, source="2001:db8:a::/48", make=True), items.route("::/0", device, 1024, table=4653, make=True),
            items.route("::/0", "wan0", 77, gateway="2001:db8:9::1", absent=True),
            items.rule("2001:db8:a::/48", 4653, 4653, make=True),
            items.rule("2001:db8:a::/48", "main", 4652, suppress_prefixlength=0, make=True),
            items.address("lan0", "2001:db8:a:1::1/64", make=True), items.sysctl("net/ipv6/conf/wan0/accept_ra", "2"),
            items.sysctl("net/ipv6/conf/all/forwarding", "1")]
    return Plan("t", files=(FileChange(f"{folder}/config", kind.encode()),), settle=(Settle(("true",)),), items=tuple(wanted),
                probe=Probe("2001:db8:f::1"))


def main() -> int:
    state_dir, kind, proved, at = sys.argv[2], sys.argv[3], sys.argv[4] == "yes", int(sys.argv[5])
    wanted = Plan("t", present=False) if kind == "absent" else plan(kind, os.path.dirname(state_dir))
    try:
        done = apply(wanted, Mortal(at), lambda probe: ProbeResult(proved, probe.address, reason="the test says so"), state_dir=state_dir)
        said: dict[str, Any] = {"changed": done.changed, "steps": done.steps}
    except TspError as exc:
        said = {"error": exc.code, "message": exc.message}
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
