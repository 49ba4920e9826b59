# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The configuration systems that we know, by name."""

from __future__ import annotations

import importlib

from .backend import Backend

NATIVE = ("networkd", "netplan", "networkmanager", "ifupdown")
"""Those that govern interfaces themselves, named as `governor` of linux_info names them."""
SCRIPT = "script"
AGENT = "agent"
NAMES = (AGENT, *NATIVE, SCRIPT)
TITLES = {"networkd": "systemd-networkd", "netplan": "netplan", "networkmanager": "NetworkManager", "ifupdown": "ifupdown",
          SCRIPT: "a script with a systemd unit", AGENT: "the agent", "none": "no configuration system"}


def backend(name: str) -> Backend | None:
    """The backend of that name. None for the agent, which configures the kernel itself."""
    if name == AGENT:
        return None
    made: Backend = importlib.import_module(f"{__package__}.backends.{name}").Backend()
    return made
