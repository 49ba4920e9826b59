# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rights that were given up are gone, and what cannot be given up is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import confine
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError

ROOT = Path(__file__).resolve().parents[5]
CHILD = """
import json, os, socket, sys
sys.path.insert(0, sys.argv[2])
from module_utils._agent import confine
from module_utils._tsp.errors import LocalError
try:
    for arguments in json.loads(sys.argv[1]):
        lacks = confine.drop(*arguments)
except LocalError as exc:
    sys.stdout.write(json.dumps({"code": exc.code, "message": exc.message, "hint": exc.hint}))
    raise SystemExit
def can(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        return False
    return True
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
sys.stdout.write(json.dumps({
    "lacks": lacks, "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
    "shadow": can(open, "/etc/shadow"), "raw": can(socket.socket, 2, 3, 1), "hostname": can(os.chown, "/etc/passwd", 0, 0),
    "capabilities": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")], "bounding": int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip()}))
"""


def child(*drops: list[Any]) -> dict[str, Any]:
    """What a process that dropped its rights, once or several times, can do."""
    done = subprocess.run([sys.executable, "-B", "-c", CHILD, json.dumps(drops), str(ROOT / "plugins")], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.root
def test_the_rights_of_root_are_gone_for_good() -> None:
    import pwd

    nobody = pwd.getpwnam("nobody")
    left = child(["nobody"])
    assert left["uid"] == [nobody.pw_uid] * 3 and left["gid"] == [nobody.pw_gid] * 3
    assert left["groups"] == [nobody.pw_gid]
    assert not left["shadow"] and not left["raw"] and not left["hostname"]
    assert left["capabilities"] == [0, 0, 0, 0] and left["bounding"] == 0
    assert left["no_new_privileges"] == "1"
    assert left["lacks"] == []


@pytest.mark.root
def test_a_group_that_is_to_stay_stays_and_no_other() -> None:
    import grp
    import pwd

    wanted = grp.getgrall()[2]
    assert sorted(child([str(pwd.getpwnam("nobody").pw_uid), [wanted.gr_name]])["groups"]) == \
        sorted({wanted.gr_gid, pwd.getpwnam("nobody").pw_gid})


@pytest.mark.root
@pytest.mark.parametrize(("user", "why"), [("no-such-user-here", "there is no user no-such-user-here"), ("root", "root is root"),
                                           ("0", "0 is root")])
def test_a_user_that_cannot_be_is_refused_with_what_to_do(user: str, why: str) -> None:
    said = child([user])
    assert said["code"] == "cannot_drop" and why in said["message"] and "user" in said["hint"]


@pytest.mark.root
def test_one_who_is_not_root_can_become_nobody_else_but_stays_with_less() -> None:
    import pwd

    other = next(entry.pw_name for entry in pwd.getpwall() if entry.pw_uid not in (0, pwd.getpwnam("nobody").pw_uid))
    assert "only root can become" in child(["nobody"], [other])["message"]
    assert child(["nobody"], ["nobody"])["no_new_privileges"] == "1"


def test_a_kernel_that_would_let_us_back_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine.os, "getresuid", lambda: (65534, 65534, 65534), raising=False)
    monkeypatch.setattr(confine.os, "getresgid", lambda: (65534, 65534, 65534), raising=False)
    monkeypatch.setattr(confine.os, "getgroups", lambda: [65534])
    monkeypatch.setattr(confine.os, "setuid", lambda _uid: None)
    with pytest.raises(LocalError, match="become root again"):
        confine._verify(65534, {65534})
    monkeypatch.setattr(confine.os, "getresuid", lambda: (65534, 65534, 0), raising=False)
    with pytest.raises(LocalError, match="kept the user"):
        confine._verify(65534, {65534})


class Library:
    """A C library that notes its calls."""

    def __init__(self, answer: int = 0) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._answer = answer

    def pledge(self, *arguments: Any) -> int:
        self.calls.append(("pledge", *arguments))
        return self._answer

    def unveil(self, *arguments: Any) -> int:
        self.calls.append(("unveil", *arguments))
        return self._answer


def test_openbsd_sees_its_paths_then_the_end_of_them_then_the_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(confine, "_libc", lambda: library)
    assert confine.confine([("/var/db/tsp", "rwc"), ("/etc/resolv.conf", "r")], "stdio inet", "openbsd7") == ()
    assert library.calls == [("unveil", b"/var/db/tsp", b"rwc"), ("unveil", b"/etc/resolv.conf", b"r"), ("unveil", None, None),
                             ("pledge", b"stdio inet", None)]


def test_a_refusal_of_openbsd_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "_libc", lambda: Library(-1))
    with pytest.raises(LocalError, match="unveil: "):
        confine.confine([("/var/db/tsp", "rwc")], platform="openbsd7")
    with pytest.raises(LocalError, match="pledge: "):
        confine.pledge("stdio", "openbsd7")


@pytest.mark.parametrize("platform", ["linux", "freebsd14", "netbsd10", "darwin"])
def test_other_systems_say_that_they_have_neither(platform: str) -> None:
    assert not confine.pledge("stdio", platform) and not confine.unveil([("/tmp", "r")], platform)
    assert "neither pledge nor unveil" in confine.confine([], platform=platform)[0]
