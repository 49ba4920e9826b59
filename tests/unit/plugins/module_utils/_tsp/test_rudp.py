# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reliable UDP: header, numbers, times, duplicates (tsp-protocol.md sections 1.2 to 1.4)."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.rudp import HEADER, RudpClient, RudpConfig, RudpServer


def client(**changes):
    return RudpClient(RudpConfig(**changes))


def reply(datagram, text=b"", timestamp=None):
    sequence, sent = HEADER.unpack_from(datagram)
    return HEADER.pack(sequence, sent if timestamp is None else timestamp) + text


def test_the_header():
    rudp = client()
    rudp.send(b"VERSION=2.0.2\r\n", 50.0)
    assert rudp.data_to_send() == [b"\xf0\x00\x00\xf0\x00\x00\x00\x00VERSION=2.0.2\r\n"]
    assert rudp.data_to_send() == []


def test_sequences_keep_their_mark_at_both_ends():
    rudp = client()
    seen = []
    for number in range(20):
        rudp.send(b"", float(number))
        (datagram,) = rudp.data_to_send()
        seen.append(struct.unpack("!I", datagram[:4])[0])
        assert rudp.receive(reply(datagram, b"x"), float(number)) == b"x"
    assert seen[:3] == [0xF00000F0, 0xF00000F1, 0xF00000F2]
    assert all(sequence >> 28 == 0xF and sequence & 0xF0 == 0xF0 for sequence in seen)


def test_what_is_no_answer_is_ignored():
    rudp = client()
    rudp.send(b"a", 0.0)
    (datagram,) = rudp.data_to_send()
    for other in (b"", b"short", HEADER.pack(0xF00000F8, 0) + b"999 wrong", b"\x60" + bytes(39)):
        assert rudp.receive(other, 0.1) is None
    assert rudp.waiting
    assert rudp.receive(reply(datagram, b"yes"), 0.2) == b"yes"
    assert rudp.receive(reply(datagram, b"yes"), 0.3) is None  # a duplicate
    assert rudp.is_late(datagram)


def test_a_time_stamp_that_is_not_returned():
    rudp = RudpClient(RudpConfig(), timestamp_offset=371)
    rudp.send(b"a", 0.0)
    (datagram,) = rudp.data_to_send()
    assert rudp.receive(reply(datagram, b"yes", timestamp=0), 0.2) == b"yes"
    assert rudp.timestamp_changed


def times_of(rudp, answered):
    if answered:
        rudp.send(b"first", 0.0)
        rudp.receive(reply(rudp.data_to_send()[0]), 0.001)
    rudp.send(b"second", 100.0)
    times = []
    now = 100.0
    while True:
        times += [now - 100.0] * len(rudp.data_to_send())
        if rudp.next_timer() is None:
            return times, now - 100.0
        now = rudp.next_timer()
        rudp.handle_timer(now)


def test_times_before_the_first_answer():
    assert times_of(client(), answered=False) == ([0.0, 2.0, 4.0], 6.0)


def test_times_after_an_answer():
    times, gave_up = times_of(client(), answered=True)
    assert times == [0.0, 2.0, 4.0, 6.0, 8.0, 12.0, 20.0, 36.0]
    assert gave_up == 66.0


def test_tries_can_be_limited_for_one_message():
    rudp = client()
    rudp.send(b"first", 0.0)
    rudp.receive(reply(rudp.data_to_send()[0]), 0.001)
    rudp.send(b"accept", 1.0, tries=2)
    for now in (3.0, 5.0):
        assert not rudp.failed
        rudp.handle_timer(now)
    assert rudp.failed
    assert not rudp.waiting


def test_an_early_timer_does_nothing():
    rudp = client()
    rudp.send(b"a", 0.0)
    rudp.data_to_send()
    rudp.handle_timer(1.9)
    assert rudp.data_to_send() == []
    rudp.handle_timer(2.0)
    assert rudp.data_to_send() == [b"\xf0\x00\x00\xf0" + struct.pack("!I", 2000) + b"a"]


def test_the_estimator_follows_slow_paths_within_its_bounds():
    rudp = client()
    now = 0.0
    for round_trip, wanted in ((0.001, 2.0), (4.0, 4.0), (4.0, 6.0), (60.0, 30.0)):
        rudp.send(b"a", now)
        (datagram,) = rudp.data_to_send()
        rudp.receive(reply(datagram), now + round_trip)
        assert rudp.rto >= wanted or wanted == 30.0 == rudp.rto
        assert 2.0 <= rudp.rto <= 30.0
        now += round_trip


def test_an_answer_to_an_earlier_copy_is_measured_from_that_copy():
    rudp = client()
    rudp.send(b"a", 0.0)
    first = rudp.data_to_send()[0]
    rudp.handle_timer(2.0)
    rudp.receive(reply(first), 3.0)
    slow = rudp.rto
    rudp = client()
    rudp.send(b"a", 0.0)
    rudp.handle_timer(2.0)
    second = rudp.data_to_send()[1]
    rudp.receive(reply(second), 3.0)
    assert slow > rudp.rto


# The server's side.


def ask(server, sequence, timestamp, text, answer, now=0.0, opens=False):
    """What the server says, and whether it took the message for a new one."""
    new = server.receive(HEADER.pack(sequence, timestamp) + text, now, opens=opens)
    if new is not None:
        assert new == text
        server.answer(answer)
    return server.data_to_send(), new is not None


def test_answers_are_repeated_with_the_header_of_the_copy():
    server = RudpServer()
    assert ask(server, 0xF00000F0, 5, b"a", b"A") == ([HEADER.pack(0xF00000F0, 5) + b"A"], True)
    assert ask(server, 0xF00000F1, 6, b"", b"") == ([HEADER.pack(0xF00000F1, 6)], True)
    assert ask(server, 0xF00000F0, 2005, b"a", b"never") == ([HEADER.pack(0xF00000F0, 2005) + b"A"], False)
    assert ask(server, 0xF00000F1, 2006, b"", b"never") == ([HEADER.pack(0xF00000F1, 2006)], False)


def test_the_same_number_with_another_text_is_new():
    server = RudpServer()
    ask(server, 1, 5, b"a", b"A")
    assert ask(server, 1, 6, b"b", b"B") == ([HEADER.pack(1, 6) + b"B"], True)


def test_short_datagrams_are_nothing():
    server = RudpServer()
    assert server.receive(b"\xf0\x00\x00", 0.0, opens=False) is None
    assert server.data_to_send() == []


@pytest.mark.parametrize("timestamp, now, new", [
    (5, 0.5, False),      # the very copy again
    (2005, 0.5, False),   # a retransmission that was late
    (2007, 0.5, True),    # later than all that came since: a client that begins again
    (3, 1.0, True),       # 2 ms before the first: nobody repeats a message so soon, so this is another client
    (900, 0.2, True),     # the same
    (1505, 0.2, False),   # a retransmission that was late and never seen
    (3, 3.0, True),       # after a silence all the more
    (5, 3.0, False),      # the very copy, delayed
    (3, 20.0, True),      # nothing holds a copy for so long
])
def test_a_message_that_opens_a_session_again(timestamp, now, new):
    server = RudpServer()
    ask(server, 0xF00000F0, 5, b"VERSION", b"A", 0.0, opens=True)
    ask(server, 0xF00000F1, 2006, b"b", b"B", 0.1)
    assert ask(server, 0xF00000F0, timestamp, b"VERSION", b"C", now, opens=True)[1] is new
    # After a new beginning the old answers are gone.
    assert ask(server, 0xF00000F1, 2006, b"b", b"D", now)[1] is new


def test_the_first_message_repeated_alone_is_a_retransmission():
    server = RudpServer()
    ask(server, 0xF00000F0, 5, b"VERSION", b"A", 0.0, opens=True)
    assert ask(server, 0xF00000F0, 4005, b"VERSION", b"C", 4.0, opens=True)[1] is False


@pytest.mark.parametrize("timestamp, now, new", [
    (90_000, 1.0, False),   # cannot be told from a copy that was sent before the first that came
    (90_000, 3.0, True),    # after a silence it can
    (94_000, 3.0, False),   # the last copy of the session before, delayed
    (94_300, 0.2, True),    # close to a copy that was seen: another client
])
def test_a_session_that_came_late_begins_again(timestamp, now, new):
    """Its first copies were lost; the one that came is 94 s old by the client's clock, and one more came after it."""
    server = RudpServer()
    ask(server, 0xF00000F0, 92_000, b"VERSION", b"A", 0.0, opens=True)
    ask(server, 0xF00000F0, 94_000, b"VERSION", b"A", 0.0, opens=True)
    ask(server, 0xF00000F1, 95_500, b"b", b"B", 0.1)
    assert ask(server, 0xF00000F0, timestamp, b"VERSION", b"C", now, opens=True)[1] is new


def test_what_is_remembered_is_bounded():
    """One client, any number of messages, each as long as it can be."""
    server = RudpServer()
    ask(server, 0, 0, b"VERSION", b"A", opens=True)
    for number in range(1, 1000):
        assert ask(server, number, number, bytes(9000), b"x" * 100) == ([HEADER.pack(number, number) + b"x" * 100], True)
        assert ask(server, number, number + 5, bytes(9000), b"never") == ([HEADER.pack(number, number + 5) + b"x" * 100], False)
    for stamp in range(3000, 9000):
        server.receive(HEADER.pack(0, stamp) + b"VERSION", 0.0, opens=True)
        server.data_to_send()
    kept = [mark for mark, _answer in server._answers.values()]
    assert len(kept) <= 32 and sum(map(len, kept)) < 32 * 512 and len(server._stamps) <= 32
