# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Invariant: any line is a set of upper-case words or no capability line.

from __future__ import annotations

import sys

import _run

CAPABILITY = _run.protocol("capability")
QUIRKS = _run.protocol("quirks").QUIRKS


def fuzz(data: bytes) -> None:
    """The line behind the first octet."""
    counted: list[str] = []
    offer = CAPABILITY.parse(data[1:].decode("utf-8", "replace"), counted.append)
    assert set(counted) <= set(QUIRKS)
    if offer is not None:
        for words in offer:
            assert all(word == word.upper() and word.isprintable() for word in words)


if __name__ == "__main__":
    sys.exit(_run.main(fuzz))
