# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Invariant: a stream gives the same messages, or the same refusal, whole and octet by octet.

from __future__ import annotations

import sys

import _run

FRAMING = _run.protocol("framing")


def read(data: bytes, piece: int, statuses: bool, wants_xml: bool) -> list[object]:
    """All messages in `data`, delivered `piece` octets at a time, the end of the stream included."""
    quirks: list[str] = []
    reader = FRAMING.Reader(quirks.append, statuses=statuses)
    found: list[object] = []
    try:
        for at in range(0, len(data), piece):
            reader.feed(data[at:at + piece])
            while (frame := reader.next(wants_xml=wants_xml)) is not None:
                found.append(frame)
        while (frame := reader.next(wants_xml=wants_xml, final=True)) is not None:
            found.append(frame)
    except FRAMING.FramingError as error:
        found.append(str(error))
    return [*found, sorted(set(quirks))]


def fuzz(data: bytes) -> None:
    """First octet: who reads, and whether XML is due; the rest: the stream."""
    number, stream = (data[0] if data else 0), data[1:6000]
    statuses, wants_xml = bool(number & 1), bool(number & 2)
    whole = read(stream, len(stream) or 1, statuses, wants_xml)
    assert read(stream, 1, statuses, wants_xml) == whole


if __name__ == "__main__":
    sys.exit(_run.main(fuzz))
