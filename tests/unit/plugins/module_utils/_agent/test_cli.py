# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line, new and old, as a value."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import cli, oldargs

OLD = "server=broker.example\nauth_method=anonymous\nlog_stderr=0\n"


def new(path: Path, name: str, device: str, **more: Any) -> str:
    path.write_text(json.dumps({"name": name, "device": device, "request": {"mode": "v6v4"},
                                "broker": {"brokers": ["broker.example"], "auth_method": "anonymous"}, **more}))
    return str(path)


def parse(*arguments: str, program: str = "/usr/local/lib/tsp/tsp-agent.pyz", **environ: str) -> cli.Command:
    return cli.parse([program, *arguments], environ, "linux")


def failed(*arguments: str, code: int = 2, program: str = "tsp-agent") -> str:
    command = parse(*arguments, program=program)
    assert (command.action, command.code, command.configs) == ("error", code, ())
    assert command.text.startswith("tsp-agent: ")
    return command.text


def test_one_tunnel(tmp_path: Path) -> None:
    path = new(tmp_path / "a.json", "a", "tsp1")
    command = parse("--config", path)
    assert (command.action, command.foreground, [config.name for config in command.configs]) == ("run", False, ["a"])
    assert parse(f"--config={path}", "--foreground").foreground
    assert parse("--config", path, "--once-check").action == "check"


def test_several_tunnels(tmp_path: Path) -> None:
    first = new(tmp_path / "1.json", "one", "tsp1", log={"stderr": 2})
    second = new(tmp_path / "2.json", "two", "tsp2", log={"stderr": 3}, metrics={"listen": "127.0.0.1:9653"})
    (tmp_path / "2.json.bak").write_text("{")
    for arguments in (("--config", first, "--config", second), ("--config", str(tmp_path)), ("--config", str(tmp_path), "--config", first)):
        configs = parse(*arguments).configs
        assert [config.name for config in configs] == ["one", "two"]
        assert configs[0].warnings == () and configs[1].warnings == (
            "link.metric: the default route has 2049, since 2048 is another tunnel's.",
            "log, metrics: one process has one; that of one counts.")
        assert [config.link.metric for config in configs] == [2048, 2049], "a kernel has one route of a kind with a metric"
    assert "Two tunnels have the name one" in failed("--config", first, "--config", new(tmp_path / "3.json", "one", "tsp3"), code=1)
    (tmp_path / "secret").write_text("sword\n")
    (tmp_path / "secret").chmod(0o600)

    def owned(number: int, user: str, broker: str) -> str:
        return new(tmp_path / f"{number}.json", f"n{number}", f"tsp{number}", broker={
            "brokers": ["b.example", broker], "username": user, "password_file": str(tmp_path / "secret")},
            link={"default_route": "none"})
    assert not parse("--config", owned(3, "alice", "x.example"), "--config", owned(4, "bob", "x.example")).configs[1].warnings
    said = parse("--config", owned(3, "alice", "x.example"), "--config", owned(4, "alice", "y.example")).configs[1].warnings
    assert len(said) == 1 and said[0].startswith("broker.username: alice asks b.example for tunnel n3 as well.")
    shared = new(tmp_path / "3.json", "three", "tsp3", lease_file=f"{tmp_path}/one")
    other = new(tmp_path / "4.json", "four", "tsp4", lease_file=f"{tmp_path}/one")
    assert f"Two tunnels have the lease_file {tmp_path}/one" in failed("--config", shared, "--config", other, code=1)
    assert "Two tunnels have the device tsp1" in failed("--config", first, "--config", new(tmp_path / "3.json", "three", "tsp1"), code=1)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no *.json" in failed("--config", str(empty), code=1)


def test_default_routes_of_several_tunnels(tmp_path: Path) -> None:
    def metrics(*links: dict[str, Any]) -> list[int]:
        files = [new(tmp_path / f"{n}.json", f"t{n}", f"tsp{n}", link=link) for n, link in enumerate(links)]
        return [config.link.metric for config in parse(*(word for file in files for word in ("--config", file))).configs]

    assert metrics({}, {"metric": 2049}, {}, {"default_route": "none"}, {"default_route": "source"}) == [2048, 2049, 2050, 2048, 2048]
    assert metrics({"default_route": "replace"}, {}) == [2048, 2048]
    assert metrics({"default_route": "replace"}, {"default_route": "replace"}) == []


def test_an_old_file_beside_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "gw6c.conf").write_text(OLD)
    configs = parse("--config", new(tmp_path / "a.json", "a", "tsp1"), "--config", str(tmp_path / "gw6c.conf")).configs
    assert [config.name for config in configs] == ["a", "gw6c"] and configs[1].device_of("v6udpv4") == "tun"


@pytest.mark.parametrize("arguments", [
    ("-f", "FILE", "-vvv", "-i", "sit9", "-u", "tun9", "-r", "7", "-n"), ("-nvvvfFILE", "-isit9", "-utun9", "-r7"),
    ("-v", "-v", "-v", "-v", "-n", "-i", "sit9", "-u", "tun9", "-r", "7", "-f", "FILE"),
    ("--config", "FILE", "--foreground", "-vvv", "-isit9", "-u", "tun9", "-r7")])
def test_the_old_command_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "gw6c.conf"
    path.write_text(OLD)
    command = parse(*(argument.replace("FILE", str(path)) for argument in arguments))
    (config,) = command.configs
    assert command.action == "run" and command.foreground
    assert (config.device_of("v6v4"), config.device_of("v6udpv4"), config.retry.first_delay, config.log.stderr) == ("sit9", "tun9", 7, 3)


def test_the_interface_of_the_lan_and_what_gogoc_added(tmp_path: Path) -> None:
    path = tmp_path / "gogoc.conf"
    path.write_text(OLD + "host_type=router\n")
    (config,) = parse("-f", str(path), "-s", "eth7", "-b", "-y", "-c").configs
    assert config.link.lan_interfaces == ("eth7",) and config.retry.auth_tries == 1
    assert config.options.server_key_policy == "accept_new" and any(said.startswith("-c: ") for said in config.warnings)


def test_by_the_old_names_the_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oldargs, "DEFAULT_FILES", {"gw6c": (str(tmp_path / "etc" / "gw6c.conf"), "gw6c.conf")})
    monkeypatch.chdir(tmp_path)
    assert "There is no gw6c.conf" in failed(code=1, program="/usr/bin/gw6c")
    (tmp_path / "gw6c.conf").write_text(OLD)
    assert parse(program="gw6c").configs[0].options.last_server_file == str(tmp_path / "tsp-last-server.txt")
    assert parse("-v", program="/usr/bin/gw6c").configs[0].log.stderr == 1
    assert "--config is missing" in failed()


def test_more_verbose_works_with_any_file_and_the_rest_with_old_ones_only(tmp_path: Path) -> None:
    path = new(tmp_path / "a.json", "a", "tsp1")
    assert parse("--config", path, "-vv").configs[0].log.stderr == 2
    for more in (("-i", "sit1"), ("-y",), ("--name", "b"), ("--state-dir", "/x")):
        assert "says itself" in failed("--config", path, *more, code=1)


def test_what_an_old_file_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "gw6c.conf"
    path.write_text(OLD)
    (config,) = parse("-f", str(path), "--name", "home", "--state-dir", "/s", "--runtime-dir=/r", "--lease-file", "/l",
                      "--user", "tsp").configs
    assert (config.name, config.state_dir, config.runtime_dir, config.lease_file, config.user) == ("home", "/s", "/r", "/l", "tsp")
    assert "--state-dir 's' is no absolute path" in failed("-f", str(path), "--state-dir", "s", code=1)
    assert "--name 'A b'" in failed("-f", str(path), "--name", "A b", code=1)
    assert "--user" in failed("-f", str(path), "--user", "a:b", code=1)


@pytest.mark.parametrize(("arguments", "part"), [
    ((), "--config is missing"), (("--config",), "needs a value"), (("--config=",), "is empty"), (("--colour",), "'--colour' is not known"),
    (("-x",), "-x is not known"), (("-r",), "-r needs a value"), (("file",), "'file' is not known"), (("-",), "'-' is not known"),
    (("--register",), "for Windows"), (("--unregister",), "for Windows"), (("--name", "a", "--name", "b"), "stands twice"),
    (("--config", "x", "--json"), "belongs to status"), (("status", "--config", "x", "--runtime-dir", "/r"), "not both")])
def test_wrong_usage(arguments: tuple[str, ...], part: str) -> None:
    text = failed(*arguments)
    assert part in text and "--help" in text


def test_wrong_files(tmp_path: Path) -> None:
    assert "cannot be read" in failed("--config", str(tmp_path / "none"), code=1)
    path = tmp_path / "a"
    for text, part in (("{", "is not JSON"), ("[]", "does not hold"), ("{}", "request is missing"), ("", "server is missing")):
        path.write_text(text)
        assert part in failed("--config", str(path), code=1)
    path.write_text(OLD)
    path.chmod(0o666)
    assert "somebody else than root and we can change it" in failed("--config", str(path), code=1)
    os.mkfifo(tmp_path / "pipe")
    assert "no plain file" in failed("--config", str(tmp_path / "pipe"), code=1)


def test_help_names_every_option() -> None:
    for arguments in (("-h",), ("--help",), ("status", "--help"), ("-vh",)):
        command = parse(*arguments)
        assert (command.action, command.code) == ("help", 0)
    for option in (*cli.FLAGS, *cli.VALUES, *(f"-{letter}" for letter in "fiusrvnbyh")):
        assert option in command.text or option == "--help"
    assert max(map(len, command.text.splitlines())) <= 140


def test_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = tmp_path / "tsp", tmp_path / "tsp-office"
    for folder, name in ((run, "a"), (run, "b"), (other, "office")):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.status.json").write_text("{}")
    monkeypatch.setattr(cli, "RUNTIME_DIRS", (str(run), f"{tmp_path}/tsp-*", str(tmp_path / "link"), str(tmp_path / "none")))
    (tmp_path / "link").symlink_to(run)
    command = parse("status", "--json")
    assert (command.action, command.as_json) == ("status", True)
    assert command.paths == tuple(map(str, (run / "a.status.json", run / "b.status.json", other / "office.status.json")))
    assert parse("status", "--runtime-dir", str(other)).paths == (str(other / "office.status.json"),)
    assert not parse("status", "--runtime-dir", str(tmp_path / "none")).paths


def test_status_needs_no_password(tmp_path: Path) -> None:
    path = new(tmp_path / "a.json", "a", "tsp1", runtime_dir="/run/tsp-a", broker={
        "brokers": ["broker.example"], "username": "alice", "password_file": str(tmp_path / "not-for-us")})
    assert parse("status", "--config", path).paths == ("/run/tsp-a/a.status.json",)
    assert "cannot be read" in failed("--config", path, code=1)
    new(tmp_path / "a.json", "a", "tsp1", broker={"brokers": ["broker.example"], "username": "alice", "credential": "secret"})
    assert parse("status", "--config", path).paths == ("/run/tsp/a.status.json",)


def test_no_option_takes_a_secret() -> None:
    assert not [word for word in cli.USAGE.lower().split() if "passw" in word or "secret" in word]
