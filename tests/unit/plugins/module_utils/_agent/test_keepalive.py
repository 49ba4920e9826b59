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
    return Keepalive(interval, 100.0, lambda: jitter)


def drive(keepalive: Keepalive, until: float) -> list[tuple[float, object]]:
    """Handle every timer up to `until`."""
    seen = []
    while (due := keepalive.next_timer()) is not None and due <= until:
        action = keepalive.handle_timer(due)
        if action is not None:
            seen.append((due, action))
    return seen


def test_silence_three_times_is_loss() -> None:
    keepalive = make()
    assert drive(keepalive, 1000) == [(130, Ping(1)), (135, Ping(2)), (140, Ping(3)), (145, Lost())]
    assert keepalive.lost and keepalive.next_timer() is None
    assert keepalive.handle_timer(2000) is None


def test_an_answer_starts_anew() -> None:
    keepalive = make()
    assert drive(keepalive, 136) == [(130, Ping(1)), (135, Ping(2))]
    assert keepalive.reply(2, 136.5) == 1.5
    assert (keepalive.missed, keepalive.last_rtt, keepalive.next_timer()) == (0, 1.5, 166.5)


def test_a_late_answer_counts_and_a_repeated_one_does_not() -> None:
    keepalive = make()
    drive(keepalive, 141)
    assert keepalive.reply(1, 141) == 11
    assert keepalive.reply(1, 142) is None and keepalive.reply(99, 142) is None
    assert keepalive.next_timer() == 171


def test_traffic_both_ways_spares_the_ping() -> None:
    keepalive = make()
    keepalive.sent()
    keepalive.received()
    assert keepalive.handle_timer(130) is None and keepalive.next_timer() == 160
    assert keepalive.handle_timer(160) == Ping(1), "traffic counts once"


@pytest.mark.parametrize("way", ["sent", "received"])
def test_traffic_one_way_is_not_life(way: str) -> None:
    keepalive = make()
    getattr(keepalive, way)()
    assert keepalive.handle_timer(130) == Ping(1)


def test_traffic_does_not_answer_a_ping() -> None:
    """Alive means that replies came: once a look is under way, only a reply ends it."""
    keepalive = make()
    keepalive.handle_timer(130)
    keepalive.sent()
    keepalive.received()
    assert drive(keepalive, 1000)[-1] == (145, Lost())


def test_jitter_shortens_and_never_lengthens() -> None:
    assert make(30, 0.999999).next_timer() == pytest.approx(127, abs=0.01)
    assert make(30, 0.0).next_timer() == 130


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


def test_sequences_wrap() -> None:
    keepalive = make()
    keepalive._sequence = 0xFFFF
    assert keepalive.handle_timer(130) == Ping(0)


GRANT = Grant("v6udpv4", Endpoint(IPv4Address("192.0.2.2"), IPv6Address("2001:db8::2")),
              Endpoint(IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")), keepalive=Wish(120, IPv6Address("2001:db8::1")))


def test_the_interval() -> None:
    assert interval_for(GRANT) == 25, "many NATs forget after 30 s"
    assert interval_for(replace(GRANT, keepalive=Wish(10))) == 10
    assert interval_for(replace(GRANT, mode="v6v4")) == 120
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
