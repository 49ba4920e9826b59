# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The log tells what was asked for where it was asked for, never a password, and stops nobody."""

from __future__ import annotations

import io
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import logplaces, logs
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import AgentConfig, LogConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.transcript import Transcript
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest

SECRET = "canary-of-the-logs"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    log = logging.getLogger(logs.PROGRAM)
    logs.close(log)
    log.propagate = True
    log.setLevel(logging.NOTSET)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
    return stream


def config(tmp_path: Path, log_level: str = "info", **log: Any) -> AgentConfig:
    return AgentConfig("tsp", "tsp0", TunnelRequest(), ExchangeOptions(("broker.example",), credentials=Credentials("alice", SECRET)),
                       log=LogConfig(**log), log_level=log_level, runtime_dir=str(tmp_path))


def tell_all(log: logging.Logger) -> None:
    log.error("error")
    log.warning("warning")
    log.log(logs.NOTICE, "up")
    log.info("info")
    log.debug("debug")
    tell = logs.exchange(log)
    if tell is not None:
        tell("C>S VERSION=2.0.1\r\n")


EVERYTHING = ["E: error", "W: warning", "I: up", "I: info", "I: debug", "I: C>S VERSION=2.0.1"]


@pytest.mark.parametrize(("level", "count"), [(0, 0), (1, 3), (2, 4), (3, 6)])
def test_the_levels_of_the_guide(tmp_path: Path, stderr: io.StringIO, level: int, count: int) -> None:
    log = logs.set_up(config(tmp_path, stderr=level), foreground=True)
    tell_all(log)
    assert stderr.getvalue().splitlines() == EVERYTHING[:count]
    assert (logs.exchange(log) is not None) == (level == 3)


@pytest.mark.parametrize(("name", "count"), [("error", 1), ("warning", 2), ("info", 4), ("debug", 6)])
def test_the_levels_of_log_level(tmp_path: Path, stderr: io.StringIO, name: str, count: int) -> None:
    tell_all(logs.set_up(config(tmp_path, name), foreground=True))
    assert stderr.getvalue().splitlines() == EVERYTHING[:count]


def test_each_place_has_a_level_of_its_own(tmp_path: Path, stderr: io.StringIO) -> None:
    tell_all(logs.set_up(config(tmp_path, stderr=1, file=3, filename=str(tmp_path / "gw6c.log")), foreground=True))
    assert stderr.getvalue().splitlines() == EVERYTHING[:3]
    lines = (tmp_path / "gw6c.log").read_text().splitlines()
    assert [re.sub(r"\A\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in lines] == EVERYTHING
    assert all(len(line) > len(short) for line, short in zip(lines, EVERYTHING))
    assert (tmp_path / "gw6c.log").stat().st_mode & 0o007 == 0


def test_in_the_background_stderr_is_a_file(tmp_path: Path, stderr: io.StringIO) -> None:
    tell_all(logs.set_up(config(tmp_path), foreground=False))
    assert stderr.getvalue() == "" and len((tmp_path / "tsp.log").read_text().splitlines()) == 4
    (tmp_path / "tsp.log").unlink()
    tell_all(logs.set_up(config(tmp_path, file=1, filename=str(tmp_path / "other.log")), foreground=False))
    assert not (tmp_path / "tsp.log").exists() and len((tmp_path / "other.log").read_text().splitlines()) == 3


def test_the_file_is_moved_before_it_passes_its_size(tmp_path: Path) -> None:
    path = tmp_path / "gw6c.log"
    log = logs.set_up(config(tmp_path, stderr=0, file=2, filename=str(path), rotation_size=16), foreground=True)
    for number in range(600):
        log.info("%05d %s", number, "x" * 80)
    older = sorted(tmp_path.glob("gw6c.log.*"))
    assert len(older) > 2 and all(re.search(r"\.\d{8}-\d{6}(\.\d{3})?\Z", one.name) for one in older)
    assert all(one.stat().st_size <= 16384 for one in [path, *older]) and all(one.stat().st_size > 16000 for one in older)
    assert [line.split()[3] for one in [*older, path] for line in one.read_text().splitlines()] == [f"{n:05d}" for n in range(600)]


def test_older_files_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logplaces, "KEPT", 3)
    (tmp_path / "gw6c.log.of-the-user").touch()
    log = logs.set_up(config(tmp_path, stderr=0, file=2, filename=str(tmp_path / "gw6c.log"), rotation_size=16), foreground=True)
    for _turn in range(1200):
        log.info("%s", "x" * 80)
    assert len([one for one in tmp_path.glob("gw6c.log.*") if one.name != "gw6c.log.of-the-user"]) == 3
    assert (tmp_path / "gw6c.log.of-the-user").exists()


def test_rotation_can_delete_or_be_off(tmp_path: Path) -> None:
    path = tmp_path / "gw6c.log"
    for delete, rotation in ((True, True), (False, False)):
        asked = config(tmp_path, stderr=0, file=2, filename=str(path), rotation_size=16, rotation=rotation, rotation_delete=delete)
        log = logs.set_up(asked, foreground=True)
        for _turn in range(600):
            log.info("%s", "x" * 80)
        assert os.listdir(tmp_path) == ["gw6c.log"] and (path.stat().st_size > 16384) == (not rotation)


def test_a_file_that_vanished_is_made_again(tmp_path: Path, stderr: io.StringIO) -> None:
    path = tmp_path / "logs" / "gw6c.log"
    path.parent.mkdir()
    log = logs.set_up(config(tmp_path, stderr=2, file=2, filename=str(path)), foreground=True)
    log.info("one")
    path.rename(tmp_path / "moved")
    log.info("two")
    assert path.read_text().endswith("I: two\n") and "two" not in (tmp_path / "moved").read_text()
    path.unlink()
    path.parent.rmdir()
    for word in ("three", "four", "five"):
        log.info(word)
    path.parent.mkdir()
    log.info("six")
    assert [line.split(" ", 2)[2] for line in path.read_text().splitlines()] == ["I: 3 messages could not be written here", "I: six"]
    told = [line for line in stderr.getvalue().splitlines() if str(path) in line]
    assert told == [f"E: the log cannot be written to {path}: No such file or directory"], "told once, elsewhere"


def test_a_link_is_not_followed(tmp_path: Path, stderr: io.StringIO) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "gw6c.log").symlink_to(tmp_path / "precious")
    log = logs.set_up(config(tmp_path, stderr=2, file=2, filename=str(tmp_path / "gw6c.log")), foreground=True)
    log.info("one")
    assert (tmp_path / "precious").read_text() == "precious" and "I: one" in stderr.getvalue()


def test_a_full_disk_stops_nobody_and_is_told_once(tmp_path: Path, stderr: io.StringIO) -> None:
    path = tmp_path / "gw6c.log"
    log = logs.set_up(config(tmp_path, stderr=1, file=2, filename=str(path)), foreground=True)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        for number in range(50):
            log.info("line %d", number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    log.info("room again")
    assert len([line for line in stderr.getvalue().splitlines() if "cannot be written" in line]) == 1
    last = path.read_text().splitlines()[-2:]
    assert re.search(r"I: \d\d messages could not be written here\Z", last[0]) and last[1].endswith("I: room again")


def test_a_stderr_that_nobody_reads_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
        log = logs.set_up(config(tmp_path, stderr=2, file=2, filename=str(tmp_path / "gw6c.log")), foreground=True)
        log.info("one")
        log.info("two")
        monkeypatch.undo()
        logs.close(log)
        with pytest.raises(BrokenPipeError):
            stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    text = (tmp_path / "gw6c.log").read_text()
    assert "one" in text and "two" in text and text.count("cannot be written to stderr: Broken pipe") == 1


def test_journald_gets_the_priority_of_each_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "stream", "w+") as stream:
        monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
        found = os.fstat(stream.fileno())
        for journal, expected in ((f"{found.st_dev}:{found.st_ino}", ["<3>error", "<4>warning", "<5>up", "<6>info", "<7>debug"]),
                                  (f"{found.st_dev}:1", EVERYTHING[:5])):
            stream.truncate(0)
            tell_all(logs.set_up(config(tmp_path, stderr=3), True, environ={"JOURNAL_STREAM": journal}))
            assert (tmp_path / "stream").read_text().strip("\0").splitlines()[:5] == expected
            stream.seek(0)


@pytest.fixture
def syslog(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, socket.socket]]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # the path of a socket must be short
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        daemon.bind(f"{folder}/log")
        daemon.settimeout(5)
        made = logplaces.Syslog
        monkeypatch.setattr(logs, "Syslog", lambda facility: made(facility, (f"{folder}/none", f"{folder}/log")))
        yield f"{folder}/log", daemon
        daemon.close()


@pytest.mark.parametrize(("facility", "number"), [("USER", 8), ("LOCAL0", 128), ("LOCAL7", 184)])
def test_syslog(tmp_path: Path, syslog: tuple[str, socket.socket], facility: str, number: int) -> None:
    log = logs.set_up(config(tmp_path, stderr=0, syslog=2, syslog_facility=facility), foreground=True)
    tell_all(log)
    log.warning("two\nlines")
    lines = [syslog[1].recv(4096).decode() for _turn in range(6)]
    expected = [(3, "E: error"), (4, "W: warning"), (5, "I: up"), (6, "I: info"), (4, "W: two"), (4, "W: lines")]
    assert lines == [f"<{number + severity}>tsp-agent[{os.getpid()}]: {text}" for severity, text in expected]


def test_a_syslog_that_is_started_anew_is_found_again(tmp_path: Path, syslog: tuple[str, socket.socket], stderr: io.StringIO) -> None:
    path, daemon = syslog
    log = logs.set_up(config(tmp_path, stderr=2, syslog=2), foreground=True)
    log.info("one")
    daemon.close()
    log.info("lost")
    os.unlink(path)
    log.info("lost")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(path)
        again.settimeout(5)
        log.info("three")
        lines = [again.recv(4096).decode() for _turn in range(2)]
    assert lines[0].endswith("I: 2 messages could not be written here") and lines[1].endswith("I: three")
    assert stderr.getvalue().count("cannot be written to syslog") == 1


def test_a_syslog_that_does_not_read_stops_nobody(tmp_path: Path, syslog: tuple[str, socket.socket], stderr: io.StringIO) -> None:
    log = logs.set_up(config(tmp_path, stderr=1, syslog=2), foreground=True)
    for number in range(5000):
        log.info("line %d", number)
    assert stderr.getvalue().count("cannot be written to syslog") == 1


def test_the_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO) -> None:
    console, terminal = os.openpty()
    made, name = logplaces.Console, os.ttyname(terminal)
    monkeypatch.setattr(logs, "Console", lambda: made(name))
    log = logs.set_up(config(tmp_path, stderr=1, console=1), foreground=True)
    log.warning("look")
    assert os.read(console, 100).strip().endswith(b"tsp-agent: W: look")
    monkeypatch.setattr(logs, "Console", lambda: made(str(tmp_path / "none")))
    logs.set_up(config(tmp_path, stderr=1, console=1), foreground=True).warning("look")
    assert "cannot be written to " in stderr.getvalue()
    logs.close(log)
    os.close(console)
    os.close(terminal)


def test_the_console_is_kept_for_who_gives_up_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    console, terminal = os.openpty()
    place = logplaces.Console(os.ttyname(terminal))

    def forbidden(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr(logplaces.os, "open", forbidden)
        place.write(logging.WARNING, 0.0, ["look"])
        with pytest.raises(PermissionError):
            logplaces.Console("/dev/console").write(logging.WARNING, 0.0, ["look"])
    assert os.read(console, 100).strip().endswith(b"tsp-agent: W: look")
    place.close()
    os.close(console)
    os.close(terminal)


def transcript(log: logging.Logger, secret: str) -> None:
    """An exchange that sends the password in each way there is, and a broker that sends it back."""
    tell = logs.exchange(log)
    if tell is None:
        return
    record = Transcript(True, 0.0, secret)
    session = record.session("tcp", "192.0.2.1:3653")
    session.sent(b"AUTHENTICATE PLAIN\r\n\0\0alice\0" + secret.encode() + b"\r\n", 1.0)
    session.received(b"300 no: " + secret.encode() + b"\r\n", 2.0)
    for line in record.records:
        tell(f"{line['direction']} {line['peer']} {line['text']}")


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_no_place_at_no_level_has_a_password(tmp_path: Path, syslog: tuple[str, socket.socket], stderr: io.StringIO, level: int,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    console = tmp_path / "console"
    console.touch()
    made = logplaces.Console
    monkeypatch.setattr(logs, "Console", lambda: made(str(console)))
    other = "canary-of-another-tunnel"
    asked = config(tmp_path, stderr=level, console=level, file=level, filename=str(tmp_path / "gw6c.log"), syslog=level)
    log = logs.set_up(asked, True, [other])
    transcript(log, SECRET)
    # and what a defect might log
    log.error("the broker said %r", f"300 {SECRET}")
    log.warning("%s", {"password": other})
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("a defect")
    log.error(*("%s %s", SECRET))
    logs.close(log)
    told = [stderr.getvalue(), console.read_text(), (tmp_path / "gw6c.log").read_text() if level else ""]
    syslog[1].setblocking(False)
    lines = []
    while True:
        try:
            lines.append(syslog[1].recv(65536).decode())
        except BlockingIOError:
            break
    told.append("\n".join(lines))
    for text in told:
        assert "canary" not in text
        assert ("[struck out]" in text) == (level > 0) and ("AUTHENTICATE PLAIN" in text) == (level == 3)


def test_a_broker_steers_no_terminal_and_forges_no_line(tmp_path: Path, stderr: io.StringIO) -> None:
    logs.set_up(config(tmp_path, stderr=2), True).info("he said %s", "\x1b[2J\u202e\r\nE: all is lost\x85E: and more")
    assert stderr.getvalue().splitlines() == ["I: he said \\x1b[2J\\u202e", "I: E: all is lost", "I: E: and more"]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def counted(tmp_path: Path, stderr: io.StringIO) -> tuple[logging.Logger, Clock]:
    log, clock = logs.set_up(config(tmp_path, stderr=2), True), Clock()
    log.filters.clear()
    log.addFilter(logs.Repeated(log, clock))
    return log, clock


def test_what_comes_again_and_again_is_told_once_and_counted(counted: tuple[logging.Logger, Clock], stderr: io.StringIO) -> None:
    log, clock = counted
    for number in range(100_000):
        clock.now += 0.001
        log.warning("a bad datagram from %s", f"192.0.2.{number % 7}", extra=logs.once("bad_datagram"))
    log.warning("another thing", extra=logs.once("another"))
    lines = stderr.getvalue().splitlines()
    assert len(lines) == 3 and lines[0] == "W: a bad datagram from 192.0.2.0"
    assert re.fullmatch(r"W: a bad datagram from 192\.0\.2\.\d \(5\d{4} times more\)", lines[1]) and lines[2] == "W: another thing"
    clock.now += 61
    logs.flush(log)
    numbers = [int(number) for number in re.findall(r"\((\d+) times more\)", stderr.getvalue())]
    assert sum(numbers) == 99_999 and len(numbers) == 2
    clock.now += 61
    logs.flush(log)
    log.warning("a bad datagram from x", extra=logs.once("bad_datagram"))
    assert stderr.getvalue().splitlines()[-1] == "W: a bad datagram from x", "after a quiet minute it is news again"


def test_what_is_counted_comes_with_whatever_is_told_next(counted: tuple[logging.Logger, Clock], stderr: io.StringIO) -> None:
    log, clock = counted
    for name in ("x", "y"):
        for _turn in range(3):
            log.warning(name, extra=logs.once(name))
    clock.now += 61
    log.info("something else")
    log.info("and more")
    assert stderr.getvalue().splitlines() == [
        "W: x", "W: y", "W: x (2 times more)", "W: y (2 times more)", "I: something else", "I: and more"]


def test_names_made_of_what_comes_from_outside_fill_no_memory(counted: tuple[logging.Logger, Clock]) -> None:
    log, _clock = counted
    for number in range(3000):
        log.warning("x", extra=logs.once(f"name {number}"))
    found = log.filters[0]
    assert isinstance(found, logs.Repeated) and len(found._seen) <= logs.MOST_NAMES


def test_what_is_still_counted_is_told_at_the_end(counted: tuple[logging.Logger, Clock], stderr: io.StringIO) -> None:
    log, _clock = counted
    log.warning("x", extra=logs.once("x"))
    log.warning("x", extra=logs.once("x"))
    logs.close(log)
    assert stderr.getvalue().splitlines() == ["W: x", "W: x (once more)"]


def test_a_message_that_is_counted_is_like_any_other_without_a_set_up(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("elsewhere").warning("x", extra=logs.once("x"))
    assert caplog.messages == ["x"]


def test_several_tunnels_are_told_apart(tmp_path: Path, stderr: io.StringIO) -> None:
    for several, begin in ((True, "office: "), (False, "")):
        stderr.truncate(0)
        stderr.seek(0)
        log = logs.set_up(config(tmp_path, stderr=3), True, several=several)
        one = logs.of(log, "office")
        log.info("begin")
        one.warning("two\nlines")
        for _turn in range(3):
            one.warning("again", extra=logs.once("again"))
        logs.exchange(one)("C>S")  # type: ignore[misc]
        logs.close(log)
        assert stderr.getvalue().splitlines() == ["I: begin", *(f"W: {begin}{text}" for text in ("two", "lines", "again")),
                                                  f"I: {begin}C>S", f"W: {begin}again (2 times more)"]


def test_setting_up_again_closes_what_was_there(tmp_path: Path) -> None:
    asked = config(tmp_path, stderr=0, file=2, filename=str(tmp_path / "gw6c.log"))
    for _turn in range(3):
        log = logs.set_up(asked, True)
        log.info("x")
    handles = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
    assert len(log.handlers) == 1 and handles.count(str(tmp_path / "gw6c.log")) == 1
    assert logs.set_up(replace(asked, log=LogConfig(stderr=0)), True).handlers == []


def test_the_costly_modules_stay_out() -> None:
    costly = ("argparse", "logging.handlers", "getopt", "statistics")
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from module_utils._agent import cli, hooks, logs; "
            f"cli.parse(['tsp-agent', '-h']); sys.stdout.write(repr([m for m in {costly!r} if m in sys.modules]))")
    root = str(Path(logs.__file__).parents[2])
    found = subprocess.run([sys.executable, "-S", "-c", code, root], capture_output=True, text=True, check=True)
    assert found.stdout == "[]"
