# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""One tunnel, seen from the part that reads the network: what carries it, its data plane over UDP, its keepalives."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from .._apply.probe import echo_request, reply_sequence
from .._module.plan import TSP_PORT
from .._tsp.errors import ApplyError, LocalError, NetworkError
from .._tsp.lease import Lease
from . import icmp6
from .applier.port import Applier
from .dataplane import DataPlane
from .linkplan import KINDS
from .screen import Screen
from .settings import AgentConfig
from .tun import TunDevice

Reply = Callable[[int], bool]


class Tunnel:
    """Up for one lease at a time; another lease replaces it, keeping the device where the kind of tunnel is the same.

    on_reply(sequence): a keepalive was answered; returns whether we were waiting for it. on_trouble: the broker is unreachable.
    applier: the part of the agent that changes the host.
    """

    def __init__(self, config: AgentConfig, applier: Applier, on_reply: Reply, on_trouble: Callable[[OSError], None]) -> None:
        self._config = config
        self._on_reply = on_reply
        self._on_trouble = on_trouble
        self._applier = applier
        self._no_fou: str | None = None
        self._device: TunDevice | None = None
        self._plane: DataPlane | None = None
        self._pinger: _Pinger | None = None
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._addresses: tuple[IPv6Address, IPv6Address] | None = None
        self.numbers: dict[str, Any] | None = None
        self.name = config.device
        """Of the device, as it is called on this host."""
        self.data_plane: str | None = None
        """What carries the packets: tun, fou, sit, ip6tnl; None while nothing does. data_plane_why: a sentence."""
        self.data_plane_why = ""
        self.lost = False
        """Somebody removed our device. Keepalives do not tell: they travel beside it."""

    async def recover(self) -> bool:
        """Clean up after an agent that was killed. Raises LocalError `device_taken`."""
        return await self._applier.recover()

    async def up(self, lease: Lease, sock: socket.socket | None) -> list[str]:
        """Set up for `lease`; returns the commands that were needed. sock: the connected UDP socket with v6udpv4; ours from here on.

        Raises ApplyError, LocalError; then the tunnel is down and nothing is left.
        """
        try:
            kind, why = await self._choose(lease.grant.mode)
            try:
                done = await self._set_up(lease, sock, kind)
            except ApplyError as exc:
                if kind != "fou" or exc.code != "tunnel_refused" or self._config.link.data_plane == "fou":
                    raise
                self._no_fou = exc.message.rstrip(".")
                kind, why = await self._choose(lease.grant.mode)
                if sock is None or sock.fileno() < 0:
                    sock = stored_socket(self._config, lease)
                done = await self._set_up(lease, sock, kind)
            if kind == "tun":
                sock = None  # the data plane's, to close in its time
            self.data_plane, self.data_plane_why = kind, why
            return done
        except BaseException:
            await self.down()
            raise
        finally:
            if sock is not None:
                sock.close()

    async def _choose(self, mode: str) -> tuple[str, str]:
        """(what carries a tunnel of this mode, why). Raises LocalError `no_fou`."""
        wanted = self._config.link.data_plane
        if len(KINDS[mode]) == 1:
            return KINDS[mode][0], f"The lease is for {mode}."
        if self._config.hooks.script_sets_up:
            return "tun", "The user's own program sets up a TUN device."
        if wanted == "tun":
            return "tun", "The configuration says so."
        if self._no_fou is None:
            self._no_fou = await self._applier.fou_missing()
        if not self._no_fou:
            return "fou", "The configuration says so." if wanted == "fou" else "This kernel carries IPv6 in UDP itself."
        if wanted == "fou":
            said, self._no_fou = self._no_fou, None
            raise LocalError("no_fou", f"This kernel cannot carry IPv6 in UDP: {said}.",
                             "Load the module fou (modprobe fou), or choose data plane auto or tun.")
        return "tun", f"This kernel does not carry IPv6 in UDP: {self._no_fou}."

    async def _set_up(self, lease: Lease, sock: socket.socket | None, kind: str) -> list[str]:
        if self.lost or self.data_plane not in (None, kind) and "tun" in (self.data_plane, kind):
            await self.down()
        if lease.grant.mode == "v6udpv4" and sock is None:
            raise LocalError("socket_missing", "A v6udpv4 tunnel came without its UDP socket.", "This is a defect of the agent.")
        made = await self._applier.set_up(lease, kind, sock)
        if made.device is not None:
            self._device = TunDevice(made.name, made.device)
        if kind == "tun" and sock is not None and self._device is not None:
            self._attach(self._device, lease, made.numbers, sock)
        elif made.echo is not None:
            self._pinger = self._pinger or _Pinger(self._on_reply, self._on_trouble)
            self._pinger.use(made.echo)
        self.numbers = made.numbers
        self.name = made.name
        return made.done

    def ping(self, sequence: int) -> None:
        """Send a keepalive."""
        if self._plane is not None and self._addresses is not None:
            self._plane.send(icmp6.echo_request(*self._addresses, self._identifier, sequence, b"tunnelbroker.tsp"))
        elif self._pinger is not None:
            self._pinger.ping(sequence)

    def traffic(self) -> tuple[int, int]:
        """Packets out and in since the device exists, keepalives not counted where we can tell."""
        if self._plane is not None:
            return self._plane.counters["packets_out"], self._plane.counters["packets_in"]
        # The kernel counts our pings as well, so its numbers cannot tell user traffic: ping always.
        return 0, 0

    def counters(self) -> dict[str, int]:
        """For the status file."""
        return {} if self._plane is None else dict(sorted(self._plane.counters.items()))

    async def disconnect(self) -> None:
        """Give the UDP port up for a new negotiation, keep the device."""
        if self._plane is not None:
            self._plane.detach()
        if self.data_plane == "fou":
            await self._applier.free_port()

    async def down(self) -> list[str]:
        """Take everything away: link, then device."""
        try:
            done = await self._applier.take_down()
        except LocalError as exc:  # it has ended, and taken everything away by itself
            done = [f"failed: {exc.message}"]
        if self._plane is not None:
            self._plane.close()
            self._plane = None
        if self._pinger is not None:
            self._pinger.close()
            self._pinger = None
        if self._device is not None:
            self._device.close()
            self._device = None
        self.numbers = self.data_plane = None
        self.lost = False
        return done

    def _attach(self, device: TunDevice, lease: Lease, numbers: dict[str, Any], sock: socket.socket) -> None:
        grant = lease.grant
        address, peer, target = (IPv6Address(numbers[key]) for key in ("address", "peer", "probe"))
        prefix = grant.prefix if isinstance(grant.prefix, IPv6Network) else None
        screen = Screen(address, prefix)
        if self._plane is None:
            self._plane = DataPlane(device.fd, screen, numbers["mtu"], peer, self._identifier, self._echo, self._on_trouble,
                                    self._device_lost)
        else:
            self._plane.renew(screen, numbers["mtu"], peer)
        self._addresses = (address, target)
        self._plane.attach(sock)

    def _device_lost(self, exc: OSError) -> None:
        self.lost = True
        self._on_trouble(exc)

    def _echo(self, echo: icmp6.Echo) -> bool:
        if self._addresses is None or (echo.destination, echo.source) != self._addresses:
            return False
        return self._on_reply(echo.sequence)


def stored_socket(config: AgentConfig, lease: Lease) -> socket.socket:
    """The UDP socket that a stored v6udpv4 lease was negotiated over, opened again: same local port, same broker.

    Raises NetworkError `port_lost` when the port is somebody else's by now, or the broker cannot be reached at all.
    """
    grant = lease.grant
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if config.options.source_interface:
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_BINDTODEVICE", 25), config.options.source_interface.encode() + b"\0")
        sock.bind((config.options.source_address or "", grant.client.udp_port or 0))
        sock.connect((str(grant.server.ipv4), grant.server.udp_port or TSP_PORT))
    except OSError as exc:
        sock.close()
        raise NetworkError("port_lost", f"The stored lease's UDP port {grant.client.udp_port} cannot be used again: {exc.strerror}.",
                           "The broker will be asked again.") from None
    return sock


class _Pinger:
    """Echo requests through a tunnel of the kernel's own."""

    def __init__(self, on_reply: Reply, on_trouble: Callable[[OSError], None]) -> None:
        self._on_reply = on_reply
        self._on_trouble = on_trouble
        self._socket: socket.socket | None = None
        self._token = os.urandom(16)
        self._loop = asyncio.get_running_loop()

    def use(self, sock: socket.socket) -> None:
        self.close()
        sock.setblocking(False)
        self._socket = sock
        self._loop.add_reader(sock.fileno(), self._read)

    def ping(self, sequence: int) -> None:
        if self._socket is not None:
            try:
                self._socket.send(echo_request(self._socket, sequence, self._token))
            except OSError as exc:
                if exc.errno not in (errno.ENOBUFS, errno.EAGAIN):  # a queue of ours that is full
                    self._on_trouble(exc)

    def close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            sequence = reply_sequence(self._socket, self._socket.recv(2048), self._token)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._on_trouble(exc)
            return
        if sequence is not None:
            self._on_reply(sequence)
