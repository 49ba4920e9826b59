# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What tunnels the kernel of a host can make: loaded, built in, to be loaded, or missing. Nothing is loaded to find out."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from .look import Look

MODULES = {"sit": "sit", "fou": "fou", "ip6tnl": "ip6_tunnel", "tun": "tun"}
TUN_DEVICE = "/dev/net/tun"
FALLBACK_DEVICE = {"sit": "sit0", "ip6tnl": "ip6tnl0"}
"""The device that the kernel makes with its support for a kind: the sign of it where /lib/modules says nothing (a container)."""

FORBIDDEN = re.compile(r"install (/usr)?/bin/(false|true)\b")


def kinds(look: Look, release: str, modprobe: str | None) -> dict[str, dict[str, Any]]:
    """{sit, fou, ip6tnl, tun: {available, how: loaded | builtin | module | missing}}."""
    out: dict[str, dict[str, Any]] = {}
    for kind, module in MODULES.items():
        how = how_of(look, release, module, modprobe)
        if how == "missing" and look.exists(f"/sys/class/net/{FALLBACK_DEVICE.get(kind, module)}"):
            how = "builtin"
        available = how != "missing"
        if kind == "tun":
            device = look.exists(TUN_DEVICE)
            if device and how == "missing":
                how = "builtin"
            # Loading the module makes the device. Where the driver is there and the device is not, we are in a container without it.
            available = device or how == "module"
        out[kind] = {"available": available, "how": how}
    return out


def how_of(look: Look, release: str, module: str, modprobe: str | None) -> str:
    """loaded | builtin | module (modprobe would load it) | missing."""
    if any(line.split(" ", 1)[0] == module for line in (look.text("/proc/modules") or "").splitlines()):
        return "loaded"
    builtin = look.text(f"/lib/modules/{release}/modules.builtin") or ""
    if any(posixpath.basename(line).split(".")[0].replace("-", "_") == module for line in builtin.splitlines()):
        return "builtin"
    if modprobe is not None:
        done = look.run(("modprobe", "-n", "-v", module))  # -n: a dry run
        last = (done.stdout.strip().splitlines() or [""])[-1]
        # A host that is not to load it says `install sit /bin/false`, and modprobe reports success in a dry run.
        if done.rc == 0 and not FORBIDDEN.match(last):
            return "module"
    return "missing"
