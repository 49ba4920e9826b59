# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an exchange runs: on the target, or on the controller for a device that cannot run it. Pure functions of task variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError

DEVICE_CONNECTIONS = frozenset(("network_cli", "netconf", "httpapi", "winrm", "psrp"))
"""Connections to what has no Python of its own for us."""
WINDOWS_SHELLS = frozenset(("powershell", "cmd"))


@dataclass(frozen=True)
class Host:
    """What is known of the host of a task: connection without its collection's name, variables as the task sees them."""

    name: str
    connection: str
    is_device: bool

    @classmethod
    def of(cls, connection: str, task_vars: dict[str, Any]) -> Host:
        """The host that these task variables are about (with delegate_to it is still the one of the play)."""
        connection = connection.rpartition(".")[2]
        own = str(task_vars.get("ansible_connection") or connection).rpartition(".")[2]
        shell = str(task_vars.get("ansible_shell_type") or "")
        device = bool(task_vars.get("ansible_network_os")) or bool({connection, own} & DEVICE_CONNECTIONS) or shell in WINDOWS_SHELLS
        return cls(str(task_vars.get("inventory_hostname") or "localhost"), connection, device)


def on_controller(run_on: str, proxy: bool, host: Host) -> bool:
    """Whether the exchange runs in the controller's process."""
    if run_on != "auto":
        return run_on == "controller"
    return proxy or host.is_device


def for_another(host: Host) -> bool:
    """Whether an exchange on the controller is for another machine than the controller."""
    return host.is_device or host.connection != "local"


def base_folder(task_vars: dict[str, Any]) -> str:
    """The folder of the user's project: the playbook's, or for a playbook out of an installed collection the inventory's."""
    for name in ("playbook_dir", "inventory_dir"):
        folder = task_vars.get(name)
        if folder and "ansible_collections" not in str(folder).split(os.sep):
            return str(folder)
    return os.getcwd()


def lease_path(lease_dir: str | None, name: str, host: str, task_vars: dict[str, Any]) -> str:
    """The lease file of `host` on the controller. Raises LocalError when the host's name cannot be a file name."""
    if not host or os.sep in host or "\0" in host or host.startswith("."):
        raise LocalError("invalid_option", f"{host!r} cannot name a lease file.", "Give the host another name in the inventory.")
    folder = os.path.join(base_folder(task_vars), lease_dir or "leases")
    if name != "tsp":
        folder = os.path.join(folder, name)
    return os.path.join(folder, f"{host}.json")
