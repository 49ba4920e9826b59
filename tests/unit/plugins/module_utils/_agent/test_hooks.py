# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The user's own programs get what the old client gave them, and an old template script works as it stands."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from dataclasses import replace
from datetime import datetime, timezone
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import hooks
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import (
    CREATION,
    TEARDOWN,
    AgentConfig,
    HooksConfig,
    LinkConfig,
)
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Endpoint, Grant, Lease
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest

SECRET = "canary-of-the-hooks"
LOG = logging.getLogger("test-hooks")


def config(router: bool = True, devices: tuple[tuple[str, str], ...] = (), **given: Any) -> AgentConfig:
    return AgentConfig(
        "tsp", "tsp0", TunnelRequest(host_type="router" if router else "host"),
        ExchangeOptions(("broker.example",), credentials=Credentials("alice", SECRET)),
        link=LinkConfig(lan_interfaces=("eth1",) if router else ()), devices=devices,
        hooks=HooksConfig(home_dir="/usr/local/gw6c", **given))


def lease(mode: str = "v6v4", prefix: str | None = "2001:db8:4000::/48", name: str | None = None) -> Lease:
    ends = (Endpoint(IPv4Address("192.0.2.1"), IPv6Address("2001:db8::5"), name, 40000),
            Endpoint(IPv4Address("192.0.2.6"), IPv6Address("2001:db8::4"), None, 3653))
    kind = IPv4Network if mode == "v4v6" else IPv6Network
    return Lease("broker.example", "udp", "2.0.1", "digest-md5", Grant(mode, *ends, prefix=None if prefix is None else kind(prefix)),
                 TunnelRequest(), datetime(2026, 1, 1, tzinfo=timezone.utc), username="alice")


def test_the_variables_are_those_of_the_guides_trace() -> None:
    found = hooks.variables(lease(prefix="2001:db8:4000:20::/60"), config(devices=(("v6v4", "sit1"),)), CREATION)
    assert found == {
        "TSP_OPERATION": "TSP_TUNNEL_CREATION", "TSP_VERBOSE": "3", "TSP_HOME_DIR": "/usr/local/gw6c", "TSP_TUNNEL_MODE": "v6v4",
        "TSP_HOST_TYPE": "router", "TSP_TUNNEL_INTERFACE": "sit1", "TSP_HOME_INTERFACE": "eth1",
        "TSP_CLIENT_ADDRESS_IPV4": "192.0.2.1", "TSP_CLIENT_ADDRESS_IPV6": "2001:0db8:0000:0000:0000:0000:0000:0005",
        "TSP_SERVER_ADDRESS_IPV4": "192.0.2.6", "TSP_SERVER_ADDRESS_IPV6": "2001:0db8:0000:0000:0000:0000:0000:0004",
        "TSP_TUNNEL_PREFIXLEN": "128", "TSP_PREFIX": "2001:0db8:4000:0020", "TSP_PREFIXLEN": "60"}


def test_what_a_host_without_a_prefix_gets() -> None:
    found = hooks.variables(lease("v6udpv4", None, "alice.broker.example"), config(router=False), TEARDOWN)
    assert found["TSP_OPERATION"] == "TSP_TUNNEL_TEARDOWN" and found["TSP_TUNNEL_MODE"] == "v6udpv4"
    assert found["TSP_CLIENT_DNS_NAME"] == "alice.broker.example"
    assert found["TSP_HOME_INTERFACE"] == "" and found["TSP_HOST_TYPE"] == "host"
    assert not {name for name in found if name.startswith("TSP_PREFIX")}
    assert "TSP_CLIENT_DNS_NAME" not in hooks.variables(lease(), config(), CREATION)


@pytest.mark.parametrize(("prefix", "text"), [
    ("2001:db8:4000::/48", "2001:0db8:4000"), ("2001:db8::/32", "2001:0db8"), ("2001:db8:4000::/49", "2001:0db8:4000:0000"),
    ("2001:db8:0:1::/64", "2001:0db8:0000:0001")])
def test_the_prefix_is_cut_so_that_an_address_can_follow(prefix: str, text: str) -> None:
    found = hooks.variables(lease(prefix=prefix), config(), CREATION)
    assert found["TSP_PREFIX"] == text
    assert IPv6Address(f"{found['TSP_PREFIX']}::1") in IPv6Network(prefix)


def test_the_device_is_called_as_it_is_on_this_system() -> None:
    names = [hooks.variables(lease(mode, None), config(), CREATION, system)["TSP_TUNNEL_INTERFACE"]
             for mode in ("v6v4", "v6udpv4") for system in ("linux", "freebsd14")]
    assert names[0] == names[2] == "tsp0" and names[1].startswith("gif") and names[3].startswith("tun")


def test_v4v6() -> None:
    found = hooks.variables(lease("v4v6", "198.51.100.0/28"), config(devices=(("v4v6", "sit0"),)), CREATION)
    assert (found["TSP_PREFIX"], found["TSP_PREFIXLEN"], found["TSP_TUNNEL_PREFIXLEN"]) == ("198.51.100.0", "28", "32")
    assert found["TSP_TUNNEL_INTERFACE"] == "sit0"


# What an old site's own template looks like: iproute2, both operations, no `#!` line, no x bit.
TEMPLATE = """
ip() { command ip "$@" || exit 1; }
if [ "$TSP_OPERATION" = "TSP_TUNNEL_TEARDOWN" ]; then
  if [ -n "$TSP_PREFIX" ]; then
    ip -6 addr del $TSP_PREFIX::1/64 dev $TSP_HOME_INTERFACE
  fi
  ip tunnel del $TSP_TUNNEL_INTERFACE
  exit 0
fi
case "$TSP_TUNNEL_MODE" in
  v6v4) ip tunnel add $TSP_TUNNEL_INTERFACE mode sit ttl 64 remote $TSP_SERVER_ADDRESS_IPV4 ;;
  v6udpv4) : the device is there ;;
  *) echo "mode $TSP_TUNNEL_MODE is not for us" ; exit 1 ;;
esac
ip link set $TSP_TUNNEL_INTERFACE up mtu 1280
ip -6 addr add $TSP_CLIENT_ADDRESS_IPV6/$TSP_TUNNEL_PREFIXLEN dev $TSP_TUNNEL_INTERFACE
ip -6 route add ::/0 dev $TSP_TUNNEL_INTERFACE
if [ "$TSP_HOST_TYPE" = "router" ] && [ "$TSP_HOME_INTERFACE" != "" ]; then
  if [ "$TSP_PREFIXLEN" != "64" ]; then
    ip -6 route add $TSP_PREFIX::/$TSP_PREFIXLEN dev lo
  fi
  ip -6 addr add $TSP_PREFIX::1/64 dev $TSP_HOME_INTERFACE
fi
exit 0
"""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ip` that writes down how it was called."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    ip = folder / "ip"
    ip.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n')
    ip.chmod(0o755)
    monkeypatch.setattr(hooks, "PATH", f"{folder}:{hooks.PATH}")
    return calls


def script(tmp_path: Path, text: str, mode: int = 0o644, name: str = "mine.sh") -> str:
    path = tmp_path / name
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_an_old_template_works_as_it_stands(tmp_path: Path, recorded: Path) -> None:
    asked = config(devices=(("v6v4", "sit1"),), script=script(tmp_path, TEMPLATE), script_sets_up=True)
    hooks.run(asked, lease(), CREATION, LOG)
    hooks.run(asked, lease(), TEARDOWN, LOG)
    assert recorded.read_text().splitlines() == [
        "tunnel add sit1 mode sit ttl 64 remote 192.0.2.6", "link set sit1 up mtu 1280",
        "-6 addr add 2001:0db8:0000:0000:0000:0000:0000:0005/128 dev sit1", "-6 route add ::/0 dev sit1",
        "-6 route add 2001:0db8:4000::/48 dev lo", "-6 addr add 2001:0db8:4000::1/64 dev eth1",
        "-6 addr del 2001:0db8:4000::1/64 dev eth1", "tunnel del sit1"]
    with pytest.raises(ApplyError) as caught:
        hooks.run(asked, lease("v4v6", None), CREATION, LOG)
    assert caught.value.code == "hook_failed" and "ended with code 1" in caught.value.message
    assert "mode v4v6 is not for us" in caught.value.message


def test_a_program_is_given_nothing_but_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    out = tmp_path / "out"
    path = script(tmp_path, f"#!/bin/sh\nexec > {out}\nenv; pwd; cat; umask; exec cat /proc/self/cmdline\n", 0o755)
    hooks.run(config(script=path), lease(), CREATION, LOG)
    lines = out.read_text().splitlines()
    names = {line.split("=")[0] for line in lines if "=" in line}
    assert names - {"PWD", "_", "SHLVL", "OLDPWD"} == {"PATH", *hooks.variables(lease(), config(), CREATION)}
    assert "/" in lines and "0022" in lines and SECRET not in out.read_text()


def test_a_new_program_gets_the_lease_on_its_standard_input(tmp_path: Path) -> None:
    given, order = tmp_path / "given", tmp_path / "order"
    new = script(tmp_path, f"#!/bin/sh\ncat > {given}\necho lease $TSP_OPERATION >> {order}\n", 0o700, "new")
    old = script(tmp_path, f"echo script $TSP_OPERATION >> {order}\n")
    both = config(script=old, lease=new)
    hooks.run(both, lease(), CREATION, LOG)
    assert Lease.from_dict(json.loads(given.read_text())) == lease() and SECRET not in given.read_text()
    hooks.run(both, lease(), TEARDOWN, LOG)
    assert order.read_text().split("\n")[:-1] == [
        "script TSP_TUNNEL_CREATION", "lease TSP_TUNNEL_CREATION", "lease TSP_TUNNEL_TEARDOWN", "script TSP_TUNNEL_TEARDOWN"]


def test_what_a_path_holds_is_never_read_by_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a b;touch pwned $(touch pwned)"
    folder.mkdir()
    done = tmp_path / "done"
    hooks.run(config(script=script(folder, f"echo yes > {done}\n")), lease(), CREATION, LOG)
    assert done.read_text() == "yes\n" and not list(tmp_path.rglob("pwned"))


def gone(pid: int) -> bool:
    """Dead, or dead and not yet collected by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < deadline, "the process lives"
        time.sleep(0.01)


def test_a_program_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "GRACE", 0.1)
    pids = tmp_path / "pids"
    path = script(tmp_path, f"trap '' TERM\nsleep 1000 &\necho $! $$ > {pids}\necho here I am\nwhile :; do sleep 0.1; done\n")
    with pytest.raises(ApplyError) as caught:
        hooks.run(replace(config(), hooks=HooksConfig(script=path, timeout=1.0)), lease(), CREATION, LOG)
    assert caught.value.code == "hook_failed" and "was ended after 1 s; its last words: here I am." in caught.value.message
    for pid in pids.read_text().split():
        wait_gone(int(pid))


def test_a_program_that_writes_without_an_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "MOST_OUTPUT", 10_000)
    with pytest.raises(ApplyError) as caught:
        hooks.run(config(script=script(tmp_path, "while :; do echo again; done\n")), lease(), CREATION, LOG)
    assert "writes without an end" in caught.value.message and len(str(caught.value)) < 1000


def test_what_it_leaves_in_the_background_lives_on(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    path = script(tmp_path, f"(echo $$; exec sleep 1000) &\necho $! > {pid}\n")
    hooks.run(config(script=path), lease(), CREATION, LOG)
    number = int(pid.read_text())
    try:
        assert not gone(number)
    finally:
        os.kill(number, signal.SIGKILL)


def test_what_it_says_goes_to_the_log_at_the_highest_level_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = script(tmp_path, "echo one; echo two >&2\n")
    with caplog.at_level(logging.DEBUG, LOG.name):
        hooks.run(config(script=path), lease(), CREATION, LOG)
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.DEBUG, f"{path}: one"), (logging.DEBUG, f"{path}: two")]


@pytest.mark.parametrize(("mode", "folder_mode"), [(0o666, 0o755), (0o664, 0o755), (0o755, 0o777)])
def test_what_others_can_change_is_not_run(tmp_path: Path, mode: int, folder_mode: int) -> None:
    folder, done = tmp_path / "site", tmp_path / "done"
    folder.mkdir()
    path = script(folder, f"touch {done}\n", mode)
    folder.chmod(folder_mode)
    with pytest.raises(ApplyError) as caught:
        hooks.run(config(script=path), lease(), CREATION, LOG)
    assert caught.value.code == "hook_unsafe" and path in caught.value.message and not done.exists()


def test_a_program_of_somebody_else_is_not_run(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file away")
    path = script(tmp_path, "exit 0\n")
    os.chown(path, 65534, 0)
    with pytest.raises(ApplyError, match="does not own"):
        hooks.run(config(script=path), lease(), CREATION, LOG)


def test_what_is_not_there_or_cannot_run_is_told(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none"), str(tmp_path), script(tmp_path, "#!/no/such/interpreter\n", 0o755)):
        with pytest.raises(ApplyError) as caught:
            hooks.run(config(script=path), lease(), CREATION, LOG)
        assert caught.value.code == "hook_failed" and path in caught.value.message and caught.value.hint
    with pytest.raises(ApplyError, match="was killed by signal 9"):
        hooks.run(config(script=script(tmp_path, "kill -9 $$\n")), lease(), CREATION, LOG)
