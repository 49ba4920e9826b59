# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names to addresses: right family, right errors, never longer than allowed."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from ipaddress import ip_address

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import parse_broker
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.resolve import check_source, family_of, resolve
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, NetworkError


def look_up(text, family, lookup, timeout=5.0):
    return run_sync(lambda: resolve(parse_broker(text), family, timeout, lookup))


def never(*_args):
    raise AssertionError("an address needs no lookup")


@pytest.mark.parametrize(("mode", "family"), [
    ("v6anyv4", socket.AF_INET), ("v6v4", socket.AF_INET), ("v6udpv4", socket.AF_INET), ("v4v6", socket.AF_INET6),
    (None, socket.AF_UNSPEC)])
def test_the_mode_decides_the_family(mode, family):
    assert family_of(mode) == family


def test_an_address_is_taken_as_it_is():
    assert look_up("192.0.2.1", socket.AF_INET, never) == [ip_address("192.0.2.1")]


def test_an_address_of_the_wrong_family_is_refused():
    with pytest.raises(NetworkError) as caught:
        look_up("192.0.2.1", socket.AF_INET6, never)
    assert caught.value.code == "wrong_family" and "IPv6" in caught.value.message


def test_answers_of_the_wrong_family_and_scoped_ones_are_passed_over():
    found = look_up("b.example", socket.AF_INET6, lambda *_a: ["192.0.2.1", "fe80::1%eth0", "2001:db8::1"])
    assert found == [ip_address("2001:db8::1")]


def test_only_a_few_addresses_of_a_name_are_tried():
    assert len(look_up("b.example", socket.AF_INET, lambda *_a: [f"192.0.2.{n}" for n in range(1, 60)])) == 4


def test_a_name_without_an_address_of_the_family():
    with pytest.raises(NetworkError) as caught:
        look_up("b.example", socket.AF_INET, lambda *_a: ["2001:db8::1"])
    assert caught.value.code == "no_address_of_family"


def test_a_name_that_does_not_exist():
    def lookup(*_args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(NetworkError) as caught:
        look_up("nobody.example", socket.AF_INET, lookup)
    assert caught.value.code == "name_not_resolved"
    assert "nobody.example" in caught.value.message and "Name or service not known" in caught.value.message


def test_a_hanging_resolver_is_left_behind():
    release = threading.Event()
    began = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        look_up("b.example", socket.AF_INET, lambda *_a: release.wait(30) and [], timeout=0.05)
    assert caught.value.code == "name_lookup_timeout"
    assert time.monotonic() - began < 15, "neither the answer nor the end of the loop waits for the resolver"
    release.set()


def test_the_caller_may_go_away_before_the_answer():
    release = threading.Event()

    async def cancelled():
        task = asyncio.ensure_future(resolve(parse_broker("b.example"), socket.AF_INET, 30, lambda *_a: release.wait(30) and []))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_sync(cancelled)
    release.set()


def test_a_source_address_of_the_wrong_family_is_refused_before_anything_is_sent():
    with pytest.raises(LocalError) as caught:
        check_source("2001:db8::1", socket.AF_INET)
    assert caught.value.code == "source_wrong_family"
    check_source("192.0.2.1", socket.AF_INET)
    check_source(None, socket.AF_INET6)
