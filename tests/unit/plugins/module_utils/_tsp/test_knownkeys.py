# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Known keys in the old client's file format, and what is done with unknown and changed ones."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import knownkeys
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.dsakey import fingerprint
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, RemoteError

KEY = b"\0\0\0\7ssh-dss" + bytes(range(250))
OTHER = b"\0\0\0\7ssh-dss" + bytes(250)


def b64(blob):
    return base64.b64encode(blob).decode()


def line(server, blob):
    return f"{server} ssh-dss {b64(blob)}\n"


def test_what_is_added_is_found():
    text = knownkeys.add("", "broker.example", KEY)
    assert text == line("broker.example", KEY)
    assert knownkeys.find(text, "broker.example") == KEY
    assert knownkeys.find(text, "BROKER.example") == KEY
    assert knownkeys.find(text, "broker.example:3653") is None
    assert knownkeys.find("", "broker.example") is None


def test_adding_keeps_what_was_there():
    text = knownkeys.add("# mine\n" + line("a.example", OTHER).rstrip("\n"), "[2001:db8::1]:3653", KEY)
    assert text == "# mine\n" + line("a.example", OTHER) + line("[2001:db8::1]:3653", KEY)
    assert knownkeys.find(text, "a.example") == OTHER


def test_the_last_line_wins():
    assert knownkeys.find(line("b.example", OTHER) + line("b.example", KEY), "b.example") == KEY


@pytest.mark.parametrize("text", ["\r\n# b.example ssh-dss AAAA\n\n", "\0\n", "b.example.org ssh-dss AAAA\n", "lonely\n", "x y z\n"])
def test_other_lines_are_passed_over(text):
    assert knownkeys.find(text, "b.example") is None
    assert knownkeys.find(text + line("b.example", KEY).replace("\n", "\r\n") + text, "b.example") == KEY


@pytest.mark.parametrize("text", ["b.example\n", "b.example ssh-dss\n", "b.example ssh-rsa AAAA\n", "b.example ssh-dss ****\n",
                                  "b.example ssh-dss AAAA\n", "b.example ssh-dss ÄÄÄÄ\n"])
def test_a_broken_line_for_the_server_is_not_taken_for_an_unknown_key(text):
    with pytest.raises(LocalError) as caught:
        knownkeys.find("# first\n" + text, "b.example")
    assert caught.value.code == "known_keys_invalid" and "Line 2" in caught.value.message


@pytest.mark.parametrize("server", ["", "two words", "new\nline", "tab\there", "#comment", "nul\0"])
def test_a_server_that_would_break_the_file_is_refused(server):
    with pytest.raises(LocalError) as caught:
        knownkeys.add("", server, KEY)
    assert caught.value.code == "invalid_request"


# Policies.


def test_a_known_key_passes_silently():
    for policy in knownkeys.POLICIES:
        judge = knownkeys.KeyPolicy("b.example", policy=policy, text=line("b.example", KEY))
        judge(KEY)
        assert judge.accepted is None


def test_an_unknown_key_is_rejected_with_the_line_to_add():
    judge = knownkeys.KeyPolicy("b.example", text=line("a.example", KEY), file_name="/var/lib/tsp/keys")
    with pytest.raises(RemoteError) as caught:
        judge(KEY)
    assert caught.value.code == "server_key_unknown"
    assert fingerprint(KEY) in caught.value.message
    assert line("b.example", KEY).strip() in caught.value.hint and "/var/lib/tsp/keys" in caught.value.hint


def test_an_unknown_key_is_accepted_on_demand_and_reported():
    judge = knownkeys.KeyPolicy("b.example", policy="accept_new")
    judge(KEY)
    assert judge.accepted == KEY


@pytest.mark.parametrize("policy", knownkeys.POLICIES)
def test_a_changed_key_is_refused_whatever_the_policy(policy):
    judge = knownkeys.KeyPolicy("b.example", policy=policy, text=line("b.example", OTHER), file_name="keys.txt")
    with pytest.raises(RemoteError) as caught:
        judge(KEY)
    assert caught.value.code == "server_key_changed" and judge.accepted is None
    assert fingerprint(KEY) in caught.value.message and fingerprint(OTHER) in caught.value.message and "keys.txt" in caught.value.hint


@pytest.mark.parametrize("pinned", [b64(KEY), "ssh-dss " + b64(KEY), "  " + b64(KEY) + "\n"])
def test_a_pinned_key_is_the_only_one(pinned):
    judge = knownkeys.KeyPolicy("b.example", policy="accept_new", text=line("b.example", OTHER), pinned=pinned)
    judge(KEY)
    with pytest.raises(RemoteError) as caught:
        judge(OTHER)
    assert caught.value.code == "server_key_changed" and "server_key" in caught.value.hint and judge.accepted is None


@pytest.mark.parametrize("pinned", ["", "****", "AAAA", "ssh-rsa " + b64(KEY), b64(KEY) + " comment"])
def test_a_pinned_key_must_be_readable(pinned):
    with pytest.raises(LocalError) as caught:
        knownkeys.KeyPolicy("b.example", pinned=pinned)
    assert caught.value.code == "invalid_request" and "server_key" in caught.value.message


def test_a_policy_must_exist():
    with pytest.raises(LocalError) as caught:
        knownkeys.KeyPolicy("b.example", policy="ask")
    assert caught.value.code == "invalid_request"


def test_it_can_be_told_beforehand_whether_any_key_could_pass():
    text = line("b.example", KEY)
    assert knownkeys.KeyPolicy("b.example", text=text).may_accept
    assert knownkeys.KeyPolicy("b.example", policy="accept_new").may_accept
    assert knownkeys.KeyPolicy("b.example", pinned=b64(KEY)).may_accept
    assert not knownkeys.KeyPolicy("b.example").may_accept
    assert not knownkeys.KeyPolicy("c.example", text=text).may_accept
