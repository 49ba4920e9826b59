# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Invariant: whatever a client sends, in whatever state, the broker answers each datagram once, raises nothing, and an idle session ends.

from __future__ import annotations

import sys

import _run

HOSTILE = _run.hostile()


def fuzz(data: bytes) -> None:
    """First octet: transport, mechanism and how far the session has come; the rest: what the client says."""
    number, texts = _run.pieces(data)
    method = HOSTILE.METHODS[number % min(3, len(HOSTILE.METHODS))]
    both = HOSTILE.Both(HOSTILE.TRANSPORTS[number & 1], method).start().deliver(number // 6 % 14)
    HOSTILE.attack_server(both, texts)


if __name__ == "__main__":
    sys.exit(_run.main(fuzz))
