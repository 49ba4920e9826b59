# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module import leasestore
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import NOW, lease

HELPER = Path(__file__).with_name("_killed_store.py")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "facts.d" / "tsp.fact")


def test_what_is_saved_is_loaded(path):
    value = lease("v6udpv4", "2001:db8:a::/48")
    leasestore.save(path, value)
    assert leasestore.load(path) == value
    assert json.loads(Path(path).read_text()) == value.to_dict()


def test_the_file_is_private_and_its_folder_is_not_whatever_the_umask(path):
    before = os.umask(0o077)
    try:
        leasestore.save(path, lease())
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o755
    os.chmod(path, 0o644)
    leasestore.save(path, lease())
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_copy_keeps_the_mode_that_somebody_gave_it(path):
    with leasestore.Reservation(path, None) as room:
        room.commit("one\n")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    os.chmod(path, 0o644)
    with leasestore.Reservation(path, None) as room:
        room.commit("two\n")
    assert (Path(path).read_text(), stat.S_IMODE(os.stat(path).st_mode)) == ("two\n", 0o644)


def test_no_file_is_no_lease(path):
    assert leasestore.load(path) is None
    assert leasestore.remove(path) is False


def test_a_renewed_lease_is_the_same_tunnel_and_another_grant_is_not():
    value = lease("v6udpv4")
    renewed = replace(value.with_udp_port(50001), obtained_at=NOW + timedelta(days=1), quirks={"x": 1})
    assert leasestore.same_tunnel(leasestore.lease_text(value), renewed)
    assert not leasestore.same_tunnel(leasestore.lease_text(value), lease("v6udpv4", "2001:db8:a::/48"))
    assert not leasestore.same_tunnel("{", value) and not leasestore.same_tunnel(None, value)


def test_remove_removes(path):
    leasestore.save(path, lease())
    assert leasestore.remove(path) is True and not os.path.exists(path)


@pytest.mark.parametrize("content", [
    b"", b"not json", b"[]", b"null", b'{"schema": 2}', b"\xff\xfe", b'{"schema": 1, "broker": 5}', b"[" * 100000,
    b'{"schema": 1' + b" " * (1 << 20) + b"}"])
def test_a_file_that_holds_no_lease_is_an_error_that_names_it(path, content):
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(content)
    with pytest.raises(LocalError) as caught:
        leasestore.load(path)
    assert caught.value.code == "lease_invalid" and path in caught.value.message and caught.value.hint


@pytest.mark.parametrize("field, value", [
    ("mode", "v5v4"), ("prefix", "2001:db8::1/48"), ("prefix", "192.0.2.0/24"), ("client", None), ("obtained_at", "today"),
    ("broker", "a\nb"), ("via", "a\nb"), ("local_address", "fe80::1%a;b"), ("local_address", 7),
    ("lifetime", -1), ("server", {"ipv4": "::1", "ipv6": "::1"}), ("request", {"mode": "x"}),
    ("lifetime", "60"), ("lifetime", True), ("lifetime", 1e999), ("lifetime", 60.5), ("keepalive", {"interval": "1_0"}),
    ("client", {"ipv4": 3221225985, "ipv6": "2001:db8:f00::2"}), ("client", {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f00::2%;reboot"}),
    ("client", {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f00::2", "udp_port": "٣٠"}),
    ("keepalive", {"interval": 30, "address": "fe80::1%a\nb"}),
    ("client", {"ipv4": "192.0.2.1", "ipv6": "::ffff:192.0.2.9"}), ("prefix", "2001:db8:a::%x\ny/48"), ("quirks", {"x": "1"}),
    ("obtained_at", "9999-12-31T23:59:59Z"), ("request", {"mode": "v6v4", "client_ipv6": "2001:db8::1%x\ny"}),
    ("request", {"mode": "v6v4", "host_type": "router", "prefix_length": 48.5}),
    ("request", {"mode": "v6v4", "host_type": "router", "dns_servers": "ns.example"})])
def test_every_field_is_checked_when_a_lease_is_read(path, field, value):
    data = {**lease("v6v4", "2001:db8:a::/48").to_dict(), field: value}
    os.makedirs(os.path.dirname(path))
    Path(path).write_text(json.dumps(data))
    with pytest.raises(LocalError) as caught:
        leasestore.load(path)
    assert caught.value.code == "lease_invalid"


@pytest.mark.parametrize("bad", ["\0", "{folder}", "{file}/below"])
def test_a_path_of_no_use_is_an_error_before_anything_else(tmp_path, bad):
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError) as caught:
        leasestore.save(bad.format(folder=tmp_path, file=tmp_path / "file"), lease())
    assert caught.value.code == "lease_not_stored"


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_plain_file_is_neither_waited_for_nor_replaced(tmp_path, kind):
    place = tmp_path / "tsp.fact"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/null")
    with pytest.raises(LocalError) as caught:
        leasestore.load(str(place))
    assert caught.value.code == "lease_unreadable" and "plain file" in caught.value.message
    with pytest.raises(LocalError) as caught:
        leasestore.save(str(place), lease())
    assert caught.value.code == "lease_not_stored"
    assert sorted(os.listdir(tmp_path)) == ["tsp.fact"] and stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_is_replaced_and_what_it_points_to_is_left_alone(tmp_path):
    victim, place = tmp_path / "victim", tmp_path / "copy.json"
    victim.write_text("precious\n")
    victim.chmod(0o666)
    place.symlink_to(victim)
    with leasestore.Reservation(str(place), None) as room:
        room.commit("new\n")
    assert victim.read_text() == "precious\n" and place.read_text() == "new\n"
    assert stat.S_IMODE(os.lstat(place).st_mode) == 0o600, "the mode of a file that somebody else put there says nothing"


def test_two_at_once_leave_one_whole_lease(path):
    one, two = lease("v6v4"), lease("v6v4", "2001:db8:a::/48")
    first, second = leasestore.Reservation(path), leasestore.Reservation(path)
    second.commit(leasestore.lease_text(two))
    assert leasestore.load(path) == two
    first.commit(leasestore.lease_text(one))
    assert leasestore.load(path) == one and os.listdir(os.path.dirname(path)) == ["tsp.fact"]


def failing(monkeypatch, name, error, after=0):
    """Let os.`name` fail from its call number `after` on."""
    real, calls = getattr(os, name), []

    def fake(*args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    monkeypatch.setattr(leasestore.os, name, fake)


@pytest.mark.parametrize("name, error, after", [
    ("write", errno.ENOSPC, 0), ("fsync", errno.EIO, 0), ("fchmod", errno.EPERM, 0),
    ("write", errno.ENOSPC, 1), ("lseek", errno.EIO, 0), ("ftruncate", errno.EIO, 0), ("fsync", errno.EDQUOT, 1),
    ("replace", errno.EROFS, 0)])
def test_whatever_fails_the_old_lease_stays_and_nothing_else(path, monkeypatch, name, error, after):
    leasestore.save(path, lease())
    before = Path(path).read_text()
    with monkeypatch.context() as patch:
        failing(patch, name, error, after)
        with pytest.raises(LocalError) as caught:
            leasestore.save(path, lease("v6v4", "2001:db8:a::/48"))
    assert caught.value.code == "lease_not_stored"
    assert os.strerror(error) in caught.value.message and "untouched" in caught.value.message and caught.value.hint
    assert Path(path).read_text() == before
    assert os.listdir(os.path.dirname(path)) == ["tsp.fact"]


def test_a_full_disk_shows_when_room_is_reserved(path, monkeypatch):
    failing(monkeypatch, "write", errno.ENOSPC)
    with pytest.raises(LocalError):
        leasestore.Reservation(path)


def test_short_writes_are_continued(path, monkeypatch):
    real = os.write
    monkeypatch.setattr(leasestore.os, "write", lambda handle, data: real(handle, data[:7]))
    leasestore.save(path, lease())
    assert leasestore.load(path) == lease()


def test_an_abandoned_reservation_leaves_nothing(path):
    leasestore.save(path, lease())
    with pytest.raises(KeyboardInterrupt), leasestore.Reservation(path):
        raise KeyboardInterrupt
    assert leasestore.load(path) == lease() and os.listdir(os.path.dirname(path)) == ["tsp.fact"]


def test_leftovers_of_a_killed_run_are_removed_in_time(path):
    leasestore.save(path, lease())
    folder = Path(path).parent
    for name, age in ((".tsp.fact.abc.tmp", 7200), (".tsp.fact.new.tmp", 0), (".other.fact.abc.tmp", 7200)):
        (folder / name).write_text("half")
        if age:
            os.utime(folder / name, (1, 1))
    leasestore.save(path, lease())
    assert sorted(os.listdir(folder)) == [".other.fact.abc.tmp", ".tsp.fact.new.tmp", "tsp.fact"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_step_the_file_is_the_old_one_or_the_new_one_whole(tmp_path, repository, number):
    done = subprocess.run([sys.executable, str(HELPER), str(repository), str(tmp_path), str(int(number))], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == 0 and result["steps"] > 20
    switch = result["seen"].index("new")
    assert switch > 10
    assert result["seen"] == ["old"] * switch + ["new"] * (len(result["seen"]) - switch)


@pytest.mark.root
def test_a_file_system_that_is_full_keeps_the_old_lease(tmp_path, repository):
    script = (
        "import importlib.util, os, sys\n"
        "spec = importlib.util.spec_from_file_location('conftest', sys.argv[1] + '/tests/conftest.py')\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module import leasestore\n"
        "from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease\n"
        "path = sys.argv[2] + '/tsp.fact'\n"
        "leasestore.save(path, lease())\n"
        "try:\n"
        "    with open(sys.argv[2] + '/ballast', 'wb') as stream:\n"
        "        while stream.write(b'x' * 4096): stream.flush()\n"
        "except OSError: pass\n"
        "try:\n"
        "    leasestore.save(path, lease('v6v4', '2001:db8:a::/48'))\n"
        "except Exception as exc:\n"
        "    print(exc.code, exc.message)\n"
        "assert leasestore.load(path) == lease()\n"
        "print(sorted(os.listdir(sys.argv[2])))\n")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=128k none "$3" && exec "$0" -c "$1" "$2" "$3"', sys.executable, script,
         str(repository), str(tmp_path)], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("lease_not_stored") and "No space left" in done.stdout
    assert done.stdout.splitlines()[-1] == "['ballast', 'tsp.fact']"


@pytest.mark.parametrize(("mode", "left"), [(0o600, []), (None, ["a"])], ids=["of one host", "of a project"])
def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path, mode, left):
    with leasestore.Reservation(str(tmp_path / "a" / "b" / "lease"), mode):
        assert (tmp_path / "a" / "b").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == left


def test_a_folder_in_which_something_is_stays(tmp_path):
    with leasestore.Reservation(str(tmp_path / "a" / "b" / "lease"), 0o600):
        (tmp_path / "a" / "other").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["other"]
