# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the controller comes back to confirm a change, whatever becomes of its connection and of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.tunnelbroker.tsp.plugins.action import apply_config

DONE = {"changed": True, "steps": ["change /etc/example"], "proof": None, "recovered": False}
CONFIRMED = {"changed": True, "steps": [], "proof": None, "recovered": False, "confirmed": True}
LOST = AnsibleConnectionFailure("the connection broke")


class Connection(MagicMock):
    """One that can be reset."""

    resets = 0

    def reset(self) -> None:
        Connection.resets += 1


def run(monkeypatch: pytest.MonkeyPatch, answers: list[Any], timeout: Any = 60,
        check: bool = False, files: Sequence[dict[str, Any]] = ()) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the plugin returns, and the arguments of each call of the module, which answers so (an error: it is raised). The last answer
    is given for ever, while the clock goes on."""
    now = [0.0]
    asked: list[dict[str, Any]] = []
    left = list(answers)
    Connection.resets = 0

    def execute(_self: Any, module_args: dict[str, Any], **_options: Any) -> dict[str, Any]:
        asked.append(dict(module_args))
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(apply_config.ActionModule, "_execute_module", execute)
    monkeypatch.setattr(apply_config.time, "sleep", sleep)
    monkeypatch.setattr(apply_config.time, "monotonic", lambda: now[0])
    task = MagicMock(check_mode=check, async_val=0, args={"name": "t", "confirm_timeout": timeout, "files": list(files)})
    plugin = apply_config.ActionModule(task, Connection(), MagicMock(), MagicMock(), MagicMock(), MagicMock())
    return plugin.run(task_vars={}), asked


def test_it_comes_back_over_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = run(monkeypatch, [{**DONE, "unconfirmed": 60.0}, CONFIRMED])
    assert result["confirmed"] and result["steps"] == DONE["steps"] and "unconfirmed" not in result
    assert [call.get("confirm_phase") for call in asked] == [None, "confirm"] and Connection.resets == 1
    assert asked[0]["confirm_token"] == asked[1]["confirm_token"] and len(asked[0]["confirm_token"]) == 32


@pytest.mark.parametrize("answer", [DONE, {**DONE, "changed": False}, {"failed": True, "msg": "no", "unconfirmed": 60.0}])
def test_where_nothing_waits_nothing_is_confirmed(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    result, asked = run(monkeypatch, [answer])
    assert len(asked) == 1 and "confirmed" not in result and result.get("changed") is answer.get("changed")


def test_it_tries_again_until_it_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = {"failed": True, "msg": "busy", "error": {"code": "busy"}}
    result, asked = run(monkeypatch, [{**DONE, "unconfirmed": 60.0}, LOST, {"failed": True, "msg": "MODULE FAILURE"}, busy, CONFIRMED])
    assert result["confirmed"] and not result.get("failed") and len(asked) == 5 and Connection.resets == 4


def test_a_change_whose_answer_was_lost_is_confirmed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = run(monkeypatch, [LOST, LOST, CONFIRMED])
    assert result["confirmed"] and result["changed"] and asked[0]["confirm_token"] == asked[2]["confirm_token"]


def test_what_the_host_has_undone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    undone = {"failed": True, "changed": False, "msg": "Nobody confirmed.", "error": {"code": "undone"}}
    result, asked = run(monkeypatch, [{**DONE, "unconfirmed": 60.0}, undone])
    assert result["failed"] and result["error"]["code"] == "undone" and not result["changed"] and len(asked) == 2


def test_it_gives_up_before_the_host_does_and_says_what_becomes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = run(monkeypatch, [{**DONE, "unconfirmed": 60.0}, LOST])
    assert result["failed"] and result["error"]["code"] == "not_confirmed" and not result["changed"]
    assert "the connection broke" in result["msg"] and "puts back" in result["msg"] and 30 < len(asked) < 60


def test_a_host_that_was_never_reached_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="the connection broke.*puts back"):
        run(monkeypatch, [LOST])


@pytest.mark.parametrize(("timeout", "check"), [(0, False), ("0", False), (None, False), ("soon", False), (60, True)])
def test_without_a_timer_a_lost_connection_is_just_that(monkeypatch: pytest.MonkeyPatch, timeout: Any, check: bool) -> None:
    with pytest.raises(AnsibleConnectionFailure, match="^the connection broke$"):
        run(monkeypatch, [LOST], timeout, check)


def test_secrets_travel_in_an_option_that_no_host_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a character at its end that a log would show in another form, Ansible does not find the secret there any more."""
    files = [{"path": "/etc/a", "content": "one"}, {"path": "/etc/s", "secret_content": "swordfish\n", "mode": "0600"}]
    _result, asked = run(monkeypatch, [{**DONE, "unconfirmed": 60.0}, CONFIRMED], files=files)
    assert len(asked) == 2
    for call in asked:
        assert call["files"] == [files[0], {"path": "/etc/s", "mode": "0600"}] and call["secrets"] == {"1": "swordfish\n"}


def test_a_file_with_two_contents_is_left_for_the_module_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [{"path": "/etc/a", "content": "one", "secret_content": "two"}]
    assert run(monkeypatch, [DONE], files=files)[1][0]["files"] == files
