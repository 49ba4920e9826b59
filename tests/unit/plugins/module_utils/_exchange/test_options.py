# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a broker is named, and which options contradict themselves."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions, from_redirect, parse_broker
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import BrokerAddress


@pytest.mark.parametrize(("text", "host", "port", "shown"), [
    ("broker.example", "broker.example", 3653, "broker.example"),
    (" Broker.Example:99 ", "broker.example", 99, "broker.example:99"),
    ("192.0.2.1", "192.0.2.1", 3653, "192.0.2.1"),
    ("192.0.2.1:3653", "192.0.2.1", 3653, "192.0.2.1"),
    ("[2001:DB8::1]:5000", "2001:db8::1", 5000, "[2001:db8::1]:5000"),
    ("[2001:db8:0::1]", "2001:db8::1", 3653, "[2001:db8::1]"),
    ("2001:db8::1", "2001:db8::1", 3653, "[2001:db8::1]"),
])
def test_a_broker_may_be_named_in_these_ways(text, host, port, shown):
    broker = parse_broker(text)
    assert (broker.host, broker.port, str(broker)) == (host, port, shown)
    assert broker.server == text.strip(), "what was configured goes into digest-uri, key file and lease unchanged"


@pytest.mark.parametrize("text", [
    "", "   ", "a:b:c", "[2001:db8::1", "[broker.example]:1", "192.0.2", "192.0.2.300", "broker.example:0", "broker.example:65536",
    "two words", "-x.example", "[2001:db8::1]x", "broker.example:", "192.0.2.1:1:2", "a;b", "a\nb", "$(id)", "x" * 300, "h:+5", None, 7,
    "[2001:db8::1%a\nb]", "[2001:db8::1%$(id)]:3653", "2001:db8::1%a b", "[fe80::1%" + "x" * 16 + "]",
])
def test_anything_else_is_refused_with_the_forms_that_work(text):
    with pytest.raises(LocalError) as caught:
        parse_broker(text)
    assert caught.value.code == "invalid_option"
    assert "[2001:db8::1]:3653" in caught.value.hint


def test_two_spellings_of_a_broker_are_one():
    assert ExchangeOptions(brokers=("Broker.example", "broker.example:3653")).broker_list == (parse_broker("broker.example"),)


def test_redirect_entries_become_brokers():
    assert str(from_redirect(BrokerAddress("ipv6", "2001:db8::5", 77))) == "[2001:db8::5]:77"
    assert str(from_redirect(BrokerAddress("dn", "b.example"))) == "b.example"


@pytest.mark.parametrize(("name", "value"), [
    ("brokers", "broker.example"), ("brokers", ("bad host",)), ("auth_method", "kerberos"), ("transports", "sctp"), ("choose", "cheapest"),
    ("server_key_policy", "trust"), ("deadline", 0), ("deadline", -1), ("deadline", float("nan")), ("deadline", float("inf")),
    ("min_interval", -1), ("min_interval", float("nan")), ("source_port", 0), ("source_port", 70000), ("source_address", "localhost"),
    ("source_interface", "a/b"), ("source_interface", "x" * 16), ("source_interface", ""), ("server_key", "%%"), ("server_key", "AAAA"),
    ("state_dir", ""), ("known_keys_file", "a\0b"),
])
def test_an_option_that_cannot_be_meant_is_refused_by_name(name, value):
    with pytest.raises(LocalError) as caught:
        ExchangeOptions(**{"brokers": ("broker.example",), name: value})
    assert caught.value.code == "invalid_option"
    assert caught.value.message.startswith(("broker:", f"{name}:"))


@pytest.mark.parametrize("credentials", [None, Credentials(), Credentials("alice"), Credentials("", "x"), Credentials(None, "x"),
                                         Credentials("alice", "")])
def test_a_method_that_needs_a_name_and_a_password_says_so(credentials):
    with pytest.raises(LocalError) as caught:
        ExchangeOptions(auth_method="digest-md5", credentials=credentials).check_credentials()
    assert caught.value.code == "credentials_missing"
    assert "anonymous" in caught.value.hint


def test_the_password_does_not_show():
    assert "hunter22" not in repr(ExchangeOptions(credentials=Credentials("alice", "hunter22")))
