# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The task apply_config: parameters to plan, and the two phases of files of the controller."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import Probe
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.probe import ProbeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.task import SPEC, run
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner


def params(**given: Any) -> dict[str, Any]:
    outcome = ArgumentSpecValidator(SPEC).validate({"name": "x", **given})
    assert not outcome.error_messages, outcome.error_messages
    return outcome.validated_parameters


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def alive(probe: Probe) -> ProbeResult:
    return ProbeResult(True, probe.address, 1.5, 1, 1)


def test_files_and_nothing_else() -> None:
    host = FakeRunner()
    wanted = params(files=[{"path": "/etc/a", "content": "one\n"}, {"path": "/etc/s", "secret_content": "swordfish", "mode": "0600"}],
                    absent_files=["/etc/old"], directories=[{"path": "/var/lib/x", "mode": "0700"}], probe={"address": "2001:db8::1"})
    host.write("/etc/old", b"", 0o644)
    predicted = run(wanted, check_mode=True, runner=host, prober=alive)
    done = run(wanted, runner=host, prober=alive)
    assert predicted["steps"] == done["steps"] == ["make directory /var/lib/x", "create /etc/a", "create /etc/s", "remove /etc/old"]
    assert done["proof"] == {"proved": True, "target": "2001:db8::1", "rtt_ms": 1.5, "sent": 1, "received": 1}
    assert predicted["proof"] is None
    assert host.files["/etc/s"].content == b"swordfish" and host.files["/etc/s"].mode == 0o600
    assert "swordfish" not in json.dumps([predicted, done])
    assert run(wanted, runner=host, prober=alive)["changed"] is False
    gone = run({**wanted, "state": "absent"}, runner=host, prober=alive)
    assert gone["changed"] and not [path for path in host.files if path.startswith("/etc")] and "/var/lib/x" not in host.directories
    assert run({**wanted, "state": "absent"}, runner=host, prober=alive)["changed"] is False


def test_a_secret_that_comes_apart_from_its_file() -> None:
    """As the action plugin sends it: an option that is secret as a whole is in no log."""
    host = FakeRunner()
    wanted = params(files=[{"path": "/etc/a", "content": "one\n"}, {"path": "/etc/s", "mode": "0600"}], secrets={"1": "swordfish\n"})
    done = run(wanted, runner=host, prober=alive)
    assert host.files["/etc/s"].content == b"swordfish\n" and host.files["/etc/a"].content == b"one\n"
    assert "swordfish" not in json.dumps(done) and "(secret, changed)" in json.dumps(done["diff"])
    assert SPEC["secrets"]["no_log"] is True


def test_a_file_of_the_controller_is_asked_for_only_when_it_differs() -> None:
    host = FakeRunner()
    first = params(files=[{"path": "/etc/a", "checksum": sha(b"new")}, {"path": "/etc/b", "content": "b"}])
    asked = run(first, runner=host, prober=alive)
    assert asked["need"] == ["/etc/a"] and asked["changed"] and host.files == {}, "nothing is done before all is at hand"
    host.write("/var/sent", b"new", 0o600)
    second = params(files=[{"path": "/etc/a", "checksum": sha(b"new"), "src": "/var/sent"}, {"path": "/etc/b", "content": "b"}])
    assert "need" not in run(second, runner=host, prober=alive)
    assert host.files["/etc/a"].content == b"new"
    assert run(first, runner=host, prober=alive)["changed"] is False
    third = params(files=[{"path": "/etc/a", "checksum": sha(b"new"), "mode": "0755"}])
    assert run(third, runner=host, prober=alive)["steps"] == ["set mode and owner of /etc/a", "remove /etc/b"], "no longer named"
    host.write("/var/sent", b"damaged", 0o600)
    with pytest.raises(LocalError) as caught:
        run(params(files=[{"path": "/etc/c", "checksum": sha(b"new"), "src": "/var/sent"}]), runner=host, prober=alive)
    assert caught.value.code == "copy_damaged"


def test_a_file_that_belongs_to_one_manager_only() -> None:
    wanted = params(files=[{"path": "/etc/systemd/system/x.service", "content": "[Service]\n", "only_with": "systemd"},
                           {"path": "/etc/a", "content": "a"}],
                    service={"name": "x.service", "argv": ["/usr/prog"], "pid_file": "/run/x.pid"})
    bare = FakeRunner()

    def start(argv: Any) -> tuple[int, str, str]:
        bare.processes[9] = tuple(argv)
        bare.write("/run/x.pid", b"9", 0o644)
        return 0, "", ""

    bare.handlers["/usr/prog"] = start
    assert "create /etc/systemd/system/x.service" not in run(wanted, runner=bare, prober=alive)["steps"]
    host = FakeRunner().with_systemd()
    assert "create /etc/systemd/system/x.service" in run(wanted, runner=host, prober=alive)["steps"]
    assert host.units["x.service"] == {"active": True, "enabled": True}
    assert run({**wanted, "state": "absent"}, runner=host, prober=alive)["changed"] and not host.units["x.service"]["enabled"]
    assert "/etc/systemd/system/x.service" not in host.files


def test_owners_are_looked_up_before_anything_is_done() -> None:
    host = FakeRunner()
    with pytest.raises(ApplyError) as caught:
        run(params(files=[{"path": "/etc/a", "content": "a"}, {"path": "/etc/b", "content": "b", "owner": "nobody-here"}]), runner=host,
            prober=alive)
    assert caught.value.code == "no_such_user" and host.files == {}
    run(params(files=[{"path": "/etc/a", "content": "a", "owner": "7", "group": "8"}]), runner=host, prober=alive)
    assert (host.files["/etc/a"].uid, host.files["/etc/a"].gid) == (7, 8)


@pytest.mark.parametrize(("given", "word"), [
    ({"files": [{"path": "/etc/a"}]}, "no content"), ({"files": [{"path": "/etc/a", "content": "", "mode": "rw"}]}, "octal"),
    ({"files": [{"path": "/etc/a", "content": "", "mode": "77777"}]}, "octal"), ({"files": [{"path": "etc/a", "content": ""}]}, "absolute"),
    ({"state_dir": "here"}, "absolute"), ({"probe": {"address": "router.example"}}, "not an address"),
    ({"service": {"name": "x", "manager": "none"}}, "no command")])
def test_what_makes_no_sense_is_named(given: dict[str, Any], word: str) -> None:
    with pytest.raises(LocalError) as caught:
        run(params(**given), runner=FakeRunner(), prober=alive)
    assert caught.value.code == "invalid_plan" and word in caught.value.message


def test_a_mode_without_quotes_is_what_it_looks_like() -> None:
    """YAML makes 416 of 0640; read as octal digits that would be open to all."""
    host = FakeRunner()
    run(params(files=[{"path": "/etc/a", "secret_content": "x", "mode": 0o640}], directories=[{"path": "/etc/d", "mode": 0o750}]),
        runner=host, prober=alive)
    assert host.files["/etc/a"].mode == 0o640 and host.directory_mode("/etc/d") == 0o750
