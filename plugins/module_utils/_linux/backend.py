# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The port to a host's network configuration system: a backend says what it can express, and in which files and commands.

`setup` is the neutral picture (setup.py) and `host` what linux_info found. A backend computes; it touches no host. Its texts are
Jinja templates below templates/linux/, rendered on the controller with `linux` = setup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

Setup = dict[str, Any]
Host = dict[str, Any]


@dataclass
class Parts:
    """What a backend adds to the transaction, as options of the module apply_config.

    files: [{path, template (below templates/linux/), mode}]. stop, start: commands before and after the files change, {argv, undo,
    unless, timeout}. settle: commands that make the host be as the files say, run after files changed and again after they were put
    back. services: [{name, state, enabled, …}]. items: the items of the kernel, with `make` set for those that the files cannot express.
    """

    files: list[dict[str, Any]] = field(default_factory=list)
    directories: list[dict[str, Any]] = field(default_factory=list)
    stop: list[dict[str, Any]] = field(default_factory=list)
    start: list[dict[str, Any]] = field(default_factory=list)
    settle: list[dict[str, Any]] = field(default_factory=list)
    services: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)


class Backend(Protocol):
    """One configuration system."""

    NAME: str

    def refuses(self, setup: Setup, host: Host) -> str | None:
        """Why this tunnel cannot be expressed on this host, a sentence for people; None when it can."""

    def parts(self, setup: Setup, host: Host) -> Parts:
        """The tunnel as this system wants it."""
