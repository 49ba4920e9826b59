# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A plain script with a systemd unit: for hosts whose configuration system cannot express the tunnel, or that have none.

It touches nobody's files and can express everything. The unit runs it at boot once the network is up, and its other half at shutdown.
"""

from __future__ import annotations

from typing import Any

from .. import lines as shell
from ..backend import Host, Parts, Setup


class Backend:
    """The port (../backend.py) to a script of our own."""

    NAME = "script"

    def refuses(self, setup: Setup, host: Host) -> str | None:
        """Why not, or None."""
        if host["service_manager"] != "systemd":
            return "A script needs somebody who runs it at boot, and systemd does not run this host."
        if setup["data_plane"] == "tun":
            return "A script carries no packets."
        return None

    def parts(self, setup: Setup, host: Host) -> Parts:
        """The script and its unit. The unit is restarted when one of them changes: down by the old script, up by the new one."""
        name = setup["name"]
        unit = f"tsp-tunnel-{name}.service"
        script, unit_file = f"/usr/local/lib/tsp/{name}/tunnel", f"/etc/systemd/system/{unit}"
        return Parts(
            directories=[{"path": "/usr/local/lib/tsp"}, {"path": f"/usr/local/lib/tsp/{name}"}],
            files=[{"path": script, "template": "script.sh.j2", "mode": "0755", "vars": {"script": _lines(setup)}},
                   {"path": unit_file, "template": "script.service.j2", "mode": "0644", "vars": {"script": {
                       "path": script, "devices": [_device_unit(entry["interface"]) for entry in setup["lan"]]}}}],
            services=[{"name": unit, "manager": "systemd", "state": "restarted", "enabled": True, "files": [script, unit_file]}])


def _lines(setup: Setup) -> dict[str, Any]:
    """{up, down}: command lines in order."""
    family = setup["numbers"]["family"]
    device = setup["device"]
    up, down = shell.tunnel(setup["link"])
    down = list(down)
    up = [*up, f"ip link set dev {device} up"]
    nodad = " nodad" if family == 6 else ""
    up += [f"ip -{family} address add {item['cidr']} dev {device}{nodad}" for item in setup["addresses"]]
    for pair in ([shell.route(item) for item in setup["routes"] if not item.get("absent")]
                 + [shell.rule(item) for item in setup["rules"]] + [shell.lan_address(item, family) for item in setup["lan_addresses"]]):
        up += pair[0]
        down = [*pair[1], *down]
    away = [item for item in setup["routes"] if item.get("absent")]
    for item in away:
        via = f" via {item['gateway']}" if item["gateway"] else ""
        up.append(f"ip -{family} route delete {item['destination']}{via} dev {item['device']} metric {item['metric']} 2>/dev/null || true")
    return {"up": up, "down": down}


def _device_unit(interface: str) -> str:
    """The unit that systemd has for a network interface (systemd.unit(5), escaping)."""
    escaped = "".join(char if char.isalnum() or char in "_.:" else f"\\x{ord(char):02x}" for char in interface)
    return f"sys-subsystem-net-devices-{escaped}.device"
