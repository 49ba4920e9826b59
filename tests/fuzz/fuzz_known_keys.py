# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Invariant: any file of known keys gives a key, none, or a LocalError; it never gives the key of another server.

from __future__ import annotations

import sys

import _run

KNOWNKEYS = _run.protocol("knownkeys")
ERRORS = _run.protocol("errors")


def fuzz(data: bytes) -> None:
    """The text of the file behind the first octet."""
    text = data[1:].decode("latin-1")
    for server in ("b.example", "[2001:db8::1]:3653"):
        for shown in (text, f"{server} {text}", f"{server} ssh-dss {text}"):
            try:
                found = KNOWNKEYS.find(shown, server)
            except ERRORS.LocalError as error:
                assert error.code == "known_keys_invalid"
                continue
            assert found is None or server in shown.lower()


if __name__ == "__main__":
    sys.exit(_run.main(fuzz))
