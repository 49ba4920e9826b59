# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What every backend needs on a host beside its own files: kernel modules and variables at boot, and whoever keeps a NAT awake."""

from __future__ import annotations

from .._tsp.errors import LocalError
from .backend import Host, Parts, Setup

KEEPALIVE_INTERVAL = 30


def kernel_parts(setup: Setup, host: Host) -> Parts:
    """Modules and variables: now, and at every boot before the network."""
    name = setup["name"]
    made = Parts()
    if setup["modules"]:
        made.files.append({"path": f"/etc/modules-load.d/tsp-{name}.conf", "template": "modules.conf.j2", "mode": "0644"})
        if host["tools"]["modprobe"]:
            # A module that is loaded has a folder there. Never unloaded: with sit all tunnels of its kind would go, whosesoever.
            made.stop += [{"argv": ["modprobe", module], "unless": ["test", "-d", f"/sys/module/{module}"]} for module in setup["modules"]]
    if setup["sysctls"]:
        made.files.append({"path": f"/etc/sysctl.d/90-tsp-{name}.conf", "template": "sysctl.conf.j2", "mode": "0644"})
    return made


def keepalive_parts(setup: Setup, host: Host) -> Parts:
    """A unit that pings the broker through a tunnel over UDP, so that the NAT does not forget it. Raises LocalError `no_ping`.

    It keeps a mapping; where one is lost all the same, only a new exchange helps: that is what the agent is for.
    """
    if setup["data_plane"] != "fou":
        return Parts()
    if host["service_manager"] != "systemd":
        raise LocalError("no_keepalive", "A tunnel over UDP needs a keepalive, and nothing on this host would run one.",
                         "Set linux_backend to agent or auto.")
    if not host["tools"]["ping"]:
        raise LocalError("no_ping", "A tunnel over UDP needs a keepalive, and this host has no ping.",
                         "Install iputils-ping, or set linux_backend to agent.")
    unit = f"tsp-keepalive-{setup['name']}.service"
    path = f"/etc/systemd/system/{unit}"
    return Parts(files=[{"path": path, "template": "keepalive.service.j2", "mode": "0644"}],
                 services=[{"name": unit, "manager": "systemd", "state": "restarted", "enabled": True, "files": [path]}])
