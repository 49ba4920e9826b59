# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bad brokers as the task sees them: one clear failed result, the old lease whole, and no secret anywhere."""

from __future__ import annotations

import asyncio

import pytest
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import (
    CAPABILITY,
    FakeBroker,
    framed,
    info,
    redirect,
)
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._judge import CANARY, Judge, in_thread, talking


@pytest.fixture
def ask(tmp_path):
    """ask(broker, **options): the task, renewing a stored lease; checks what every failure must have."""
    return Judge(tmp_path)


@pytest.mark.parametrize("auth_method", ["digest-md5", "plain"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_wrong_password_and_unknown_user(ask, auth_method, transport):
    with in_thread(talking()) as broker:
        for options in ({"password": "no-" + CANARY[::-1]}, {"username": "mallory"}):
            error = ask(broker, auth_method=auth_method, transport=transport, **options)
            assert (error["code"], error["status"], error["kind"]) == ("auth_failed", 300, "remote")


def test_nobody_listens(ask):
    with in_thread(lambda: FakeBroker(udp="refuse", tcp="refuse")) as broker:
        error = ask(broker)
    assert (error["kind"], error["code"], error["status"]) == ("network", "refused", None)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_silent_and_half_open(ask, transport):
    with in_thread(lambda: FakeBroker(udp="silent", tcp="silent")) as broker:
        error = ask(broker, deadline=0.5, transport=transport)
    assert error["kind"] == "network" and error["code"] == "deadline"


def test_slow_dripping(ask):
    async def drip(reader, writer):
        await reader.read(100)
        while True:
            writer.write(b"C")
            await writer.drain()
            await asyncio.sleep(0.01)

    with in_thread(lambda: FakeBroker(udp="refuse", on_tcp=drip)) as broker:
        assert ask(broker, deadline=0.5)["kind"] == "network"


@pytest.mark.parametrize("nonsense", [b"\0" * 5000, b"A" * 200000, b"HTTP/1.1 400 Bad Request\r\n\r\n<html>", b"\xff\xfe;$(id)\n"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("step", ["version", "auth", "create"])
def test_garbage_and_too_much_of_it(ask, nonsense, transport, step):
    nonsense = nonsense[:60000] if transport == "udp" else nonsense
    with in_thread(talking(**{step: nonsense})) as broker:
        error = ask(broker, transport=transport, deadline=8.0)
    assert error["kind"] in ("remote", "network")


@pytest.mark.parametrize("answer", [
    info("v6v4")[:200], framed("200 Success\r\n<tunnel"), framed("200 Success\r\n"),
    framed("200 Success\r\n<!DOCTYPE x [<!ENTITY a 'b'>]><tunnel/>\r\n"),
    info("v4v6"), info("v6v4", server4="224.0.0.1"), info("v6v4", client4="0.0.0.0"),
    info("v6v4", prefix="10.0.0.0/8"), info("v6v4", prefix="fe80::/64"),
    info("v6v4", extra='  <address type="dn">x;reboot</address>\r\n'), info("v6v4", extra='  <address type="dn">a\nreboot</address>\r\n'),
    info("v6v4", extra='  <address type="dn">$(reboot)</address>\r\n'), info("v6v4", extra='  <address type="dn">a\0reboot</address>\r\n'),
], ids=["cut", "torn", "empty", "entity", "family", "multicast", "unspecified", "prefix family", "prefix of a link", "semicolon",
        "newline", "substitution", "nul"])
def test_grants_that_cannot_be_used(ask, answer):
    with in_thread(talking(create=answer)) as broker:
        error = ask(broker, transport="udp", deadline=8.0)
        assert not any(b'action="accept"' in message for _transport, message in broker.log)
    assert error["kind"] in ("remote", "network")
    assert error["code"] in ("bad_grant", "protocol_error", "deadline", "no_answer", "went_silent")
    assert "reboot" not in error["message"]


def test_another_prefix_than_asked_with_strict(ask):
    with in_thread(talking(create=info("v6v4", prefix="2001:db8:77::/64"))) as broker:
        error = ask(broker, strict=True, host_type="router", prefix_length=48)
    assert error["kind"] == "remote" and "64" in error["message"]


def test_a_redirect_to_itself(ask):
    with in_thread(FakeBroker) as broker:
        broker.script = lambda message, _peer, _transport: redirect(broker.name) if message.startswith(b"VERSION") else b"200 Success\r\n"
        error = ask(broker)
    assert error["kind"] == "remote" and error["code"] in ("redirect_loop", "bad_redirect") and error["hint"]


@pytest.mark.parametrize("status, code", [(301, "no_more_tunnels"), (303, "mode_refused"), (310, "server_error"), (500, "request_rejected"),
                                          (506, "ipv4_in_use"), (521, "request_in_progress"), (530, "busy"), (777, "refused")])
def test_refusals_carry_the_brokers_status(ask, status, code):
    with in_thread(talking(create=framed(f"{status} For a reason\r\n"))) as broker:
        error = ask(broker)
    assert (error["status"], error["code"]) == (status, code)


def test_a_mode_that_is_not_offered(ask):
    with in_thread(talking(version=CAPABILITY.replace(b"TUNNEL=V6V4 ", b""))) as broker:
        assert ask(broker)["kind"] == "remote"


def test_any_never_falls_to_plain_on_its_own(ask):
    with in_thread(talking(version=b"CAPABILITY TUNNEL=V6V4 AUTH=ANONYMOUS AUTH=PLAIN\r\n")) as broker:
        error = ask(broker)
        assert not any(CANARY.encode() in message for _transport, message in broker.log)
    assert error["code"] == "no_common_mechanism"
