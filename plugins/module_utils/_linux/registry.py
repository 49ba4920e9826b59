# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The configuration systems that we know, by name."""

from __future__ import annotations

import importlib

from .backend import Backend, Host, Parts, Setup

NATIVE = ("networkd", "netplan", "networkmanager", "ifupdown")
"""Those that govern interfaces themselves, named as `governor` of linux_info names them."""
SCRIPT = "script"
AGENT = "agent"
NAMES = (AGENT, *NATIVE, SCRIPT)
TITLES = {"networkd": "systemd-networkd", "netplan": "netplan", "networkmanager": "NetworkManager", "ifupdown": "ifupdown",
          SCRIPT: "a script with a systemd unit", AGENT: "the agent", "none": "no configuration system"}


class Absent:
    """Stands for a configuration system that this collection knows by name only."""

    def __init__(self, name: str) -> None:
        self.NAME = name

    def refuses(self, setup: Setup, host: Host) -> str | None:
        return f"This collection has no {self.NAME} backend."

    def parts(self, setup: Setup, host: Host) -> Parts:
        raise NotImplementedError(self.NAME)


def backend(name: str) -> Backend | None:
    """The backend of that name. None for the agent, which configures the kernel itself."""
    if name == AGENT:
        return None
    try:
        module = importlib.import_module(f"{__package__}.backends.{name}")
    except ModuleNotFoundError:
        return Absent(name)
    made: Backend = module.Backend()
    return made
