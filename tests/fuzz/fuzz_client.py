# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Invariant: whatever a broker sends, in whatever state, the client reports events and one last word, raises nothing, and ends.

from __future__ import annotations

import sys

import _run

HOSTILE = _run.hostile()


def fuzz(data: bytes) -> None:
    """First octet: transport, mechanism, action and how far the session has come; the rest: what the broker says."""
    number, texts = _run.pieces(data)
    method = HOSTILE.METHODS[number % min(3, len(HOSTILE.METHODS))]
    action = ("create", "info", "delete", "capabilities")[number // 3 % 4]
    both = HOSTILE.Both(HOSTILE.TRANSPORTS[number & 1], method, action).start().deliver(number // 12 % 14)
    HOSTILE.attack_client(both, texts)


if __name__ == "__main__":
    sys.exit(_run.main(fuzz))
