# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Which of the agent's two sides of a kernel this system has: Linux's (`link`, `linkplan`, `tun`) or the BSDs' (`bsd`).

Only this file asks which system it is. The other side's modules are not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from .._tsp.errors import LocalError
from .link import Kernel
from .linkplan import LinkPlan
from .settings import LinkConfig
from .tun import TunDevice


class LinkSide(Protocol):
    """What `link.Link` and `bsd.link.BsdLink` have in common; the contract stands there."""

    plan: LinkPlan | None

    def recover(self, device: str, name: str) -> bool:
        """Clean up after an agent of this name that was killed."""

    def apply(self, plan: LinkPlan, give_port: Callable[[], None] | None = None) -> list[str]:
        """Make the plan true."""

    def remove(self) -> list[str]:
        """Take everything away."""

    def free_port(self) -> None:
        """Take a UDP port back from the kernel."""


def make_link(kernel: Kernel, undo_file: str, platform: str = sys.platform) -> LinkSide:
    """The kernel's side of one tunnel. Raises LocalError `system_unknown`."""
    if _linux(platform):
        from .link import Link

        return Link(kernel, undo_file)
    from .bsd.link import BsdLink

    return BsdLink(kernel, undo_file, _system(platform))


def make_plan(numbers: dict[str, Any], link: LinkConfig, device: str, name: str, kind: str, kernel: Kernel,
              platform: str = sys.platform) -> LinkPlan:
    """The steps for a tunnel. plan.device is the device's name here. Raises LocalError as linkplan.make_plan and bsd.plan.make_plan do,
    and `system_unknown`."""
    if _linux(platform):
        from . import linkplan

        single = kernel.get_sysctl(linkplan.FORWARDING_OF[6].format("default")) is not None
        return linkplan.make_plan(numbers, link, device, name, kind=kind, force_forwarding=single)
    from .bsd import plan

    return plan.make_plan(numbers, link, device, name, _system(platform), kind)


def open_tun(device: str, link: LinkSide, platform: str = sys.platform) -> TunDevice:
    """Make the TUN device for a v6udpv4 tunnel; link: that of this tunnel, which keeps what has to be undone. Raises LocalError,
    ApplyError."""
    if _linux(platform):
        from .tun import open_tun as linux

        return linux(device, offload=True)
    from .bsd.link import BsdLink

    if not isinstance(link, BsdLink):
        raise LocalError("defect", "A TUN device was asked of the link of another system.", "This is a defect of the agent.")
    return link.open_tun(device)


def device_name(device: str, kind: str, platform: str = sys.platform) -> str:
    """What the device of the configuration is called here when it is of this kind (linkplan.KINDS). Raises LocalError `bad_device`,
    `system_unknown`."""
    if _linux(platform):
        return device
    from .bsd.systems import device_name as bsd

    return bsd(_system(platform), device, kind)


def fou_missing(kernel: Kernel, platform: str = sys.platform) -> str:
    """Why this kernel cannot carry IPv6 in UDP by itself; empty when it can."""
    if _linux(platform):
        from . import fou

        return fou.missing(kernel)
    return f"{_system(platform).name} has no means for it"


def _linux(platform: str) -> bool:
    return platform.startswith("linux")


def _system(platform: str) -> Any:
    from .bsd.systems import system_of

    system = system_of(platform)
    if system is None:
        raise LocalError("system_unknown", f"The agent cannot set up tunnels on {platform}.",
                         "It knows Linux, FreeBSD, OpenBSD, NetBSD and macOS.")
    return system
