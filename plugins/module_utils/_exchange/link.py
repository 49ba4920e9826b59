# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a session needs of a transport, and what transports say when the network fails."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address
from typing import Protocol

from .._tsp.errors import NetworkError, TspError
from .options import Address


class Receiver(Protocol):
    """Whoever sits on top of a link (a Session)."""

    def data_received(self, data: bytes) -> None:
        """A datagram, or the next bytes of a stream."""

    def eof_received(self) -> None:
        """The broker closed its side of a stream."""

    def link_lost(self, error: TspError) -> None:
        """Nothing more will come."""


class Link(Protocol):
    """One open transport towards a broker."""

    local_address: Address
    local_port: int

    def send(self, data: bytes) -> None:
        """One datagram or one write. Raises NetworkError."""

    def pause(self) -> None:
        """Deliver nothing more."""

    def detach(self) -> socket.socket | None:
        """Give the socket away instead of closing it; None where that cannot be."""

    async def close(self) -> None:
        """Close in good order, what was sent still goes out. Short, and never raises."""

    def abort(self) -> None:
        """Close at once."""


def local_end(sock: socket.socket) -> tuple[Address, int]:
    """Local address and port of a connected socket. Raises OSError."""
    name = sock.getsockname()
    return ip_address(str(name[0]).partition("%")[0]), int(name[1])


def network_error(exc: OSError) -> NetworkError:
    """An operating system's error as one of ours: `refused`, `unreachable`, `forbidden`, `connection_lost`. Who it was says the attempt."""
    if isinstance(exc, ConnectionRefusedError):
        return NetworkError("refused", "The connection was refused: nothing listens there.",
                            "Check the broker's address and port, and that it runs.")
    if exc.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EHOSTDOWN):
        return NetworkError("unreachable", f"There is no way there from this machine: {exc.strerror}.",
                            "Check this machine's routes and addresses.")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return NetworkError("forbidden", f"This machine does not let the packets out: {exc.strerror}.",
                            "Check the local packet filter.")
    return NetworkError("connection_lost", f"The connection broke: {exc.strerror or exc}.",
                        "Try again; if it persists, the broker's logs will tell.")
