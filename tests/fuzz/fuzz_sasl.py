# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Invariant: any octets make a mechanism answer, refuse with a RemoteError (client) or with a verdict (broker), and never accept.

from __future__ import annotations

import sys

import _run

HOSTILE = _run.hostile()
SASL = _run.protocol("sasl")
ERRORS = _run.protocol("errors")


def fuzz(data: bytes) -> None:
    """First octet: mechanism and how far it has come; the rest: one message."""
    number, message = (data[0] if data else 0), data[1:]
    name = HOSTILE.METHODS[number % len(HOSTILE.METHODS)].upper()
    client, server = HOSTILE.halves(name, number // 4 % 4)
    for half in (client, server):
        size = half.split(message)
        assert size is None or 0 < size <= len(message)
    try:
        client.step(message)
    except ERRORS.RemoteError:
        pass
    step = server.step(message)
    if name != SASL.ANONYMOUS and b"secret1" not in message:
        assert step.verdict is not True


if __name__ == "__main__":
    sys.exit(_run.main(fuzz))
