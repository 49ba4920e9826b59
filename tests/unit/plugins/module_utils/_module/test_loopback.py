# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tasks against our broker over real loopback sockets."""

from __future__ import annotations

import json

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import INFO_SPEC, TUNNEL_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.ask import Place
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.info_task import run as run_info
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import guarded
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_task import run
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.running import broker_in_thread


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with broker_in_thread(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def task(tmp_path, broker):
    def call(check_mode=False, identity="", **options):
        given = {"broker": [broker.server], "username": "alice", "password": "secret1", "min_interval": 0.0, "deadline": 20.0, **options}
        params = {name: given.get(name, option.get("default")) for name, option in TUNNEL_SPEC.items()}
        place = Place(str(tmp_path / "tsp.fact"), str(tmp_path / "state"), identity=identity, for_another=bool(identity))
        return guarded(lambda: run(params, place, check_mode=check_mode))

    return call


@pytest.mark.parametrize("auth_method", ["digest-md5", "plain", "any", "passdss-3des-1"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_present_again_and_absent_over_a_real_socket(task, tmp_path, auth_method, transport):
    options = {"auth_method": auth_method, "transport": transport, "mode": "v6v4", "server_key_policy": "accept_new"}
    first = task(**options)
    assert not first.get("failed"), first
    assert first["lease"]["username"] == "alice" and first["lease"]["transport"] == transport and first["changed"]
    second = task(**options)
    assert (second["changed"], second["attempts"], second["lease"]) == (False, [], first["lease"])
    gone = task(state="absent", **options)
    assert gone["changed"] and gone["warnings"] == [] and gone["attempts"][0]["result"] == "deleted"
    assert not (tmp_path / "tsp.fact").exists()
    assert task(state="absent", **options)["changed"] is False


def test_a_router_gets_a_prefix_and_another_length_is_a_warning(task):
    result = task(mode="v6udpv4", host_type="router", prefix_length=60)
    assert result["lease"]["prefix"].endswith("/60") and result["lease"]["client"]["udp_port"]
    task(state="absent")


def test_the_fleets_account_asks_for_a_device(task):
    result = task(identity="r1", mode="v6v4", username="fleet", password="secret3", client_ipv4="192.0.2.7", host_type="router")
    assert not result.get("failed"), result
    assert result["lease"]["client"]["ipv4"] == "192.0.2.7" and result["lease"]["request"]["proxy"] is True
    assert task(identity="r1", state="absent", username="fleet", password="secret3")["warnings"] == []


@pytest.mark.parametrize("options, code, status", [
    ({"password": "wrong-Canary-77"}, "auth_failed", 300), ({"username": "nobody"}, "auth_failed", 300),
    ({"username": "gone", "password": "secret4"}, "auth_failed", 300)])
@pytest.mark.parametrize("auth_method", ["digest-md5", "plain"])
def test_who_is_not_let_in_is_told_so_and_the_old_lease_stays(task, tmp_path, options, code, status, auth_method):
    task()
    before = (tmp_path / "tsp.fact").read_text()
    result = task(renew=True, auth_method=auth_method, **options)
    assert result["failed"] and (result["error"]["code"], result["error"]["status"]) == (code, status) and result["error"]["hint"]
    assert (tmp_path / "tsp.fact").read_text() == before and "Canary" not in json.dumps(result)
    task(state="absent")


def test_a_changed_key_is_refused(task, tmp_path):
    options = {"auth_method": "passdss-3des-1", "server_key_policy": "accept_new"}
    task(**options)
    keys = tmp_path / "state" / "tsp-known-keys.txt"
    line = keys.read_text().split()
    first = task(renew=True, auth_method="passdss-3des-1")
    assert first["changed"], first
    keys.write_text(" ".join([line[0], line[1], line[2][:-12] + "A" * 8 + line[2][-4:]]) + "\n")
    result = task(renew=True, **options)
    assert result["error"]["code"] == "server_key_changed" and str(keys) in result["msg"]
    assert task(renew=True, auth_method="passdss-3des-1", known_keys_file=str(tmp_path / "none"))["error"]["code"] == "server_key_unknown"
    assert task(renew=True, auth_method="passdss-3des-1", server_key=line[2])["changed"]
    task(state="absent")


def test_info_asks_nobody_to_log_in_and_creates_nothing(broker):
    before = len(broker.log_lines())
    params = {name: option.get("default") for name, option in INFO_SPEC.items()}
    result = guarded(lambda: run_info({**params, "broker": [broker.server, "127.0.0.1:1"]}))
    here, nobody = result["brokers"]
    assert result["changed"] is False and here["reachable"] and set(here["tunnels"]) == {"v6v4", "v6udpv4", "v4v6"}
    assert {"anonymous", "plain", "digest-md5"} <= set(here["auth_methods"]) and here["version"] == "2.0.2" and here["echo_ms"] >= 0
    assert nobody["reachable"] is False and nobody["error"]["code"] and result["warnings"] == ["127.0.0.1:1 cannot be reached."]
    events = {line["event"] for line in broker.log_lines()[before:]}
    assert not any("auth" in event or "grant" in event for event in events), events


def test_info_with_a_broker_of_no_sense_fails(broker):
    params = {name: option.get("default") for name, option in INFO_SPEC.items()}
    result = guarded(lambda: run_info({**params, "broker": ["a b"]}))
    assert result["failed"] and result["error"]["code"] == "invalid_option"
