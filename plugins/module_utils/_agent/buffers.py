# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Large buffers for a tunnel's UDP socket: whoever may gives it more than an ordinary program gets, and nobody takes that away again."""

from __future__ import annotations

import contextlib
import socket
import sys

SIZE = 4 << 20
# SO_SNDBUFFORCE and SO_RCVBUFFORCE of Linux; the same numbers mean something else on other systems.
FORCED = {socket.SO_SNDBUF: 32, socket.SO_RCVBUF: 33}


def enlarge(sock: socket.socket, linux: bool = sys.platform.startswith("linux")) -> None:
    """As far as the system lets us. What is as large already stays: a plain request would make it smaller than a forced one did."""
    for plain, forced in FORCED.items():
        for option in (forced, plain) if linux else (plain,):
            if sock.getsockopt(socket.SOL_SOCKET, plain) < SIZE:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, option, SIZE)
