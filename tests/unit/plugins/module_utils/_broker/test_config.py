# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The configuration: what holds, and that everything wrong is named with its path and what would be right."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import accounts, config, schema
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError

LEAST = {"name": "broker.example", "pools": {"ipv6": "2001:db8:f::/64"}}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(LEAST), **changes}


def problems(data: Any) -> str:
    with pytest.raises(LocalError) as caught:
        config.from_data(data)
    assert caught.value.code == "config_invalid"
    return caught.value.message


def test_the_least_configuration_has_sensible_defaults() -> None:
    made = config.from_data(LEAST)
    assert made.realm == made.name == "broker.example"
    assert made.listen.port == 3653 and made.listen.transports == ("udp", "tcp")
    assert made.addresses.inner_ipv6 == IPv6Address("2001:db8:f::1")
    assert (made.lifetime, made.keepalive.interval, made.keepalive.minimum) == (604800, 30, 5)
    assert made.auth.digest_md5 and not made.auth.anonymous and not made.auth.plain
    assert made.store_sync == "normal" and made.limits.auth_failures_per_minute == 10


def test_the_example_in_the_repository_is_valid_and_complete(repository: Path) -> None:
    path = repository / "examples" / "broker.yml"
    made = config.load(path)
    assert not made.accounts and made.modes == ("v6v4", "v6udpv4", "v4v6")
    text = path.read_text(encoding="utf-8")
    for key in ("accounts_file", "accounts", "redirect", "dns_domain", "key_file", "store", "limits", "log", "anonymous", "versions",
                "realm"):
        assert f"{key}:" in text, f"the example does not show {key}"


def test_the_example_shows_the_defaults_it_claims(repository: Path) -> None:
    example, least = config.load(repository / "examples" / "broker.yml"), config.from_data(LEAST)
    for name in ("listen", "versions", "anonymous", "lifetime", "keepalive", "data_plane", "store", "store_sync", "key_file", "limits",
                 "log"):
        assert getattr(example, name) == getattr(least, name), name


def test_all_problems_are_named_at_once() -> None:
    text = problems({"nam": "x", "modes": ["v6v5"], "limits": {"session": 3}, "pools": {"ipv6": "2001:db8::1/64"}})
    assert "5 problems" in text
    assert "name: is missing." in text
    assert "nam: is not a known key. Did you mean name?" in text
    assert 'modes: expected one of v6v4, v6udpv4, v4v6. Did you mean v6v4? Found "v6v5".' in text
    assert "limits.session: is not a known key. Did you mean sessions?" in text
    assert "pools.ipv6: expected an IPv6 network without host bits" in text


@pytest.mark.parametrize(("changes", "words"), [
    ({"lifetime": True}, "lifetime: expected a whole number from 300"),
    ({"lifetime": "604800"}, "lifetime: expected a whole number"),
    ({"listen": {"addresses": ["192.0.2.1%eth0"]}}, "listen.addresses: expected an IPv4 or IPv6 address"),
    ({"listen": {"addresses": ["0.0.0.0", "192.0.2.1"]}}, "leave one of both out"),
    ({"listen": []}, "listen: expected keys with values, found a list."),
    ({"auth": {"digest-md5": False, "passdss-3des-1": False}}, "auth: no mechanism is left"),
    ({"auth": {"digest_md5": True}}, "Did you mean digest-md5?"),
    ({"modes": ["v4v6"]}, "modes: v4v6 needs pools.ipv4."),
    ({"modes": []}, "modes: expected at least 1."),
    ({"modes": ["v6v4", "v6v4"]}, "modes: the same thing stands in the list twice."),
    ({"keepalive": {"interval": 3}}, "keepalive: interval 3 is not between minimum 5"),
    ({"data_plane": "usrspace"}, "Did you mean userspace?"),
    ({"data_plane": {"device": "../x"}}, "data_plane.device: expected the name of a network device"),
    ({"redirect": {"at": "versoin", "brokers": ["a.example"]}}, "Did you mean version?"),
    ({"redirect": {"at": "version", "brokers": []}}, "redirect.brokers: expected at least 1."),
    ({"redirect": {"at": "version", "brokers": ["broker.example"]}}, "is this broker itself"),
    ({"redirect": {"at": "version", "brokers": ["a.example:99999"]}}, "the port is out of range"),
    ({"redirect": {"at": "version", "brokers": ["300.1.2.3"]}}, "redirect.brokers: expected host"),
    ({"versions": ["3.0"]}, "versions: expected one of"),
    ({"realm": 'a"b'}, "realm: expected at most 64 ASCII characters without quotes"),
    ({"name": "a b"}, "name: expected a DNS name"),
    ({"log": {"level": "verbose"}}, "log.level: expected one of debug, info, warning, error"),
    ({"addresses": {"outer_ipv4": "2001:db8::1"}}, "addresses.outer_ipv4: expected an IPv4 address"),
])
def test_what_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    assert words in problems(changed(**changes))


@pytest.mark.parametrize(("pools", "words"), [
    ({"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8::/32", "lengths": 56}]}, "overlaps pools.ipv6"),
    ({"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/48", "lengths": 40}]}, "/40 is larger than"),
    ({"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/48", "lengths": "64-56"}]}, "expected lengths from 1 to 126"),
    ({"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/48", "lengths": [56], "default": 64}]},
     "not one of the lengths"),
    ({"ipv6": "2001:db8:f::/64", "prefixes": [{"lengths": [56]}]}, "pools.prefixes[0].network: is missing."),
    ({"ipv6": "2001:db8::/127"}, "holds no address for a client"),
])
def test_pools_are_checked(pools: dict[str, Any], words: str) -> None:
    assert words in problems(changed(pools=pools))


def test_our_own_addresses_may_not_be_given_away() -> None:
    pools = {"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/33", "lengths": [56]}]}
    assert "given away" in problems(changed(pools=pools, addresses={"inner_ipv6": "2001:db8:8000::1"}))
    assert "given away" in problems(changed(pools=pools, addresses={"outer_ipv6": "2001:db8:f::9"}))


def test_duplicate_keys_and_broken_yaml_are_refused_with_their_place() -> None:
    with pytest.raises(LocalError) as caught:
        schema.parse_yaml("name: a\npools:\n  ipv6: x\n  ipv6: y\n", "f.yml")
    assert "f.yml, line 4, column 3: the key ipv6 stands here twice" in caught.value.message
    with pytest.raises(LocalError) as caught:
        schema.parse_yaml("name: [a\n", "f.yml")
    assert caught.value.code == "config_invalid" and "line" in caught.value.message
    with pytest.raises(LocalError):
        schema.parse_yaml("name: !!python/object/apply:os.system [true]\n", "f.yml")


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        config.load(tmp_path / "none.yml")
    assert caught.value.code == "config_unreadable"
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LocalError) as caught:
        config.load(tmp_path / "binary.yml")
    assert "UTF-8" in caught.value.message


def test_relative_names_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "broker.yml"
    file.write_text("name: broker.example\npools: {ipv6: '2001:db8:f::/64'}\nstore: {path: state/leases.db}\n", encoding="utf-8")
    assert config.load(file).store == tmp_path / "state" / "leases.db"


def test_a_clear_password_becomes_what_digest_needs_and_nothing_else() -> None:
    made = config.from_data(changed(accounts=[{"username": "alice", "password": "canary-1"}]))
    account = made.accounts[0]
    assert account.verify("canary-1") and not account.verify("canary-2")
    assert account.ha1("broker.example") == accounts.ha1("alice", "broker.example", "canary-1")
    assert "canary-1" not in repr(made)


@pytest.mark.parametrize("entry", [
    {"username": "alice", "password": 12345678}, {"username": "alice", "scrypt": "canary-1"},
    {"username": "alice", "digest_ha1": "canary-1"},
    {"username": "alice", "password": "canary-1", "tunels": 2}, {"username": "alice", "password": "canary-1\n"}])
def test_no_message_quotes_a_secret(entry: dict[str, Any]) -> None:
    text = problems(changed(accounts=[entry]))
    assert "canary" not in text and "12345678" not in text
    assert "accounts[0]" in text


@pytest.mark.parametrize(("entries", "words"), [
    ([{"username": "alice"}], "has no password"),
    ([{"username": "a", "password": "x"}, {"username": "a", "password": "y"}], "a is there 2 times"),
    ([{"username": " a", "password": "x"}], "accounts[0].username"),
    ([{"username": "a", "password": "x", "ipv6": "2001:db8:e::1"}], "not an address for clients in pools.ipv6"),
    ([{"username": "a", "password": "x", "ipv6": "2001:db8:f::1"}], "not an address for clients"),
    ([{"username": "a", "password": "x", "prefix": "2001:db8:8000::/48"}], "lies in none of pools.prefixes"),
    ([{"username": "a", "password": "x", "ipv6": "2001:db8:f::5", "tunnels": 2}], "only one of both goes"),
    ([{"username": "a", "password": "x", "ipv6": "2001:db8:f::5"}, {"username": "b", "password": "x", "ipv6": "2001:db8:f::5"}],
     "2001:db8:f::5 is fixed for a and for b"),
])
def test_accounts_are_checked(entries: list[dict[str, Any]], words: str) -> None:
    assert words in problems(changed(accounts=entries))


@pytest.mark.parametrize("where", ["inline", "file"])
def test_a_file_with_accounts_must_be_private(tmp_path: Path, where: str) -> None:
    main, separate = tmp_path / "broker.yml", tmp_path / "accounts.yml"
    text = "name: broker.example\npools: {ipv6: '2001:db8:f::/64'}\n"
    entry = "- {username: alice, password: secret1}\n"
    if where == "inline":
        main.write_text(text + "accounts:\n" + entry, encoding="utf-8")
    else:
        main.write_text(text + "accounts_file: accounts.yml\n", encoding="utf-8")
        separate.write_text(entry, encoding="utf-8")
    secret = main if where == "inline" else separate
    secret.chmod(0o644)
    with pytest.raises(LocalError) as caught:
        config.load(main)
    assert f"chmod 0600 {secret}" in caught.value.message
    secret.chmod(0o640)
    assert config.load(main).accounts[0].username == "alice"


def test_warnings_say_what_is_perhaps_not_meant() -> None:
    made = config.from_data(changed(listen={"addresses": ["::"]}, auth={"plain": True}))
    assert any("v6udpv4" in w for w in made.warnings) and any("auth.plain" in w for w in made.warnings)


@pytest.mark.parametrize(("text", "family", "address", "port"), [
    ("broker2.Example.", "dn", "broker2.example", None), ("192.0.2.1:99", "ipv4", "192.0.2.1", 99),
    ("[2001:DB8::1]:5", "ipv6", "2001:db8::1", 5), ("2001:db8::1", "ipv6", "2001:db8::1", None)])
def test_redirect_entries(text: str, family: str, address: str, port: int | None) -> None:
    made = config.broker_address(text)
    assert (made.family, made.address, made.port) == (family, address, port)


def test_a_broker_knows_itself() -> None:
    own = (IPv4Address("192.0.2.1"),)
    assert config.is_self(config.broker_address("192.0.2.1"), "b.example", 3653, own)
    assert not config.is_self(config.broker_address("192.0.2.1:99"), "b.example", 3653, own)
    assert config.is_self(config.broker_address("b.example:3653"), "b.example", 3653, own)
    assert not config.is_self(config.broker_address("192.0.2.2"), "b.example", 3653, own)
