# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rule of the keepalive, with the clock in the test's hand."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.keepalive import Keepalive, Lost, Ping, interval_for
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Endpoint, Grant
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Keepalive as Wish
from hypothesis import given
from hypothesis import strategies as st


def make(interval: float = 30.0, jitter: float = 0.0) -> Keepalive:
    """First ping at 105."""
    return Keepalive(interval, 100.0, lambda: jitter)


def answered(keepalive: Keepalive, pings: int) -> list[float]:
    """The pauses between so many pings, each answered at once; the first is from the start."""
    pauses, last = [], 100.0
    for _turn in range(pings):
        due = keepalive.next_timer()
        assert due is not None
        ping = keepalive.handle_timer(due)
        assert isinstance(ping, Ping)
        keepalive.reply(ping.sequence, due)
        pauses.append(due - last)
        last = due
    return pauses


def drive(keepalive: Keepalive, until: float) -> list[tuple[float, object]]:
    """Handle every timer up to `until`."""
    seen = []
    while (due := keepalive.next_timer()) is not None and due <= until:
        action = keepalive.handle_timer(due)
        if action is not None:
            seen.append((due, action))
    return seen


def test_the_pause_grows_as_the_old_clients_until_it_is_nearly_the_interval() -> None:
    """tsp-protocol.md section 7: 5 s, then 1.6 times, then 1.40 to 1.79 times, until at least three quarters of the interval."""
    assert answered(make(), 5) == pytest.approx([5, 8, 11.2, 15.68, 21.952])
    assert answered(make(30, 0.999), 4)[:3] == pytest.approx([5, 8, 14.32], abs=0.02)
    assert all(22.5 <= pause <= 30 for jitter in (0.0, 0.3, 0.99) for pause in answered(make(30, jitter), 12)[6:])


def test_never_longer_than_the_interval_however_short() -> None:
    assert all(pause <= 3 for pause in answered(make(3, 0.999), 9))


def test_where_nothing_follows_from_silence_it_costs_little() -> None:
    """The broker wants no keepalive, and its end answers none: an idle host is not to be woken all the time, nor to remember every ping."""
    keepalive = Keepalive(60, 100.0, lambda: 0.0, misses=None)
    pings = drive(keepalive, 100.0 + 86400)
    assert 1430 <= len(pings) <= 1450 and not keepalive.lost
    assert keepalive.reply(1, 86500.0) is None, "of a day ago"
    assert keepalive.reply(pings[-1][1].sequence, 86500.5) is not None  # type: ignore[attr-defined]
    assert keepalive.missed == 0


def test_a_fleet_does_not_ping_in_step() -> None:
    assert len({round(answered(make(30, jitter / 10), 9)[-1], 3) for jitter in range(10)}) == 10


def test_after_two_misses_the_pause_does_not_grow() -> None:
    keepalive = make()
    assert answered(keepalive, 2) == [5, 8]
    assert drive(keepalive, 135)[:3] == [(pytest.approx(124.2), Ping(3)), (pytest.approx(129.2), Ping(4)), (pytest.approx(134.2), Ping(5))]
    keepalive.reply(5, 134.2)
    assert keepalive.next_timer() == pytest.approx(134.2 + 11.2)


def test_silence_three_times_is_loss() -> None:
    keepalive = make()
    assert drive(keepalive, 1000) == [(105, Ping(1)), (110, Ping(2)), (115, Ping(3)), (120, Lost())]
    assert keepalive.lost and keepalive.next_timer() is None
    assert keepalive.handle_timer(2000) is None


def test_an_interval_of_a_second_is_not_waited_for_five() -> None:
    assert [at for at, _what in drive(make(2), 1000)] == pytest.approx([101.5, 103.5, 105.5, 107.5])


def test_an_answer_starts_anew() -> None:
    keepalive = make()
    assert drive(keepalive, 111) == [(105, Ping(1)), (110, Ping(2))]
    assert keepalive.reply(2, 111.5) == 1.5
    assert (keepalive.missed, keepalive.last_rtt, keepalive.next_timer()) == (0, 1.5, 119.5)


def test_a_late_answer_counts_and_a_repeated_one_does_not() -> None:
    keepalive = make()
    drive(keepalive, 116)
    assert keepalive.reply(1, 116) == 11
    assert keepalive.reply(1, 117) is None and keepalive.reply(99, 117) is None
    assert keepalive.next_timer() == 121, "two were missed, so it is not longer than the last"


def test_traffic_both_ways_spares_the_ping() -> None:
    keepalive = make()
    keepalive.sent()
    keepalive.received()
    assert keepalive.handle_timer(105) is None and keepalive.next_timer() == 113
    assert keepalive.handle_timer(113) == Ping(1), "traffic counts once"


@pytest.mark.parametrize("way", ["sent", "received"])
def test_traffic_one_way_is_not_life(way: str) -> None:
    keepalive = make()
    getattr(keepalive, way)()
    assert keepalive.handle_timer(105) == Ping(1)


def test_what_comes_in_while_an_answer_is_waited_for_is_as_good_as_one() -> None:
    keepalive = make()
    keepalive.handle_timer(105)
    keepalive.received()
    assert keepalive.handle_timer(110) is None
    assert (keepalive.missed, keepalive.last_reply, keepalive.next_timer()) == (0, None, 118)


def test_what_goes_out_meanwhile_is_not() -> None:
    keepalive = make()
    keepalive.handle_timer(105)
    keepalive.sent()
    assert drive(keepalive, 1000)[-1] == (120, Lost())


def test_trouble_is_looked_at_at_once_and_not_waited_for_long() -> None:
    keepalive = make()
    keepalive.sent()
    keepalive.received()
    keepalive.trouble(101)
    assert keepalive.handle_timer(101) == Ping(1)
    keepalive.trouble(101.5)
    assert keepalive.next_timer() == 102.5
    keepalive.trouble(102.4)
    assert keepalive.next_timer() == 102.5, "more of it does not put the end off"


def test_in_a_hurry_a_dead_tunnel_is_known_in_three_seconds_and_a_living_one_stays() -> None:
    keepalive = make()
    keepalive.hurry(101)
    assert [at for at, _what in drive(keepalive, 1000)] == [101, 102, 103, 104]
    keepalive = make()
    keepalive.hurry(101)
    assert keepalive.handle_timer(101) == Ping(1)
    keepalive.reply(1, 101.1)
    assert [at for at, _what in drive(keepalive, 1000)] == pytest.approx([106.1, 111.1, 116.1, 121.1]), "then it is patient again"


def test_sequences_wrap() -> None:
    keepalive = make()
    keepalive._sequence = 0xFFFF
    assert keepalive.handle_timer(105) == Ping(0)


GRANT = Grant("v6udpv4", Endpoint(IPv4Address("192.0.2.2"), IPv6Address("2001:db8::2")),
              Endpoint(IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")), keepalive=Wish(120, IPv6Address("2001:db8::1")))


def test_the_interval() -> None:
    assert interval_for(GRANT) == 25, "many NATs forget after 30 s"
    assert interval_for(replace(GRANT, keepalive=Wish(10))) == 10
    assert interval_for(replace(GRANT, mode="v6v4")) == 120
    assert interval_for(replace(GRANT, mode="v6v4"), nat=True) == 25
    assert interval_for(replace(GRANT, mode="v6v4"), 60) == 60
    assert interval_for(GRANT, 5) == 5
    assert interval_for(replace(GRANT, keepalive=None)) is None


@given(st.lists(st.tuples(st.sampled_from(["timer", "reply", "sent", "received", "trouble", "probe"]), st.floats(0, 40)), max_size=60))
def test_whatever_happens_there_is_a_next_time_or_it_is_lost(events: list[tuple[str, float]]) -> None:
    keepalive, now, last = make(), 100.0, 0
    for what, passed in events:
        now += passed
        if what == "timer":
            action = keepalive.handle_timer(now)
            last = action.sequence if isinstance(action, Ping) else last
        elif what == "reply":
            keepalive.reply(last, now)
        elif what in ("sent", "received"):
            getattr(keepalive, what)()
        else:
            getattr(keepalive, what)(now)
        assert (keepalive.next_timer() is None) == keepalive.lost
        assert keepalive.missed <= 3
        assert keepalive.lost or keepalive.next_timer() <= now + 30
