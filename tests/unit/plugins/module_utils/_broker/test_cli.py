# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands, as an operator runs them: in a process of their own where it matters."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bundle import BROKER, render
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import build, cli, config
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.store import Store
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker import _packets as make
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker._client import asking
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.running import config_data

PLUGINS = Path(cli.__file__).resolve().parents[2]


def write(folder: Path, **changes: Any) -> Path:
    """A configuration file (JSON is YAML)."""
    file = folder / "broker.yml"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config_data(folder, {"log": {"file": str(folder / "log"), "level": "debug"}, **changes})), encoding="utf-8")
    return file


class Served:
    """`serve` as a process."""

    def __init__(self, file: Path, command: list[str] | None = None) -> None:
        self.log = file.parent / "log"
        self.log.unlink(missing_ok=True)
        self.errors = file.parent / "stderr"
        with open(self.errors, "wb") as errors:
            words = command or [sys.executable, "-m", "module_utils._broker.cli"]
            self.process = subprocess.Popen([*words, "serve", "--config", str(file)],
                                            env={**os.environ, "PYTHONPATH": str(PLUGINS)}, stdin=subprocess.DEVNULL, stderr=errors)
        self.port = self.until("listening")["port"]

    def lines(self, event: str) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        text = self.log.read_text(encoding="utf-8")
        return [line for line in map(json.loads, text[:text.rfind("\n") + 1].splitlines()) if line["event"] == event]

    def until(self, event: str, count: int = 1) -> dict[str, Any]:
        end = time.monotonic() + 60
        while len(found := self.lines(event)) < count:
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < end, f"{event} never came"
            time.sleep(0.02)
        return found[-1]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait()


@contextlib.contextmanager
def serving(file: Path, command: list[str] | None = None) -> Iterator[Served]:
    one = Served(file, command)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def opened(folder: Path) -> None:
    """Wait until the store says that the tunnel is open: it is told some 50 ms after the client. (Of the address it knows before.)"""
    end = time.monotonic() + 60
    with contextlib.closing(Store(folder / "leases.db")) as store:
        while not any(lease.up for lease in store.leases()):
            assert time.monotonic() < end, "no tunnel was opened"
            time.sleep(0.01)


def run(*words: str, stdin: str | None = None, monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    if stdin is not None and monkeypatch is not None:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    return cli.main([*words])


# ---- serve ----

def test_what_was_granted_survives_kill_9(tmp_path: Path) -> None:
    file = write(tmp_path)
    with serving(file) as broker, asking("127.0.0.1", broker.port, mode="v6udpv4", host_type="router") as outcome:
        before, port = outcome.grant, broker.port
        kept = outcome.socket.dup()
        opened(tmp_path)
        assert broker.end(signal.SIGKILL) == -signal.SIGKILL
    write(tmp_path, listen={"port": port})
    with kept, serving(file) as broker:
        assert broker.until("listening")["restored"] == 1
        kept.settimeout(30)
        kept.send(make.ping6(str(before.client.ipv6), "2001:db8:f::1"))
        assert kept.recv(2048)[40] == 129
        with asking("127.0.0.1", broker.port, user="bob", mode="v6udpv4", host_type="router") as other:
            assert other.grant.client.ipv6 != before.client.ipv6 and not other.grant.prefix.overlaps(before.prefix)
        with asking("127.0.0.1", broker.port, mode="v6udpv4", host_type="router") as outcome:
            assert (outcome.grant.client.ipv6, outcome.grant.prefix) == (before.client.ipv6, before.prefix)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: int) -> None:
    with serving(write(tmp_path)) as broker:
        assert broker.end(number) == 0
        assert broker.lines("stopping")[0]["why"] == signal.Signals(number).name and broker.lines("stopped")
        assert not broker.lines("defect")


def test_sighup_takes_over_accounts_and_refuses_nonsense(tmp_path: Path) -> None:
    file = write(tmp_path, accounts=[{"username": "alice", "password": "secret1"}])
    with serving(file) as broker:
        with asking("127.0.0.1", broker.port, user="bob", mode="v6udpv4") as outcome:
            assert outcome.error.status == 300
        write(tmp_path, modes=["v4v6"], redirect={"at": "version", "brokers": ["192.0.2.2"]})
        broker.process.send_signal(signal.SIGHUP)
        assert broker.until("reloaded")["needs_restart"] == ["modes"]
        with asking("127.0.0.1", broker.port, user="bob", mode="v6udpv4") as outcome:
            assert type(outcome.events[-1]).__name__ == "Redirected"
        file.write_text("name: [", encoding="utf-8")
        broker.process.send_signal(signal.SIGHUP)
        assert "line 1" in broker.until("reload_refused")["why"]
        with asking("127.0.0.1", broker.port, user="bob", mode="v6udpv4") as outcome:
            assert type(outcome.events[-1]).__name__ == "Redirected"
        write(tmp_path)
        broker.process.send_signal(signal.SIGHUP)
        broker.until("reloaded", 2)
        with asking("127.0.0.1", broker.port, user="bob", mode="v6udpv4") as outcome:
            assert outcome.grant


def test_the_commands_work_beside_a_running_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    with serving(file) as broker:
        assert run("users", "add", "carol", "--password-stdin", "--config", str(file), stdin="secret9\n", monkeypatch=monkeypatch) == 0
        with asking("127.0.0.1", broker.port, user="carol", password="secret9", mode="v6udpv4") as outcome:
            inner = outcome.grant.client.ipv6
        opened(tmp_path)
        assert run("leases", "list", "--json", "--config", str(file)) == 0
        row, = json.loads(capsys.readouterr().out[len("carol: added\n"):])
        assert (row["user"], row["inside"], row["state"]) == ("carol", str(inner), "up")
        assert run("leases", "release", "carol", "--config", str(file)) == 0
        assert "running broker" in capsys.readouterr().out
        assert "released by the operator" in broker.until("lease_ended")["why"]
        assert run("users", "disable", "carol", "--config", str(file)) == 0
        with asking("127.0.0.1", broker.port, user="carol", password="secret9", mode="v6udpv4") as outcome:
            assert outcome.error.status == 300


def test_a_second_broker_on_the_same_store_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path)
    with serving(file):
        done = subprocess.run([sys.executable, "-m", "module_utils._broker.cli", "serve", "--config", str(file)], stdin=subprocess.DEVNULL,
                              env={**os.environ, "PYTHONPATH": str(PLUGINS)}, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "Another broker is running" in done.stderr and "Traceback" not in done.stderr


# ---- the other commands ----

def test_check_says_what_would_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--config", str(write(tmp_path, redirect={"at": "create", "brokers": ["b2.example:99"]}))) == 0
    text = capsys.readouterr().out
    for words in ("is valid", "127.0.0.1, ::1 port 0 over udp, tcp", "v6v4, v6udpv4, v4v6",
                  "2001:db8:8000::/33 in lengths /48, /56, /60, /64",
                  "4 in the configuration, 0 in the store", "at create to b2.example port 99", "auth.plain is on", "DIGEST-MD5"):
        assert words in text, words
    assert not (tmp_path / "leases.db").exists(), "check made something"


def test_check_of_a_wrong_file_fails_with_the_reasons_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--config", str(write(tmp_path, modes=["v6v5"]))) == 1
    captured = capsys.readouterr()
    assert "Did you mean v6v4?" in captured.err and not captured.out and "Traceback" not in captured.err
    assert run("check", "--config", str(tmp_path / "none")) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_users_from_making_to_removing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path))
    secret = tmp_path / "secret"
    secret.write_text("canary-1\nmore\n", encoding="utf-8")
    assert run("users", "add", "carol", "--password-file", str(secret), "--tunnels", "3", "--proxy", "--config", file) == 0
    assert run("users", "add", "dave", "--password-stdin", "--no-digest", "--ipv6", "2001:db8:f::d", "--config", file, stdin="canary-2",
               monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    assert run("users", "list", "--json", "--config", file) == 0
    text = capsys.readouterr().out
    rows = {row["username"]: row for row in json.loads(text)}
    assert rows["carol"] == {"username": "carol", "enabled": True, "digest": True, "tunnels": 3, "proxy": True, "ipv6": None,
                             "prefix": None, "ipv4": None, "origin": "store"}
    assert rows["dave"]["digest"] is False and rows["dave"]["ipv6"] == "2001:db8:f::d" and rows["alice"]["origin"] == "configuration"
    assert "canary" not in text
    assert b"canary" not in (tmp_path / "leases.db").read_bytes()
    with contextlib.closing(Store(tmp_path / "leases.db")) as store:
        assert store.account("carol").verify("canary-1") and store.account("dave").verify("canary-2")
    assert run("users", "passwd", "carol", "--password-stdin", "--config", file, stdin="canary-3\n", monkeypatch=monkeypatch) == 0
    with contextlib.closing(Store(tmp_path / "leases.db")) as store:
        assert store.account("carol").verify("canary-3") and not store.account("carol").verify("canary-1")
        assert store.account("carol").tunnels == 3
    assert run("users", "remove", "carol", "--config", file) == 0
    assert run("users", "remove", "carol", "--config", file) == 1
    assert "There is no account carol" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "stdin", "expected"), [
    (("add", "alice", "--password-stdin"), "x\n", "stands in the configuration"),
    (("passwd", "alice", "--password-stdin"), "x\n", "stands in the configuration"),
    (("add", "carol", "--password-stdin"), "\n", "cannot be a password"),
    (("add", "carol"), "x\n", "no terminal to ask"),
    (("add", " carol", "--password-stdin"), "x\n", "cannot be a user name"),
    (("add", "carol", "--password-stdin", "--ipv6", "2001:db8:9::1"), "x\n", "not an address for clients"),
    (("add", "carol", "--password-file", "/nonexistent"), "", "cannot be read"),
    (("add", "carol", "--password-stdin", "--tunnels", "0"), "x\n", "must be 1 or more"),
    (("disable", "nobody"), "", "There is no account nobody"),
])
def test_users_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...],
                        stdin: str, expected: str) -> None:
    assert run("users", *words, "--config", str(write(tmp_path)), stdin=stdin, monkeypatch=monkeypatch) == 1
    assert expected in capsys.readouterr().err


def test_a_printed_account_works_in_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    assert run("users", "add", "carol", "--print", "--tunnels", "2", "--password-stdin", "--config", str(file), stdin="secret9\n",
               monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "secret9" not in printed and not (tmp_path / "leases.db").exists()
    (tmp_path / "accounts.yml").write_text(printed, encoding="utf-8")
    (tmp_path / "accounts.yml").chmod(0o600)
    account = config.load(write(tmp_path, accounts_file="accounts.yml")).accounts[-1]
    assert account.username == "carol" and account.tunnels == 2 and account.verify("secret9") and account.ha1("broker.example")


def test_passwords_cannot_be_given_as_arguments() -> None:
    helps = io.StringIO()
    with contextlib.redirect_stdout(helps), pytest.raises(SystemExit):
        cli.main(["users", "add", "--help"])
    assert "--password-stdin" in helps.getvalue() and "--password " not in helps.getvalue()


def test_leases_without_a_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path))
    assert run("leases", "list", "--config", file) == 0
    assert capsys.readouterr().out == "No leases.\n"
    assert run("leases", "release", "7", "--config", file) == 1
    assert "There is no lease 7" in capsys.readouterr().err


def test_the_version_is_the_collections(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"tsp-broker {cli.VERSION}\n"
    assert f"version: {cli.VERSION}\n" in (repository / "galaxy.yml").read_text(encoding="utf-8")


# ---- the one file ----

@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("dist") / "tsp-broker.pyz"
    assert build.main([str(file)]) == 0
    return file


def test_the_pyz_brings_its_libraries_and_their_licences_and_no_compiled_code(pyz: Path) -> None:
    names = zipfile.ZipFile(pyz).namelist()
    assert "yaml/__init__.py" in names and "pyroute2/__init__.py" in names and "licenses/PyYAML/LICENSE" in names
    assert any(name.startswith("licenses/pyroute2/") for name in names)
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    assert render(BROKER, build.trees()) == pyz.read_bytes(), "the same sources gave other bytes"


def test_the_pyz_runs_with_nothing_installed(pyz: Path, tmp_path: Path) -> None:
    bare: list[str] = [sys.executable, "-I", "-S", str(pyz)]
    done = subprocess.run([*bare, "check", "--config", str(write(tmp_path))], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and "cryptography, which is not installed here: it is not offered" in done.stdout, done.stderr
    with serving(tmp_path / "broker.yml", bare) as broker, asking("127.0.0.1", broker.port, mode="v6udpv4") as outcome:
        assert outcome.grant and broker.end() == 0


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find: Callable[..., Any] = build.importlib.util.find_spec
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None if name == "pyroute2" else find(name))
    with pytest.raises(LocalError):
        build.trees()
    assert build.main([str(tmp_path / "x.pyz")]) == 1 and "pyroute2 is not installed" in capsys.readouterr().err
    assert build.main([]) == 2
