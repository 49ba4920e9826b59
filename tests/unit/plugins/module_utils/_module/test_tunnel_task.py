# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
import yaml
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module import ask, leasestore, tunnel_task
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import TUNNEL_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.ask import Place, target_place
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import guarded
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_task import run
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, NetworkError, RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.status import error_from_status
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._fake_broker import FakeBroker
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import NOW, lease

CANARY = "s3cret-c4nary-Zebra"


class Task:
    """The task `tunnel` of one host, as a play writes it: a fake broker, a folder, and the options given here."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "facts.d" / "tsp.fact"
        self.broker = FakeBroker()
        self.now = NOW
        self.place = {}
        self.measure = None

    def __call__(self, check_mode=False, **options):
        given = {"broker": ["broker.example"], "username": "alice", "password": CANARY, **options}
        params = {name: given.get(name, option.get("default")) for name, option in TUNNEL_SPEC.items()}
        place = Place(str(self.file), str(self.folder / "state"), **self.place)
        result = guarded(lambda: run(params, place, check_mode=check_mode, exchange=self.broker, now=lambda: self.now,
                                     measure=self.measure))
        assert CANARY not in json.dumps(result)
        return result

    @property
    def packets(self):
        return [what for what, _options in self.broker.asked]


@pytest.fixture
def task(tmp_path):
    one = Task(tmp_path)
    yield one
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "password":
            assert CANARY not in path.read_text(), f"{path} holds the password"


def everything_in(folder):
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_path_is_measured_with_each_exchange_and_never_beside_one(task):
    seen = []
    task.measure = lambda peer, source: seen.append((str(peer), source)) or 1492
    first = task(source_address="127.0.0.1")
    assert first["lease"]["path_mtu"] == json.loads(task.file.read_text())["path_mtu"] == 1492
    assert [(peer, source.address) for peer, source in seen] == [(first["lease"]["server"]["ipv4"], "127.0.0.1")]
    task(source_address="127.0.0.1")
    task(source_address="127.0.0.1", check_mode=True, renew=True)
    assert len(seen) == 1


def test_a_path_that_nobody_is_on_is_not_measured(task):
    task.measure = lambda peer, source: pytest.fail("the machine that asks is not the tunnel's end")
    assert task(proxy=True, client_ipv4="192.0.2.7")["lease"]["path_mtu"] is None


def test_the_first_run_asks_stores_and_returns_facts(task):
    result = task()
    assert result["changed"] is True and result["reason"] == "There is no lease yet."
    assert result["lease"]["client"]["ipv6"] == "2001:db8:f00::2"
    assert result["ansible_facts"] == {"tsp": result["lease"]}
    assert json.loads(task.file.read_text()) == result["lease"]
    assert result["lease_file"] == str(task.file) and os.stat(task.file).st_mode & 0o777 == 0o600
    assert result["attempts"][0]["result"] == "granted"
    assert result["diff"]["before"] == "" and json.loads(result["diff"]["after"]) == result["lease"]


def test_the_second_run_sends_nothing_and_changes_nothing(task):
    first = task()
    before = everything_in(task.folder)
    second = task()
    assert second["changed"] is False and task.packets == ["create"]
    assert second["lease"] == first["lease"] and second["ansible_facts"] == first["ansible_facts"]
    assert "still answers the request" in second["reason"] and "2026-05-11 03:02 UTC" in second["reason"]
    assert second["diff"]["before"] == second["diff"]["after"]
    assert everything_in(task.folder) == before


def test_renew_always_asks(task):
    task()
    assert task(renew=True)["changed"] is True and task.packets == ["create", "create"]


def test_the_name_is_the_key_of_the_facts(task):
    result = task(name="tsp_2")
    assert list(result["ansible_facts"]) == ["tsp_2"]


@pytest.mark.parametrize("name", ["", "Tsp", "2tsp", "tsp-1", "../x", "a b", "tsp\n", "a" * 65])
def test_a_name_that_cannot_be_a_key_and_a_file_is_refused(task, name):
    result = task(name=name)
    assert result["failed"] and result["error"]["code"] == "invalid_option" and task.packets == []


@pytest.mark.parametrize("change, why", [
    ({"mode": "v6udpv4"}, "mode changed"),
    ({"host_type": "router"}, "host_type, prefix_length changed"),
    ({"client_ipv4": "192.0.2.9"}, "client_ipv4 changed"),
    ({"keepalive_interval": 60}, "keepalive_interval changed"),
    ({"keepalive": False}, "keepalive changed"),
    ({"username": "bob"}, "another user"),
    ({"auth_method": "anonymous"}, "another user"),
    ({"broker": ["other.example"]}, "not among the brokers any more"),
])
def test_another_question_is_asked_again(task, change, why):
    task()
    predicted = task(check_mode=True, **change)
    result = task(**change)
    assert result["changed"] is True and why in result["reason"], result["reason"]
    assert predicted["changed"] is True and why in predicted["reason"]
    assert task(**change)["changed"] is False
    assert task.packets == ["create", "create"]


@pytest.mark.parametrize("first, second", [
    ({}, {"broker": ["new.example", "BROKER.example:3653"]}),
    ({"host_type": "router"}, {"host_type": "router", "prefix_length": 48}),
    ({"keepalive": False}, {"keepalive": False, "keepalive_interval": 77}),
    ({"client_ipv4": "auto"}, {"client_ipv4": ""}),
    ({}, {"auth_method": "digest-md5"}),
    ({}, {"password": "another"}),
    ({}, {"broker": ["other.example"], "always_use_same_server": True}),
])
def test_the_same_question_in_other_words_is_not_asked_again(task, first, second):
    task(**first)
    assert task(**second)["changed"] is False and task.packets == ["create"]


def test_a_lease_that_a_redirection_led_to_answers_for_the_broker_that_redirected(task):
    task.broker.changes = {"broker": "[2001:db8::99]", "via": "broker.example"}
    task()
    assert task()["changed"] is False
    assert task(broker=["other.example"])["changed"] is True


def test_an_expired_lease_is_asked_for_again(task):
    task()
    task.now = NOW + timedelta(seconds=604800)
    result = task()
    assert result["changed"] is True and "ended at 2026-05-11" in result["reason"]


def test_a_lease_that_is_about_to_end_is_asked_for_again(task):
    task()
    task.now = NOW + timedelta(seconds=604800 - 61)
    assert task()["changed"] is False
    task.now = NOW + timedelta(seconds=604800 - 59)
    assert "ends at 2026-05-11" in task(check_mode=True)["reason"]


def test_a_short_lease_is_of_use_for_most_of_its_life(task):
    task.broker.changes = {"grant": lease(grant_changes={"lifetime": 20}).grant}
    task()
    task.now = NOW + timedelta(seconds=17)
    assert task()["changed"] is False
    task.now = NOW + timedelta(seconds=19)
    assert task(check_mode=True)["changed"] is True


def at(mode="v6v4", client="127.0.0.5", local="127.0.0.5", request=None, **options):
    """What the fake broker grants to a host at `local`, whose end of the tunnel it calls `client`; its own end is this machine."""
    value = lease(mode, request=request, **options).grant
    ends = {"ipv6": ip_address(client)} if mode == "v4v6" else {"ipv4": ip_address(client)}
    server = {"ipv6": ip_address("::1")} if mode == "v4v6" else {"ipv4": ip_address("127.0.0.1")}
    grant = replace(value, client=replace(value.client, **ends), server=replace(value.server, **server))
    return {"grant": grant, "local_address": None if local is None else ip_address(local)}


@pytest.mark.parametrize("options, granted", [
    ({"mode": "v6v4"}, at(client="198.51.100.7", local="198.51.100.7")),
    ({"mode": "v6anyv4"}, at(client="198.51.100.7", local="198.51.100.7")),
    ({"mode": "v6v4", "broker": ["127.0.0.1:77"]}, at()),  # both are this host's, and the kernel would not take the old one
    ({"mode": "v4v6"}, at("v4v6", "2001:db8::7", "2001:db8::7")),
    ({"mode": "v6v4", "source_address": "127.0.0.6"}, at()),
])
def test_a_host_that_has_another_address_now_asks_again(task, options, granted):
    task.broker.changes = granted
    task(**options)
    predicted = task(check_mode=True, **options)
    assert predicted["changed"] is True and "and this host is now at " in predicted["reason"]
    now = "::1" if options["mode"] == "v4v6" else options.get("source_address", "127.0.0.1")
    task.broker.changes = at(options["mode"], now, now) if options["mode"] == "v4v6" else at(client=now, local=now)
    assert task(**options)["changed"] is True
    assert task(**options)["changed"] is False
    assert task.packets == ["create", "create"]


@pytest.mark.parametrize("options, granted", [
    ({"mode": "v6v4"}, at(client="127.0.0.1", local="127.0.0.1")),
    ({"mode": "v6v4"}, at()),  # the way to the broker may be another than that to its end of the tunnel
    ({"mode": "v6v4", "source_address": "127.0.0.5"}, at()),
    ({"mode": "v6v4", "broker": ["127.0.0.1"], "source_address": "127.0.0.5"}, at()),
    ({"mode": "v6v4"}, at(client="198.51.100.7")),  # a NAT stood between, as it does now
    ({"mode": "v6v4"}, at(local=None)),  # a lease of an earlier release
    ({"mode": "v6v4", "client_ipv4": "198.51.100.7"}, at(client="198.51.100.7", local="198.51.100.7")),
    ({"mode": "v6v4", "client_ipv4": "198.51.100.7", "proxy": True}, at(client="198.51.100.7", local="198.51.100.7")),
    ({"mode": "v6anyv4"}, at("v6udpv4")),
    ({"mode": "v6v4", "source_address": "192.0.2.77"}, at()),  # there is no way to the broker now: nobody could be asked
    ({"mode": "v4v6"}, at("v4v6", "::1", "::1")),
])
def test_a_host_that_did_not_move_does_not_ask_again(task, options, granted):
    task.broker.changes = granted
    task(**options)
    assert task(**options)["changed"] is False and task.packets == ["create"]


def test_an_ipv6_host_with_a_new_temporary_address_keeps_what_it_began_with_the_old_one(task, monkeypatch):
    task.broker.changes = at("v4v6", "::1", "::1")
    options = {"mode": "v4v6", "broker": ["[::1]:77"]}
    task(**options)
    monkeypatch.setattr(tunnel_task, "own_address", lambda _peer, _source: ip_address("2001:db8::99"))
    assert task(**options)["changed"] is False
    monkeypatch.setattr(tunnel_task, "is_own", lambda _address: False)
    assert "now at 2001:db8::99" in task(**options, check_mode=True)["reason"]


def test_strict_asks_again_where_the_prefix_was_another_than_asked(task):
    task.broker.changes = {"grant": replace(lease(prefix="2001:db8:a::/56").grant)}
    task(host_type="router", prefix_length=48)
    assert task(host_type="router", prefix_length=48)["changed"] is False
    assert "strict" in task(check_mode=True, host_type="router", prefix_length=48, strict=True)["reason"]


def test_strict_asks_again_where_the_prefix_holds_the_brokers_end(task):
    task.broker.changes = {"grant": lease(prefix="2001:db8:f00::/48").grant}
    task(host_type="router")
    assert task(host_type="router")["changed"] is False
    assert "strict" in task(check_mode=True, host_type="router", strict=True)["reason"]


def test_another_source_port_is_another_tunnel_where_the_tunnel_uses_it(task):
    task(mode="v6udpv4", source_port=40000)
    assert task(mode="v6udpv4")["changed"] is False and task(mode="v6udpv4", source_port=40000)["changed"] is False
    assert "source_port is 40001" in task(mode="v6udpv4", source_port=40001, check_mode=True)["reason"]


def test_the_source_port_of_another_tunnel_was_for_the_exchange_alone(task):
    task(mode="v6v4")
    assert task(mode="v6v4", source_port=40001)["changed"] is False


def test_warnings_of_grant_and_exchange_are_returned(task):
    task.broker.changes = {"warnings": ("A /56 instead of a /48.",)}
    task.broker.warnings = ["The state folder cannot be written."]
    assert task()["warnings"] == ["A /56 instead of a /48.", "The state folder cannot be written."]
    assert task()["warnings"] == []


def test_check_mode_sends_nothing_writes_nothing_and_predicts(task):
    result = task(check_mode=True)
    assert result["changed"] is True and "There is no lease yet." in result["reason"] and "Check mode" in result["reason"]
    assert result["lease"] == {} and 'mode: "v6anyv4"' in result["diff"]["after"]
    assert task.packets == [] and everything_in(task.folder) == {} and not task.file.parent.exists()
    task()
    before = everything_in(task.folder)
    assert task(check_mode=True)["changed"] is False
    assert task(check_mode=True, renew=True)["changed"] is True
    assert task(check_mode=True, state="absent")["changed"] is True
    assert task.packets == ["create"] and everything_in(task.folder) == before


def test_check_mode_returns_the_lease_in_force(task):
    first = task()
    assert task(check_mode=True, renew=True)["lease"] == first["lease"]
    gone = task(check_mode=True, state="absent")
    assert gone["lease"] == first["lease"] and gone["diff"]["after"] == "" and gone["diff"]["before"]


@pytest.mark.parametrize("form, reader", [("json", json.loads), ("yaml", yaml.safe_load)])
def test_a_copy_where_it_is_wanted(task, form, reader):
    dest = task.folder / "copies" / "lease"
    wanted = {"dest": str(dest), "dest_format": form}
    result = task(**wanted)
    assert reader(dest.read_text()) == result["lease"]
    assert task(**wanted)["changed"] is False
    dest.unlink()
    assert task(check_mode=True, **wanted)["changed"] is True and not dest.exists()
    assert task(**wanted)["changed"] is True and dest.exists() and task.packets == ["create"]
    dest.chmod(0o644)
    task(renew=True, **wanted)
    assert dest.stat().st_mode & 0o777 == 0o644
    assert task(state="absent", **wanted)["changed"] is True and not dest.exists()


@pytest.mark.parametrize("state", ["present", "absent"])
def test_the_copy_never_takes_the_place_of_the_lease(task, state):
    task()
    before = everything_in(task.folder)
    (task.folder / "link").symlink_to(task.file.parent)
    result = task(state=state, dest=str(task.folder / "link" / task.file.name), dest_format="yaml")
    assert result["error"]["code"] == "invalid_option" and everything_in(task.folder) == before


def test_absent_never_deletes_a_file_at_dest_that_is_not_a_lease(task):
    dest = task.folder / "precious"
    dest.write_text("mine\n")
    assert task(state="absent", dest=str(dest))["changed"] is False and dest.read_text() == "mine\n"


def test_absent_gives_back_forgets_and_is_done(task):
    task()
    result = task(state="absent", broker=None)
    assert result["changed"] is True and result["lease"] == {} and result["ansible_facts"] == {"tsp": {}}
    assert task.packets == ["create", "delete"] and task.broker.tunnels == {} and not task.file.exists()
    assert json.loads(result["diff"]["before"])["mode"] == "v6v4" and result["diff"]["after"] == ""
    again = task(state="absent", broker=None)
    assert again["changed"] is False and again["reason"] == "There is no lease." and task.packets == ["create", "delete"]


def test_absent_logs_in_as_the_lease_says(task):
    task(auth_method="anonymous", username=None, password=None)
    task(state="absent", username=None, password=None)
    assert task.broker.asked[-1][1].auth_method == "anonymous" and not task.file.exists()
    task()
    task(state="absent", username=None)
    assert task.broker.asked[-1][1].username == "alice"


def test_an_ended_lease_is_forgotten_without_a_word_to_the_broker(task):
    task()
    task.now = NOW + timedelta(days=8)
    assert task(state="absent")["changed"] is True and task.packets == ["create"] and not task.file.exists()


@pytest.mark.parametrize("error", [
    error_from_status(310, "Server side error"), error_from_status(500), NetworkError("unreachable", "No answer."),
    RemoteError("bad_reply", "Garbage.")])
def test_a_broker_that_cannot_delete_is_a_warning(task, error):
    task()
    task.broker.refuse_delete = error
    result = task(state="absent")
    assert result["changed"] is True and not task.file.exists()
    assert len(result["warnings"]) == 1 and error.message in result["warnings"][0] and "broker.example" in result["warnings"][0]


def test_without_a_password_the_tunnel_is_forgotten_here_with_a_warning(task):
    task()
    result = task(state="absent", username=None, password=None)
    assert result["changed"] is True and "password" in result["warnings"][0] and task.packets == ["create"]


@pytest.mark.parametrize("error, strict", [
    (NetworkError("unreachable", "No answer."), True), (error_from_status(300), False),
    (RemoteError("server_key_changed", "Another key."), False)])
def test_what_keeps_the_lease_when_it_cannot_be_deleted(task, error, strict):
    task()
    task.broker.refuse_delete = error
    result = task(state="absent", strict=strict)
    assert result["failed"] and result["error"]["code"] == error.code and task.file.exists()


@pytest.mark.parametrize("error, status", [
    (error_from_status(300, "Authentication failed"), 300),
    (error_from_status(530, "busy\r\nevil"), 530),
    (NetworkError("no_answer", "The broker is silent.", "Check the firewall."), None),
    (RemoteError("bad_grant", "The broker granted something unusable.", "Report it."), None),
    (LocalError("missing_library", "cryptography is missing.", "Install it."), None)])
def test_a_failure_has_a_code_a_sentence_and_what_to_do_and_the_old_lease_stays(task, error, status):
    task()
    before = everything_in(task.folder)
    error.attempts = [{"broker": "broker.example", "result": "failed", "error": error.to_dict()}]
    task.broker.refuse = error
    result = task(renew=True)
    assert result["failed"] is True and result["changed"] is False
    assert result["error"] == {"kind": error.kind, "code": error.code, "message": error.message, "hint": error.hint, "status": status}
    assert result["msg"] == f"{error.message} {error.hint}" and result["error"]["hint"]
    assert result["attempts"] == error.attempts and "\n" not in result["msg"]
    assert everything_in(task.folder) == before


def test_whatever_a_message_quotes_is_printable_and_bounded(task):
    task.broker.refuse = RemoteError("refused", "It said: \x1b[31mred\x07\r\n\u202e" + "x" * 100000, "Ask\nit.")
    result = task()
    for text in (result["msg"], result["error"]["message"], result["error"]["hint"]):
        assert text.isprintable() and len(text) < 5000
    assert result["error"]["message"].startswith("It said:  [31mred")


def test_a_defect_of_ours_is_told_without_what_it_quotes(task):
    task.broker.refuse = ZeroDivisionError(f"division of {CANARY}")
    result = task()
    assert result["error"]["code"] == "internal" and "ZeroDivisionError in _fake_broker.py, line" in result["msg"]
    assert "report" in result["error"]["hint"]


def test_a_disk_that_is_full_shows_before_the_broker_is_asked(task, monkeypatch):
    def full(_handle, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    task()
    before = everything_in(task.folder)
    monkeypatch.setattr(leasestore.os, "write", full)
    result = task(renew=True)
    assert result["error"]["code"] == "lease_not_stored" and "No space left" in result["msg"] and task.packets == ["create"]
    assert everything_in(task.folder) == before


def test_a_copy_that_cannot_be_written_shows_before_the_broker_is_asked(task):
    (task.folder / "file").write_text("")
    result = task(dest=str(task.folder / "file" / "lease"))
    assert result["error"]["code"] == "lease_not_stored" and task.packets == [] and not task.file.exists()


def break_the_disk(task, monkeypatch):
    """From the moment of the grant nothing can be renamed any more."""
    def fail(_old, _new):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    task.broker.during = lambda: monkeypatch.setattr(leasestore.os, "replace", fail)


def test_a_lease_that_cannot_be_stored_is_given_back(task, monkeypatch):
    break_the_disk(task, monkeypatch)
    result = task()
    assert result["failed"] and result["error"]["code"] == "lease_not_stored"
    assert "granted a tunnel" in result["msg"] and "Read-only file system" in result["msg"] and "given back" in result["msg"]
    assert task.packets == ["create", "delete"] and task.broker.tunnels == {} and everything_in(task.folder) == {}
    assert "ansible_facts" not in result


def test_a_lease_that_can_neither_be_stored_nor_given_back_is_told(task, monkeypatch):
    break_the_disk(task, monkeypatch)
    task.broker.refuse_delete = error_from_status(310)
    assert "could not be given back (server_error)" in task()["msg"]


def test_the_tunnel_of_the_lease_in_force_is_never_given_back(task, monkeypatch):
    task()
    before = everything_in(task.folder)
    break_the_disk(task, monkeypatch)
    result = task(renew=True)
    assert result["failed"] and "still stored" in result["msg"] and task.packets == ["create", "create"]
    assert everything_in(task.folder) == before and task.broker.tunnels


@pytest.mark.parametrize("options", [{}, {"state": "absent"}, {"check_mode": True}])
def test_a_file_that_is_no_lease_is_neither_overwritten_nor_deleted(task, options):
    task.file.parent.mkdir()
    task.file.write_text("root:x:0:0\n")
    result = task(**options)
    assert result["failed"] and result["error"]["code"] == "lease_invalid" and str(task.file) in result["msg"]
    assert task.file.read_text() == "root:x:0:0\n" and task.packets == []


def test_renew_replaces_a_broken_lease(task):
    task.file.parent.mkdir()
    task.file.write_text("{")
    assert task(renew=True)["changed"] is True and leasestore.load(str(task.file)) is not None


@pytest.mark.parametrize("options, code", [
    ({"broker": []}, "invalid_option"), ({"broker": ["a b"]}, "invalid_option"), ({"broker": ["broker.example; reboot"]}, "invalid_option"),
    ({"broker": ["$(id)"]}, "invalid_option"), ({"broker": ["a\nb"]}, "invalid_option"), ({"broker": ["a:99999"]}, "invalid_option"),
    ({"client_ipv4": "::1"}, "invalid_option"), ({"client_ipv4": "127.0.0.1"}, "invalid_request"), ({"client_ipv6": "x"}, "invalid_option"),
    ({"prefix_length": 48}, "invalid_request"), ({"host_type": "router", "prefix_length": 129}, "invalid_request"),
    ({"host_type": "router", "dns_servers": ["a;b"]}, "invalid_request"), ({"proxy": True}, "invalid_request"),
    ({"proxy": True, "mode": "v6udpv4", "client_ipv4": "192.0.2.1"}, "invalid_request"), ({"keepalive_interval": 0}, "invalid_request"),
    ({"username": None}, "credentials_missing"), ({"password": None}, "credentials_missing"), ({"deadline": 0}, "invalid_option"),
    ({"source_address": "eth0"}, "invalid_option"), ({"source_port": 70000}, "invalid_option"), ({"server_key": "%%"}, "invalid_option"),
    ({"password": None, "password_file": "/does/not/exist"}, "password_unreadable"), ({"min_interval": -1}, "invalid_option")])
@pytest.mark.parametrize("check_mode", [False, True])
def test_options_of_no_sense_are_refused_before_a_packet(task, options, code, check_mode):
    result = task(check_mode=check_mode, **options)
    assert result["failed"] and result["error"]["code"] == code and result["error"]["kind"] == "local"
    assert task.packets == [] and everything_in(task.folder) == {}


def test_every_option_reaches_the_exchange(task):
    task(broker=["a.example", "[2001:db8::1]:3654"], auth_method="plain", allow_plaintext=True, strict=True, server_key_policy="accept_new",
         known_keys_file="/keys", source_address="192.0.2.5", source_interface="eth7", source_port=4000, deadline=7.5, transport="udp",
         min_interval=9.0, always_use_same_server=True)
    (_what, options), = task.broker.asked
    assert options.brokers == ("a.example", "[2001:db8::1]:3654") and options.credentials.password == CANARY
    assert (options.auth_method, options.allow_plaintext, options.strict, options.server_key_policy, options.known_keys_file) == (
        "plain", True, True, "accept_new", "/keys")
    assert (options.source_address, options.source_interface, options.source_port, options.deadline, options.transports) == (
        "192.0.2.5", "eth7", 4000, 7.5, "udp")
    assert (options.min_interval, options.always_use_same_server, options.state_dir) == (9.0, True, str(task.folder / "state"))


def test_known_keys_live_in_the_state_folder_unless_told(task):
    task()
    assert task.broker.asked[0][1].known_keys_file == str(task.folder / "state" / "tsp-known-keys.txt")


def test_for_a_device_the_request_is_a_proxys(task):
    task.place = {"identity": "r1", "for_another": True, "keep_mode": True}
    result = task(client_ipv4="192.0.2.7")
    assert task.broker.requests[0].proxy is True and task.broker.requests[0].client_ipv4 == IPv4Address("192.0.2.7")
    assert task.broker.asked[0][1].identity == "r1" and result["changed"]
    os.chmod(task.file, 0o644)
    task(client_ipv4="192.0.2.7", renew=True)
    assert os.stat(task.file).st_mode & 0o777 == 0o644
    assert "client_ipv4" in task()["msg"]


def test_the_password_may_come_from_a_file(task):
    secret = task.folder / "password"
    secret.write_text(CANARY + "\r\nnot this\n")
    secret.chmod(0o600)
    assert task(password=None, password_file=str(secret))["warnings"] == []
    assert task.broker.asked[0][1].credentials.password == CANARY
    secret.chmod(0o640)
    assert "chmod 600" in task(password=None, password_file=str(secret), renew=True)["warnings"][0]
    for content in (b"", b"\nsecond\n", b"\xff\n"):
        secret.write_bytes(content)
        assert task(password=None, password_file=str(secret), renew=True)["error"]["code"] == "password_unreadable"
    secret.write_text("x")


def test_lease_path_of_a_target_follows_the_name():
    assert target_place({"name": "wan2"}).lease_file == "/etc/ansible/facts.d/wan2.fact"
    assert target_place({"name": "wan2", "lease_file": "/x/y"}).lease_file == "/x/y"
    assert Path(target_place({"name": "tsp"}).state_dir).is_absolute()


def test_two_tunnels_of_a_host_do_not_share_what_is_remembered():
    identities = {ask.target_place({"name": name}).identity for name in ("tsp", "wan2")} | {
        ask.identity_of("r1", name) for name in ("tsp", "wan2")}
    assert identities == {"", "wan2", "r1", "r1 wan2"}
