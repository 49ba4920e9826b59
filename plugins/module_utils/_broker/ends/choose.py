# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Picks the data plane: what the configuration says, or with `auto` the best that this machine and these rights allow."""

from __future__ import annotations

from ..._tsp.errors import LocalError
from ..config import Config
from .kernel import KernelDataPlane, kernel_lacks
from .none import NoDataPlane
from .port import DataPlane, EndTable, SendUdp
from .userspace import UserspaceDataPlane

KERNEL_MODES = frozenset(("v6v4", "v4v6"))


def choose(config: Config, table: EndTable, send_udp: SendUdp) -> tuple[DataPlane, str, bool]:
    """A started data plane, why it is this one, and whether that is less than was hoped for. Raises LocalError.

    `auto`: kernel where the modes need kernel tunnels and the kernel has them, else userspace, else none.
    """
    own = tuple(a for a in (config.addresses.inner_ipv6, config.addresses.inner_ipv4) if a is not None)
    routed, plane_config, modes = config.pools.routed(), config.data_plane, frozenset(config.modes)

    def none() -> DataPlane:
        return NoDataPlane(table, own, routed, send_udp)

    def userspace() -> DataPlane:
        return UserspaceDataPlane(table, own, routed, send_udp, plane_config.device, plane_config.mtu, modes)

    def kernel() -> DataPlane:
        return KernelDataPlane(table, own, routed, send_udp, plane_config.device, plane_config.mtu, modes)

    if plane_config.kind != "auto":
        plane = {"none": none, "userspace": userspace, "kernel": kernel}[plane_config.kind]()
        if plane_config.kind == "kernel":
            lacking = kernel_lacks(modes)
            if lacking:
                raise LocalError("no_kernel_tunnels", f"data_plane is kernel, but this kernel has {lacking}.",
                                 "Load the module (modprobe sit, modprobe ip6_tunnel), or set data_plane: userspace.")
        plane.start()
        return plane, "as configured", False
    try:
        if not modes & KERNEL_MODES:
            reason = "v6udpv4 needs no kernel tunnels"
            plane = userspace()
        else:
            lacking = kernel_lacks(modes)
            reason = "the kernel has the tunnels that the modes need" if lacking is None else f"this kernel has {lacking}"
            plane = kernel() if lacking is None else userspace()
        plane.start()
        return plane, reason, False
    except LocalError as exc:
        plane = none()
        plane.start()
        return plane, f"{exc.message} Packets are not carried", True
