# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Invariant: no datagram makes reliable UDP raise; a broker gives each new text once, an answer has the header of its request.

from __future__ import annotations

import sys

import _run

RUDP = _run.protocol("rudp")


def fuzz(data: bytes) -> None:
    """Datagrams in pieces, to both sides; the client sends now and then."""
    number, datagrams = _run.pieces(data, 12)
    client, server, now = RUDP.RudpClient(RUDP.RudpConfig(), number), RUDP.RudpServer(), 0.0
    for datagram in datagrams:
        now += number / 64
        if len(datagram) % 3 == 0:
            client.send(datagram, now)
        client.receive(datagram, now)
        client.handle_timer(now)
        timer = client.next_timer()
        assert timer is None or timer <= now + 30
        for sent in client.data_to_send():
            assert sent[0] >> 4 == 0xF and sent[3] >> 4 == 0xF
        text = server.receive(datagram, now, opens=datagram[8:16] == b"VERSION=")
        if text is not None:
            server.answer(text[::-1])
            assert server.data_to_send()[-1] == datagram[:8] + text[::-1]
            assert server.receive(datagram, now, opens=False) is None, "a repetition is no new text"
            assert server.data_to_send() == [datagram[:8] + text[::-1]]


if __name__ == "__main__":
    sys.exit(_run.main(fuzz))
