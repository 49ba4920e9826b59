# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's configuration: everything that is wrong is named at once, and the password is nobody else's to read."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.config import load, parse, read_password
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import AgentConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.ask import target_place
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError

MINIMAL: dict[str, Any] = {"request": {"mode": "v6udpv4"}, "broker": {"brokers": ["broker.example"], "auth_method": "anonymous"}}


def wrong(data: dict[str, Any]) -> str:
    with pytest.raises(LocalError) as caught:
        parse(data)
    assert caught.value.code == "config_invalid"
    return caught.value.message


def test_defaults() -> None:
    config = parse(MINIMAL)
    assert (config.name, config.device, config.lease_file) == ("tsp", "tsp0", "/etc/ansible/facts.d/tsp.fact")
    assert (config.link.mtu, config.link.default_route, config.link.metric, config.link.forwarding) == ("auto", "metric", 2048, None)
    assert (config.link.link_mtu, config.link.data_plane) == ("auto", "auto")
    assert config.options.credentials is None and config.options.state_dir == "/var/lib/tsp"
    assert config.runtime_file("pid") == "/run/tsp/tsp.pid"
    two = parse({**MINIMAL, "name": "two"})
    assert two.lease_file == "/etc/ansible/facts.d/two.fact"
    # what is remembered of each tunnel, such as its last server, is shared with the module, and with no other tunnel
    assert [one.options.identity for one in (config, two)] == [target_place({"name": name}).identity for name in ("tsp", "two")]


def test_nulls_and_empty_texts_are_defaults() -> None:
    data = json.loads(json.dumps(MINIMAL))
    data["broker"].update(username="", password_file="", server_key=None, source_address="", known_keys_file="")
    data["link"] = {"forwarding": None, "mtu": "auto", "lan_interfaces": None}
    data["keepalive"] = {"longest_interval": None}
    assert parse(data) == parse(MINIMAL)


def test_everything_wrong_is_named() -> None:
    message = wrong({"name": "../x", "device": "a/b", "colour": 1, "log_level": "loud", "lease_file": "relative",
                     "request": {"mode": "v9", "shape": 1}, "keepalive": {"longest_interval": 0},
                     "broker": {"brokers": [], "auth_method": "magic", "deadline": "soon", "strict": "yes", "hint": 1},
                     "link": {"mtu": 10, "default_route": "always", "lan_interfaces": ["a b", 7], "metric": True, "speed": 1}})
    for part in ("name is '../x'", "device is 'a/b'", "colour is not known", "log_level is 'loud'", "lease_file is 'relative'",
                 "request.shape is not known", "'v9' is unknown", "keepalive.longest_interval is 0", "broker.brokers is missing",
                 "broker.auth_method is 'magic'", "broker.deadline is 'soon'", "broker.strict is neither", "broker.hint is not known",
                 "link.mtu is 10", "link.default_route is 'always'", "holds 'a b'", "holds 7", "link.metric is True",
                 "link.speed is not known"):
        assert part in message


@pytest.mark.parametrize(("change", "part"), [
    ({"request": {}}, "request is missing"), ({"request": []}, "request is not an object"),
    ({"request": {"mode": "v6v4", "proxy": True}}, "proxy"), ({"broker": {"brokers": "broker.example"}}, "brokers is not a list"),
    ({"broker": {"brokers": ["bro ker"], "auth_method": "anonymous"}}, "bro ker"),
    ({"broker": {"brokers": ["broker.example"]}}, "needs a username and a password"),
    ({"link": {"mtu": "big"}}, "link.mtu is 'big'"), ({"link": {"link_mtu": 10}}, "link.link_mtu is 10"),
    ({"link": {"data_plane": "kernel"}}, "link.data_plane is 'kernel'; it can be auto, fou, tun"),
    ({"name": "x\ny"}, "name is not a line of text")])
def test_one_thing_wrong(change: dict[str, Any], part: str) -> None:
    assert part in wrong({**MINIMAL, **change})


FULL: dict[str, Any] = {
    "keepalive": {"longest_interval": 20, "misses": 5, "probe_nat": True},
    "retry": {"first_delay": 2, "longest_delay": 60, "auth_tries": 1, "reconnect": False},
    "hooks": {"script": "/etc/tsp/up", "script_sets_up": True, "lease": "/etc/tsp/lease", "home_dir": "/usr/local/gw6c", "timeout": 5},
    "log": {"stderr": 3, "console": 1, "file": 2, "syslog": 1, "filename": "/var/log/tsp.log", "rotation": False, "rotation_size": 128,
            "rotation_delete": True, "syslog_facility": "LOCAL3"},
    "metrics": {"textfile": "/var/lib/node_exporter/tsp.prom", "listen": "[::1]:9653"},
    "roaming": False, "renew_at": 0.5, "user": "tsp", "devices": {"v6v4": "sit1"}}


def test_every_value_has_its_place() -> None:
    config = parse({**MINIMAL, **FULL, "broker": {**MINIMAL["broker"], "brokers": ["a.example", "b.example"], "preferred": "b.example:3653",
                                                  "return_after": 600, "choose": "nearest"}})
    for section in ("keepalive", "retry", "hooks", "log", "metrics"):
        assert vars(getattr(config, section)) == FULL[section], section
    assert (config.roaming, config.renew_at, config.user) == (False, 0.5, "tsp")
    assert (config.device_of("v6v4"), config.device_of("v4v6")) == ("sit1", "tsp0")
    assert (config.preferred, config.return_after, config.options.choose) == ("b.example:3653", 600, "nearest")
    assert not [f.name for f in fields(AgentConfig) if getattr(config, f.name) == getattr(parse(MINIMAL), f.name)
                and f.name not in ("name", "device", "request", "link", "lease_file", "state_dir", "runtime_dir", "log_level", "radvd",
                                   "warnings")], "a field that nothing sets"


@pytest.mark.parametrize(("change", "part"), [
    ({"keepalive": {"misses": 0}}, "keepalive.misses is 0"),
    ({"keepalive": {"misses": 2.5}}, "it must be a whole number from 1 to 100"),
    ({"keepalive": {"probe_nat": 1}}, "keepalive.probe_nat is neither"),
    ({"retry": {"first_delay": 0}}, "retry.first_delay is 0"), ({"retry": {"first_delay": 9, "longest_delay": 3}}, "less than first_delay"),
    ({"retry": {"auth_tries": 0}}, "retry.auth_tries"), ({"retry": {"tries": 1}}, "retry.tries is not known"),
    ({"hooks": {"script": "up.sh"}}, "hooks.script is 'up.sh'; it must be an absolute path"),
    ({"link": {"metric": 2048.5}}, "it must be a whole number"), ({"link": {"mtu": 1280.5}}, "it must be a whole number"),
    ({"link": {"data_plane": "fou"}, "hooks": {"script": "/up", "script_sets_up": True}}, "a program that sets up gets a TUN device"),
    ({"hooks": {"script_sets_up": True}}, "there is no script"), ({"hooks": {"timeout": 0}}, "hooks.timeout is 0"),
    ({"log": {"file": 1}}, "log.file is 1, but there is no filename"), ({"log": {"stderr": 4}}, "log.stderr is 4"),
    ({"log": {"console": True}}, "log.console is True"), ({"log": {"rotation_size": 64}}, "it can be 16, 32, 128, 1024"),
    ({"log": {"syslog_facility": "MAIL"}}, "it can be USER, LOCAL0"), ({"metrics": {"textfile": "/x/tsp.txt"}}, "*.prom"),
    ({"metrics": {"listen": "0.0.0.0:9653"}}, "loopback"), ({"metrics": {"listen": "127.0.0.1"}}, "loopback"),
    ({"metrics": {"listen": "127.0.0.1:0"}}, "loopback"), ({"metrics": {"listen": "localhost:9653"}}, "loopback"),
    ({"renew_at": 1}, "renew_at is 1"), ({"roaming": "yes"}, "roaming is neither"), ({"user": "a b"}, "user is 'a b'"),
    ({"devices": {"v6anyv4": "x"}}, "devices.v6anyv4 is not known"), ({"devices": {"v6v4": "a/b"}}, "devices.v6v4 is 'a/b'"),
    ({"broker": {**MINIMAL["broker"], "preferred": "other.example"}}, "preferred is 'other.example', which is none of"),
    ({"broker": {**MINIMAL["broker"], "choose": "any"}}, "choose is 'any'; it can be order, nearest"),
    ({"radvd": []}, "radvd is not an object")])
def test_one_new_thing_wrong(change: dict[str, Any], part: str) -> None:
    assert part in wrong({**MINIMAL, **change})


def test_a_credential_of_systemd(tmp_path: Path) -> None:
    data: dict[str, Any] = {**MINIMAL, "broker": {"brokers": ["broker.example"], "username": "alice", "credential": "tsp.secret"}}
    (tmp_path / "tsp.secret").write_text("sword\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    for mode in (0o400, 0o440):  # the mask of an access list stands where the rights of a group do
        (tmp_path / "tsp.secret").chmod(mode)
        assert parse(data, environ=environ).options.credentials.password == "sword"
    for mode in (0o404, 0o460):
        (tmp_path / "tsp.secret").chmod(mode)
        with pytest.raises(LocalError) as caught:
            parse(data, environ=environ)
        assert caught.value.code == "password_exposed"
    for given, change, part in (({}, {}, "CREDENTIALS_DIRECTORY"), (environ, {"password_file": "/x"}, "only one of them"),
                                (environ, {"credential": "../x"}, "credential is '../x'")):
        with pytest.raises(LocalError) as caught:
            parse({**data, "broker": {**data["broker"], **change}}, environ=given)
        assert part in caught.value.message


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "tsp.json"
    for text in ("{", "[]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(LocalError) as caught:
            load(str(path))
        assert caught.value.code == "config_invalid" and str(path) in caught.value.message
    with pytest.raises(LocalError) as caught:
        load(str(tmp_path / "none"))
    assert caught.value.code == "config_unreadable"


def test_the_password(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sword\u00e9fish \r\nsecond line\n")
    secret.chmod(0o600)
    assert read_password(str(secret)) == "sword\u00e9fish "
    data = json.loads(json.dumps(MINIMAL))
    data["broker"].update(auth_method="digest-md5", username="alice", password_file=str(secret))
    config = parse(data)
    assert config.options.credentials.password == "sword\u00e9fish " and "fish" not in repr(config)
    for mode in (0o604, 0o640, 0o644, 0o620):
        secret.chmod(mode)
        with pytest.raises(LocalError) as caught:
            read_password(str(secret))
        assert caught.value.code == "password_exposed" and "chmod 600" in caught.value.hint and "fish" not in str(caught.value)
    secret.chmod(0o600)
    for content in (b"\n", b"", b"\xff\xfe\n"):
        secret.write_bytes(content)
        with pytest.raises(LocalError) as caught:
            read_password(str(secret))
        assert caught.value.code == "password_unreadable"
