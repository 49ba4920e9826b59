# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The port between the part of the agent that reads the network and the part that changes the host.

The first knows the broker and has no rights; the second has the rights, and takes a checked lease and nothing else: what is to be set
up for it stands in the configuration, which it reads itself. `host` is the second part, `local` has both in one process, `remote` and
`serve` in two.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, Protocol

from ..._tsp.lease import Lease


@dataclass
class SetUp:
    """What came of setting a tunnel up. Whoever gets it owns the descriptors.

    done: the commands that were needed. numbers: of tunnel_plan. name: of the device, which some systems choose. device: of a TUN device
    that was made now, None where there is none or where it was there. echo: a connected raw or ping socket for echo requests through the
    tunnel; None where the data plane sends them.
    """

    done: list[str]
    numbers: dict[str, Any]
    name: str
    device: int | None = None
    echo: socket.socket | None = None


class Applier(Protocol):
    """One tunnel's side of the host. All raise LocalError `applier_gone` when the part that has the rights has ended."""

    async def recover(self) -> bool:
        """Clean up after an agent that was killed; whether there was anything. Raises LocalError `device_taken`."""

    async def fou_missing(self) -> str:
        """Why this kernel cannot carry IPv6 in UDP by itself; empty when it can."""

    async def set_up(self, lease: Lease, kind: str, sock: socket.socket | None) -> SetUp:
        """Make the host what this lease wants. kind: of linkplan.KINDS. sock: the exchange's UDP socket with v6udpv4; with fou the
        caller gives it up, with tun it only has its buffers enlarged.

        Raises ApplyError (`tunnel_refused`, `link_failed`, `hook_failed`, …), LocalError; then what was done for it is undone.
        """

    async def free_port(self) -> None:
        """Take the UDP port back from the kernel, for a negotiation from there; the device stays."""

    async def take_down(self) -> list[str]:
        """Take everything away. Returns the commands; what failed begins with `failed: `."""

    async def echo_socket(self, address: str) -> socket.socket | None:
        """A socket for echo requests to the broker's end outside of the tunnel, to measure the path; None where there can be none."""

    async def advertise(self, lease: Lease) -> None:
        """Have radvd advertise the networks of this lease, and what it advertised before for the last time. Nothing where it has them
        already. Raises ApplyError (`busy`: a run of apply_config is at work), LocalError."""

    async def load(self) -> Lease | None:
        """The stored lease. Raises LocalError."""

    async def save(self, lease: Lease) -> None:
        """Store it. Raises LocalError."""
