# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Sockets that leave from where they were told to: source address, interface, UDP port."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Any

from .._tsp.errors import LocalError
from .link import local_end
from .options import PORT, Address, ExchangeOptions


@dataclass(frozen=True)
class Source:
    """Where an exchange leaves from; None everywhere lets the system choose. port applies to UDP only."""

    address: str | None = None
    interface: str | None = None
    port: int | None = None

    @classmethod
    def of(cls, options: ExchangeOptions) -> Source:
        """The source part of the options."""
        return cls(options.source_address, options.source_interface, options.source_port)


def sockaddr(address: Address, port: int) -> tuple[Any, ...]:
    """What socket calls want."""
    return (str(address), port) if address.version == 4 else (str(address), port, 0, 0)


def open_socket(kind: socket.SocketKind, peer: Address, source: Source) -> socket.socket:
    """A non-blocking socket towards `peer`'s family, bound as told, not connected.

    Raises LocalError: `source_address_unusable`, `source_port_in_use`, `source_interface_unknown`, `source_interface_forbidden`,
    `no_socket`.
    """
    family = socket.AF_INET if peer.version == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, kind)
    except OSError as exc:
        raise LocalError("no_socket", f"This machine cannot open an IPv{peer.version} socket: {exc.strerror}.",
                         f"Check that IPv{peer.version} is enabled here and that file descriptors are left.") from None
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            # one round trip a message: Nagle's wait for the peer's delayed acknowledgement would cost 40 ms each time
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source.interface is not None:
            _bind_to_interface(sock, source.interface)
        port = source.port if kind == socket.SOCK_DGRAM else None
        if source.address is not None or port is not None:
            anywhere = "0.0.0.0" if peer.version == 4 else "::"
            _bind(sock, source.address or anywhere, port or 0)
    except BaseException:
        sock.close()
        raise
    return sock


def own_address(peer: Address, source: Source) -> Address | None:
    """The address from which this machine would send to `peer`, as its kernel chooses; None where there is none. Nothing is sent."""
    try:
        with open_socket(socket.SOCK_DGRAM, peer, Source(source.address, source.interface)) as sock:
            sock.connect(sockaddr(peer, PORT))
            return local_end(sock)[0]
    except (OSError, LocalError):
        return None


def is_own(address: Address) -> bool:
    """Whether `address` is one of this machine's."""
    return own_address(address, Source(str(address))) is not None


def _bind(sock: socket.socket, address: str, port: int) -> None:
    try:
        sock.bind((address, port))
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise LocalError("source_port_in_use", f"UDP port {port} of this machine is in use.",
                             "Stop what uses it (an agent that keeps this tunnel?), or leave source_port out.") from None
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise LocalError("source_port_forbidden", f"This user may not bind UDP port {port}.", "Use a port above 1023.") from None
        raise LocalError("source_address_unusable", f"source_address {address} cannot be used: {exc.strerror}.",
                         "It must be an address of this machine, of the family over which the broker is reached.") from None


def _bind_to_interface(sock: socket.socket, interface: str) -> None:
    option = getattr(socket, "SO_BINDTODEVICE", None)
    if option is None:
        raise LocalError("source_interface_unsupported", "This system cannot bind a socket to an interface.",
                         "Set source_address to an address of that interface instead.")
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, interface.encode() + b"\0")
    except PermissionError:
        raise LocalError("source_interface_forbidden", f"This user may not bind a socket to the interface {interface}.",
                         "Run it with become: true, or set source_address to an address of that interface instead.") from None
    except OSError as exc:
        raise LocalError("source_interface_unknown", f"The interface {interface} cannot be used: {exc.strerror}.",
                         "Check its name with `ip link`.") from None
