# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import TUNNEL_RULES, TUNNEL_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._action import validated

CANARY = "c4nary-Lynx-0815"


def check(**args):
    return validated({"broker": ["broker.example"], **args}, TUNNEL_SPEC, TUNNEL_RULES)


def test_defaults_and_types_are_those_of_the_module():
    params = check(broker="a.example,b.example", renew="yes", prefix_length="48", deadline="7", dest="~/x")
    assert params["broker"] == ["a.example", "b.example"] and params["renew"] is True and params["prefix_length"] == 48
    assert params["deadline"] == 7.0 and not params["dest"].startswith("~") and params["mode"] == "v6anyv4"
    assert set(params) == set(TUNNEL_SPEC)


@pytest.mark.parametrize("args, said", [
    ({"mode": "v7"}, "v6anyv4"), ({"brokr": 1}, "brokr"), ({"prefix_length": "many"}, "prefix_length"),
    ({"password": CANARY, "password_file": "/x"}, "mutually exclusive"), ({"mode": CANARY, "password": CANARY}, "mode")])
def test_what_is_wrong_is_said_without_the_password(args, said):
    with pytest.raises(LocalError) as caught:
        check(**args)
    assert caught.value.code == "invalid_option" and said in caught.value.message
    assert CANARY not in str(caught.value)


def test_who_asks_needs_a_broker_and_who_gives_back_does_not():
    with pytest.raises(LocalError) as caught:
        validated({}, TUNNEL_SPEC, TUNNEL_RULES)
    assert "broker" in caught.value.message
    assert validated({"state": "absent"}, TUNNEL_SPEC, TUNNEL_RULES)["broker"] is None
