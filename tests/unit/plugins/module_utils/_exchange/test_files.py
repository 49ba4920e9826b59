# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of the exchange: known keys, last server, broker list."""

from __future__ import annotations

import base64
import fcntl
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange import files
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.keyfile import key_policy, remember
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions, parse_broker
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.saved import SavedBrokers
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, RemoteError

BLOB = b"\0\0\0\7ssh-dss" + b"\0\0\0\1\5" * 4
OTHER = b"\0\0\0\7ssh-dss" + b"\0\0\0\1\6" * 4


def test_a_new_key_is_stored_privately_behind_the_lines_that_stood_there(tmp_path):
    path = tmp_path / "keys" / "gw6ckeys.pub"
    path.parent.mkdir()
    path.write_bytes(b"# caf\xe9\nother.example ssh-dss " + base64.b64encode(OTHER) + b"\n")
    options = ExchangeOptions(server_key_policy="accept_new", known_keys_file=str(path))
    warnings = []
    policy = key_policy("broker.example", options)
    policy(BLOB)
    remember(policy, options.known_keys_file, warnings.append)
    assert path.read_bytes() == (b"# caf\xe9\nother.example ssh-dss " + base64.b64encode(OTHER) + b"\nbroker.example ssh-dss "
                                 + base64.b64encode(BLOB) + b"\n")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert len(warnings) == 1 and "was new" in warnings[0]

    again = key_policy("broker.example", options)
    again(BLOB)
    assert again.accepted is None, "known now"
    with pytest.raises(RemoteError) as caught:
        key_policy("broker.example", options)(OTHER)
    assert caught.value.code == "server_key_changed" and str(path) in str(caught.value)


def test_an_unknown_key_is_refused_by_default_and_nothing_is_written(tmp_path):
    path = tmp_path / "gw6ckeys.pub"
    policy = key_policy("broker.example", ExchangeOptions(known_keys_file=str(path)))
    with pytest.raises(RemoteError) as caught:
        policy(BLOB)
    assert caught.value.code == "server_key_unknown" and str(path) in caught.value.hint
    remember(policy, str(path), lambda _w: None)
    assert not path.exists()


def test_a_key_file_that_cannot_be_read_is_not_taken_for_empty(tmp_path):
    with pytest.raises(LocalError) as caught:
        key_policy("broker.example", ExchangeOptions(server_key_policy="accept_new", known_keys_file=str(tmp_path)))
    assert caught.value.code == "known_keys_unreadable"


def test_a_pinned_key_needs_no_file(tmp_path):
    options = ExchangeOptions(server_key=base64.b64encode(BLOB).decode(), known_keys_file=str(tmp_path))
    key_policy("broker.example", options)(BLOB)
    with pytest.raises(RemoteError):
        key_policy("broker.example", options)(OTHER)


def test_a_full_disk_loses_no_known_key_and_is_told(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text("other.example ssh-dss " + base64.b64encode(OTHER).decode() + "\n")
    before = path.read_bytes()
    policy = key_policy("broker.example", ExchangeOptions(server_key_policy="accept_new", known_keys_file=str(path)))
    policy(BLOB)

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    warnings = []
    remember(policy, str(path), warnings.append)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert "No space left" in warnings[0]


def test_runs_that_add_keys_at_the_same_moment_lose_none(tmp_path, monkeypatch):
    """Threads do for processes: each opens the folder itself, so the lock is between them too."""
    monkeypatch.setattr(files, "LOCK_WAIT", 600.0)  # a busy disk makes each take its time
    path = tmp_path / "keys" / "known"
    start = threading.Barrier(4)

    def add(run):
        start.wait(30)
        for number in range(10):
            policy = key_policy(f"b{run}-{number}.example", ExchangeOptions(server_key_policy="accept_new"))
            policy(BLOB)
            remember(policy, str(path), lambda _warning: None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    names = [line.split()[0] for line in path.read_text().splitlines()]
    assert sorted(names) == sorted(f"b{run}-{number}.example" for run in range(4) for number in range(10))
    assert [entry.name for entry in path.parent.iterdir()] == ["known"]


def test_a_key_that_another_process_stored_meanwhile_is_not_stored_twice_nor_replaced(tmp_path):
    path = tmp_path / "keys"
    options = ExchangeOptions(server_key_policy="accept_new", known_keys_file=str(path))
    mine, same, other = (key_policy("broker.example", options) for _number in range(3))
    mine(BLOB)
    same(BLOB)
    other(OTHER)
    warnings = []
    for policy in (mine, same, other):
        remember(policy, str(path), warnings.append)
    assert path.read_text() == "broker.example ssh-dss " + base64.b64encode(BLOB).decode() + "\n"
    assert "another one was stored" in warnings[2] and "was new" in warnings[1]


def test_who_holds_the_folder_for_ever_does_not_hold_up_the_exchange_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_WAIT", 0.0)
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    policy = key_policy("broker.example", ExchangeOptions(server_key_policy="accept_new"))
    policy(BLOB)
    warnings = []
    try:
        remember(policy, str(tmp_path / "keys"), warnings.append)
    finally:
        os.close(held)
    assert "another process has held" in warnings[0] and not (tmp_path / "keys").exists()


def test_a_file_system_without_locks_still_takes_the_key(tmp_path, monkeypatch):
    def none(*_args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    policy = key_policy("broker.example", ExchangeOptions(server_key_policy="accept_new"))
    policy(BLOB)
    remember(policy, str(tmp_path / "keys"), lambda _warning: None)
    assert (tmp_path / "keys").read_text().startswith("broker.example ssh-dss ")


def test_a_key_accepted_without_a_file_says_that_it_is_not_remembered():
    policy = key_policy("broker.example", ExchangeOptions(server_key_policy="accept_new"))
    policy(BLOB)
    warnings = []
    remember(policy, None, warnings.append)
    assert "not remembered" in warnings[0]


def test_last_server_and_broker_list_are_read_as_the_old_client_wrote_them(tmp_path):
    (tmp_path / "tsp-last-server.txt").write_text("\n# comment\n192.0.2.7:3653\n192.0.2.8\n")
    (tmp_path / "tsp-broker-list.txt").write_text("192.0.2.1\n[2001:db8::1]\nbroker.example:5000\nbad line!\n192.0.2.1\n")
    warnings = []
    saved = SavedBrokers(str(tmp_path), warnings.append)
    assert saved.last_server() == parse_broker("192.0.2.7")
    assert [str(b) for b in saved.broker_list([parse_broker("any.example")])] == ["192.0.2.1", "[2001:db8::1]", "broker.example:5000"]
    assert len(warnings) == 1 and "tsp-broker-list.txt" in warnings[0]


def test_they_are_written_one_broker_a_line_and_privately(tmp_path):
    saved = SavedBrokers(str(tmp_path / "state"), pytest.fail)
    saved.save_last_server(parse_broker("192.0.2.7"))
    saved.save_broker_list([parse_broker("b.example:77"), parse_broker("[2001:db8::1]")], parse_broker("a.example:3653"))
    assert (tmp_path / "state" / "tsp-last-server.txt").read_text() == "192.0.2.7\n"
    assert (tmp_path / "state" / "tsp-broker-list.txt").read_text() == "# from a.example\nb.example:77\n[2001:db8::1]\n"
    assert stat.S_IMODE(os.stat(tmp_path / "state" / "tsp-last-server.txt").st_mode) == 0o600


def test_what_cannot_be_read_or_written_is_a_warning(tmp_path):
    (tmp_path / "tsp-last-server.txt").mkdir()
    warnings = []
    saved = SavedBrokers(str(tmp_path), warnings.append)
    assert saved.last_server() is None
    saved.save_last_server(parse_broker("192.0.2.7"))
    assert len(warnings) == 2
    assert SavedBrokers(None, warnings.append).broker_list([]) == []


def test_what_one_broker_gave_is_for_those_who_ask_it_and_each_tunnel_has_its_own_last_server(tmp_path):
    (tmp_path / "tsp-broker-list.txt").write_text("old.example\n")
    a, b, c = (parse_broker(name) for name in ("a.example", "b.example:99", "c.example"))
    saved, other = (SavedBrokers(str(tmp_path), pytest.fail, identity) for identity in ("r1", "r2/../r2"))
    saved.save_broker_list([parse_broker("192.0.2.1")], a)
    other.save_broker_list([parse_broker("192.0.2.2")], b)
    saved.save_broker_list([parse_broker("192.0.2.3"), parse_broker("192.0.2.1")], a)
    assert [str(broker) for broker in other.broker_list([a])] == ["192.0.2.3", "192.0.2.1"]
    assert [str(broker) for broker in saved.broker_list([c, b])] == ["192.0.2.2"]
    assert saved.broker_list([c]) == []
    saved.save_last_server(a)
    other.save_last_server(b)
    assert (saved.last_server(), other.last_server(), SavedBrokers(str(tmp_path), pytest.fail).last_server()) == (a, b, None)
    other.forget(a)
    saved.forget(a)
    assert (saved.last_server(), other.last_server()) == (None, b)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_old_clients_own_files_keep_their_place_and_their_form(tmp_path):
    last, brokers = str(tmp_path / "gw6c" / "my-last.txt"), str(tmp_path / "gw6c" / "my-list.txt")
    a, b = parse_broker("a.example"), parse_broker("192.0.2.7:3654")
    saved = SavedBrokers(str(tmp_path), pytest.fail, "gw6c", last, brokers)
    saved.save_last_server(b)
    saved.save_broker_list([b, a], a)
    saved.save_broker_list([a, b], b)
    assert (tmp_path / "gw6c" / "my-last.txt").read_text() == "192.0.2.7:3654\n"
    assert (tmp_path / "gw6c" / "my-list.txt").read_text() == "a.example\n192.0.2.7:3654\n"
    assert os.listdir(tmp_path) == ["gw6c"]
    assert saved.last_server() == b and saved.broker_list([a]) == [a, b]


@pytest.mark.parametrize("lead", [os.symlink, os.link])
def test_root_is_led_nowhere_by_the_folder_of_somebody_else(tmp_path, monkeypatch, lead):
    """What is read is written again for the owner of the folder, who may not be meant to see it."""
    folder, secret = tmp_path / "agent", tmp_path / "shadow"
    folder.mkdir()
    secret.write_text("root:hash\n")
    lead(secret, folder / "keys")
    whole, owner = os.stat, 0

    def owned(path, **more):
        found = list(whole(path, **more))
        if os.fspath(path) == str(folder):
            found[4] = owner
        return os.stat_result(found)

    monkeypatch.setattr(files.os, "geteuid", lambda: 0)
    monkeypatch.setattr(files.os, "stat", owned)
    assert files.read_text(str(folder / "keys")) == "root:hash\n", "root's own links are root's business"
    owner = 64719
    for use in (files.read_text, lambda path: files.change_private(path, lambda text: text + "more\n")):
        with pytest.raises(OSError):
            use(str(folder / "keys"))
    assert secret.read_text() == "root:hash\n"
