# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's configuration: everything that is wrong is named at once, and the password is nobody else's to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.config import load, parse, read_password
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
