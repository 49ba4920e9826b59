# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The part of the agent that changes the host: device, addresses, routes, settings, radvd, hooks and the lease file of one tunnel."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from ..._apply.plan import Probe
from ..._apply.probe import open_socket
from ..._exchange.source import Source
from ..._module import leasestore
from ..._module.plan import tunnel_plan
from ..._tsp.errors import ApplyError, LocalError
from ..._tsp.lease import Lease
from .. import platforms
from ..buffers import enlarge
from ..link import Kernel
from ..linkplan import KINDS
from ..settings import CREATION, TEARDOWN, AgentConfig
from ..tun import TunDevice
from .port import SetUp

MODES = {"v6anyv4": ("v6v4", "v6udpv4")}
"""What may be granted where one asks for this; any other mode is granted or not."""
Hook = Callable[[AgentConfig, Lease, str, logging.Logger], None]
Advertise = Callable[[AgentConfig, Lease, logging.Logger], None]


class HostApplier:
    """The methods of port.Applier, as plain calls. hook: runs the user's programs. advertise: tells radvd of another prefix."""

    def __init__(self, config: AgentConfig, kernel: Kernel, log: logging.Logger, *, hook: Hook | None = None,
                 advertise: Advertise | None = None, platform: str = sys.platform) -> None:
        self._config = config
        self._kernel = kernel
        self._platform = platform
        self._log = log
        self._hook = hook
        self._advertise = advertise
        self._link = platforms.make_link(kernel, config.private_file("undo.json"), platform)
        self._has_device = False
        self._lease: Lease | None = None

    def recover(self) -> bool:
        if self._config.hooks.script_sets_up:
            return False  # the device is the user's program's business
        devices = dict.fromkeys(platforms.device_name(self._config.device_of(mode), kind, self._platform)
                                for mode, kinds in KINDS.items() for kind in kinds if kind != "fou")
        found = [self._link.recover(device, self._config.name) for device in devices]
        return any(found)

    def fou_missing(self) -> str:
        return platforms.fou_missing(self._kernel, self._platform)

    def set_up(self, lease: Lease, kind: str, sock: socket.socket | None) -> SetUp:
        self.check(lease)
        config = self._config
        if kind not in KINDS[lease.grant.mode]:
            raise LocalError("lease_refused", f"{kind!r} carries no tunnel of mode {lease.grant.mode}.", "This is a defect of the agent.")
        link, device = config.link, config.device_of(lease.grant.mode)
        numbers = tunnel_plan(lease, lan_interfaces=list(link.lan_interfaces), mtu=link.mtu, link_mtu=link.link_mtu)
        plan = platforms.make_plan(numbers, link, device, config.name, kind, self._kernel, self._platform)
        if config.hooks.script_sets_up:
            # The user's program does it all, as the old client's template did: what is left to us is the TUN device.
            plan = replace(plan, steps=(), replace=False, table=None)
        made: TunDevice | None = None
        try:
            if self._link.plan is not None and self._link.plan.device_key != plan.device_key:
                self.take_down()
            self._goodbye(lease)
            if kind == "tun":
                if sock is not None:
                    enlarge(sock)
                if not self._has_device:
                    made = platforms.open_tun(device, self._link, self._platform)
                    self._has_device = True
            done = self._link.apply(plan, None if sock is None or kind == "tun" else sock.close)
            self._welcome(lease)
            echo = None if kind == "tun" else self._echo(numbers, plan.device)
            return SetUp(done, numbers, plan.device, None if made is None else made.fd, echo)
        except BaseException:
            if made is not None:
                made.close()
            self.take_down()
            raise
        finally:
            if sock is not None:
                sock.close()

    def check(self, lease: Lease) -> None:
        """Is this a lease that this host's configuration can have asked for? Raises LocalError `lease_refused`."""
        request = self._config.request
        if lease.grant.mode not in MODES.get(request.mode, (request.mode,)) or lease.request != request or \
                lease.username != self._config.options.username:
            raise LocalError("lease_refused", "The lease answers another question than this tunnel's configuration asks.",
                             "Somebody else wrote it: ask the broker again.")

    def free_port(self) -> None:
        self._link.free_port()

    def take_down(self) -> list[str]:
        self._has_device = False
        said = []
        if self._lease is not None:
            said = self._call_hook(self._lease, TEARDOWN)
            self._lease = None
        return said + self._link.remove()

    def echo_socket(self, address: str) -> socket.socket | None:
        source = Source.of(self._config.options)
        try:
            return open_socket(Probe(str(ip_address(address)), source=source.address, interface=source.interface))
        except (OSError, ValueError):
            return None

    def advertise(self, lease: Lease) -> None:
        if self._advertise is not None and self._config.radvd is not None:
            self.check(lease)
            self._advertise(self._config, lease, self._log)

    def load(self) -> Lease | None:
        return leasestore.load(self._config.lease_file)

    def save(self, lease: Lease) -> None:
        self.check(lease)
        leasestore.save(self._config.lease_file, lease)

    def _echo(self, numbers: dict[str, Any], device: str) -> socket.socket | None:
        probe = Probe(numbers["probe"], source=numbers["address"], interface=device)
        try:
            return open_socket(probe)
        except OSError as exc:
            self._log.warning("no echo requests can be sent through %s: %s", device, exc.strerror)
            return None

    def _goodbye(self, lease: Lease) -> None:
        """Another grant, where the user's program sets up: it takes the old one away before it hears of the new one."""
        if self._lease is not None and self._config.hooks.script_sets_up and not same_grant(self._lease, lease):
            self._call_hook(self._lease, TEARDOWN)
            self._lease = None

    def _welcome(self, lease: Lease) -> None:
        """The tunnel is there: tell who wants to know, if it is another one than before. Raises ApplyError `hook_failed`."""
        news = self._lease is None or not same_grant(self._lease, lease)
        self._lease = lease
        if news:
            for line in self._call_hook(lease, CREATION, strict=self._config.hooks.script_sets_up):
                self._log.warning("%s", line)

    def _call_hook(self, lease: Lease, operation: str, strict: bool = False) -> list[str]:
        if self._hook is None or not (self._config.hooks.script or self._config.hooks.lease):
            return []
        try:
            self._hook(self._config, lease, operation, self._log)
        except ApplyError as exc:
            if strict:
                self._lease = None
                raise
            return [f"failed: {exc.message}"]
        return []


def same_grant(one: Lease, other: Lease) -> bool:
    """Whether two leases give the same addresses, networks and ends."""
    first, second = (replace(lease.grant, keepalive=None, lifetime=None) for lease in (one, other))
    return first == second and one.broker == other.broker


def private_folder(config: AgentConfig) -> None:
    """Make the folder that is ours alone: what lies there is a list of commands that we run. Raises LocalError `runtime_dir_unusable`."""
    folder = os.path.dirname(config.private_file("undo.json"))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.stat(folder)
    except OSError as exc:
        raise LocalError("runtime_dir_unusable", f"{folder} cannot be used: {exc.strerror}.",
                         "Run the agent as root, or set another runtime_dir.") from None
    if found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid()):
        raise LocalError("runtime_dir_unusable", f"{folder} cannot be used: others than its owner can write into it.",
                         "Set another runtime_dir; one that does not exist yet is made as it should be.")
