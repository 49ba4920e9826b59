# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Invariant: any octets are a checked grant, broker list or request, or a RemoteError or Refusal that quotes nothing unprintable.

from __future__ import annotations

import sys

import _run

MESSAGES = _run.protocol("messages")
ERRORS = _run.protocol("errors")
REQUEST = _run.protocol("request").TunnelRequest()


def ignore(_quirk: str) -> None:
    """Tolerances are not at issue here."""


def fuzz(data: bytes) -> None:
    """The text behind the first octet, from its first `<` on."""
    body = data[1:]
    body = body[max(body.find(b"<"), 0):]
    for read in (lambda: MESSAGES.read_grant(body, ignore, REQUEST), lambda: MESSAGES.read_brokers(body, ignore)):
        try:
            read()
        except ERRORS.RemoteError as error:
            assert error.message.isprintable()
    try:
        MESSAGES.read_client(body)
    except MESSAGES.Refusal as no:
        assert 300 <= no.status < 600 and no.text.isprintable()


if __name__ == "__main__":
    sys.exit(_run.main(fuzz))
