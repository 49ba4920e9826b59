# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No secret anywhere: passwords that exist nowhere else are used in every way, and looked for in everything that was said or written."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import build
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import delete_sync, negotiate_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import sasl
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import TspError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible
from ansible_collections.tunnelbroker.tsp.tests.lab.setting import KEEPALIVE, PYTHON, ROUTER, Setting
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.running import broker_in_thread

ACCOUNT, LOGIN, ENABLE, WRONG = (f"Kanarie-{name}-&7/{number}" for name, number in (
    ("Wombat", 4183), ("Quokka", 9027), ("Numbat", 3311), ("Potoroo", 6675)))
SECRETS = (ACCOUNT, LOGIN, ENABLE, WRONG)


def forms(secret: str) -> list[bytes]:
    """The secret as it is, in hexadecimal, in a URL, in JSON, and in base64 at whatever offset it stands in what was encoded."""
    plain = secret.encode()
    shifted = []
    for offset in range(3):
        # Only the characters that hold nothing but the secret.
        start, end = -(-offset * 4 // 3), (offset + len(plain)) * 4 // 3
        shifted.append(base64.b64encode(b"\0" * offset + plain)[start:end])
    return [plain, plain.hex().encode(), plain.hex().upper().encode(), quote(secret, safe="").encode(), quote(secret).encode(),
            json.dumps(secret)[1:-1].encode(), *shifted]


FORMS = {form: secret for secret in SECRETS for form in forms(secret)}


def found(data: bytes | str, where: Any = "") -> list[str]:
    """Which secrets are in `data`, as sentences."""
    data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return [f"{secret} as {form!r} in {where}" for form, secret in FORMS.items() if form in data]


def in_files(folder: Path, but: Iterable[Path]) -> list[str]:
    """The same for all files below `folder`; names count, too."""
    known = {path.resolve() for path in but}
    hits = []
    for path in folder.rglob("*"):
        hits += found(str(path), "a file name")
        if path.is_file() and not path.is_symlink() and path.resolve() not in known and "ansible_collections" not in path.parts:
            hits += found(path.read_bytes(), path)
    return hits


@pytest.mark.parametrize("prefix", [b"", b"x", b"xy", b"xyz", b"\0alice\0", b'{"password": "'])
def test_what_is_looked_for_would_be_found(prefix: bytes) -> None:
    for secret in SECRETS:
        whole = prefix + secret.encode() + b'", more'
        for data in (whole, base64.b64encode(whole), whole.hex().encode(), quote(whole).encode()):
            assert found(data), data
    assert not found(b"Kanarie-")


PLACES = ("/etc", "/run", "/var/lib/tsp", "/var/lib/tsp-apply", "/var/log", "/usr/local/lib/tsp", "/tmp",
          str(Path.home() / ".ansible"))
"""Where anything on the host could have been written."""


class Processes:
    """Looks at the command line and environment of every process of this machine, again and again, while the block runs."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.seen: set[bytes] = set()
        self.rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.is_set():
            self.rounds += 1
            for pid in filter(str.isdigit, os.listdir("/proc")):
                for kind in ("cmdline", "environ"):
                    with contextlib.suppress(OSError), open(f"/proc/{pid}/{kind}", "rb") as file:
                        data = file.read()
                        if kind == "cmdline":
                            self.seen.add(data)
                        if b"Kanarie" in data or any(form in data for form in FORMS):
                            self.hits += found(data, f"{kind} of {pid}") or [f"part of a secret in {kind} of {pid}: {data!r}"]
            self._stop.wait(0.02)

    def __enter__(self) -> Processes:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()


MECHANISMS = ["plain", "digest-md5", *(["passdss-3des-1"] if sasl.have_passdss() else [])]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with broker_in_thread(tmp_path_factory.mktemp("broker"), {"accounts": [{"username": "alice", "password": ACCOUNT}]}) as running:
        yield running


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("password", [ACCOUNT, WRONG])
def test_exchange_and_broker(broker: Any, tmp_path: Path, mechanism: str, transport: str, password: str) -> None:
    """Records, progress, errors, leases and state of the exchange; log lines of the broker at their most talkative."""
    said: list[Any] = []
    options = ExchangeOptions(
        brokers=(broker.server,), auth_method=mechanism, credentials=Credentials("alice", password), transports=transport,
        server_key_policy="accept_new", known_keys_file=str(tmp_path / "keys"), state_dir=str(tmp_path / "state"), min_interval=0,
        transcript=True, deadline=30)
    with Processes() as processes:
        try:
            result = negotiate_sync(TunnelRequest(mode="v6v4"), options, progress=said.append)
            assert password == ACCOUNT and result.lease.auth_method == mechanism
            said += [result.lease.to_dict(), result.transcript, result.attempts, result.warnings, repr(result)]
            said += delete_sync(result.lease, options, progress=said.append)
        except TspError as error:
            assert password == WRONG and error.code == "auth_failed", error
            said += [error.to_dict(), repr(error), str(error), error.attempts, error.transcript, repr(error.__dict__)]
    said.append(repr(options))
    assert "struck out" in json.dumps(said) and mechanism.upper() in json.dumps(said), "it was recorded"
    assert found(json.dumps(said), "what was said") + found(broker.log_text(), "the broker's log") + in_files(tmp_path, ()) == []
    assert processes.hits == [] and broker.log_lines("auth_failed" if password == WRONG else "granted") is not None


@pytest.mark.root
def test_everything_at_once(tmp_path: Path) -> None:
    """Provision a host with an agent and a router, with mistakes, at the highest verbosity, then everything there is is searched."""
    program = tmp_path / "tsp-broker.pyz"
    assert build.main([str(program)]) == 0
    with Lab("secrets") as lab, Processes() as processes:
        setting = Setting(lab, program)
        setting.password, setting.router_password = ACCOUNT, LOGIN
        setting.start_broker(auth={"plain": True, "digest-md5": True})
        known_hosts = lab.folder / "known_hosts"
        known_hosts.write_text(setting.start_router(), encoding="utf-8")
        port, enable = emulator(setting)
        private = setting.secret_file("password", ACCOUNT + "\n")
        ansible = Ansible(lab.folder / "ansible", setting.controller, ANSIBLE_LOG_PATH=str(lab.folder / "ansible.log"))
        router = {"ansible_host": ROUTER, "ansible_user": "admin", "ansible_password": LOGIN, "ansible_network_os": "cisco.ios.ios",
                  "cisco_known_hosts": str(known_hosts), "tunnel_username": "fleet", "tunnel_mode": "v6v4", "tunnel_client_ipv4": ROUTER}
        inventory = ansible.write_inventory({"all": {
            "vars": {"tunnel_broker": ["192.0.2.1"], "tunnel_password": ACCOUNT, "tunnel_min_interval": 0, "tunnel_prefix_length": 56,
                     "tunnel_host_type": "router", "tunnel_keepalive_interval": KEEPALIVE, "tunnel_lease_dir": str(lab.folder / "leases")},
            "hosts": {
                "host": {"ansible_connection": "lab_ns", "ansible_lab_ns_pid": setting.host.pid, "ansible_python_interpreter": PYTHON,
                         "linux_python": PYTHON, "tunnel_username": "alice", "linux_log_level": "debug"},
                "router": router, "locked": {**router, "tunnel_password": WRONG},
                "enabled": {**router, "ansible_port": port, "ansible_become_password": ENABLE, "ansible_host_key_checking": False},
                "shut": {**router, "ansible_port": port, "ansible_become_password": WRONG, "ansible_host_key_checking": False}}}})
        (lab.folder / "tasks.yml").write_text(json.dumps(tasks(private)), encoding="utf-8")
        output = []
        for words in (["tunnelbroker.tsp.provision", "--limit", "host,router,locked"], [str(lab.folder / "tasks.yml")],
                      ["tunnelbroker.tsp.provision", "--limit", "host,router", "--check"]):
            run = ansible.playbook(*words, "-vvvv", "--diff", inventory=inventory)
            output.append(run.output)
        assert '"state": "up"' in setting.host.run("sh", "-c", "cat /run/tsp*/*.status.json").stdout, output[0][-3000:]
        assert "interface Tunnel7" in (enable / "state.json").read_text(encoding="utf-8"), output[1][-6000:]
        assert "enable_failed" in output[1] and output[1].count("auth_failed") >= 2 and "ignored=" in output[1], output[1][-5000:]
        said = [f for text in output for f in found(text, "the output of ansible-playbook")]

        run = ansible.playbook("tunnelbroker.tsp.teardown", "-vvvv", "--diff", "--limit", "host", "--check", inventory=inventory)
        said += found(run.output, "the output of the teardown")
        secret_file = "/etc/tsp/tsp.secret"
        held = setting.host.run("stat", "-c", "%a %U", secret_file).stdout.split()
        assert held == ["600", "root"]
        # The files of the host are its own: grep from inside. The patterns come from a pipe, for this process is looked at as well.
        done = setting.host.run("grep", "-rlaF", f"--exclude-dir={lab.folder.name}", "-f", "-", *PLACES, check=False, timeout=120,
                                input="".join(f"{os.fsdecode(form)}\n" for form in FORMS))
        assert secret_file in done.stdout.split(), "grep finds what is there"
        said += [f"a secret in {name} of the host" for name in done.stdout.split() if name != secret_file]
        given = [inventory, private, lab.folder / "router-accounts.json", lab.folder / "tasks.yml",
                 *(enable / name for name in ("accounts.json", "secret"))]
        said += in_files(lab.folder, given)
        assert processes.rounds > 50 and any(b"tsp-agent" in line for line in processes.seen), "the processes were looked at"
        assert "\n".join(said + processes.hits) == ""


def emulator(setting: Setting) -> tuple[int, Path]:
    """A second router on the same host that wants its enable secret. Returns its SSH port and the folder of its files."""
    folder = setting.lab.folder / "second"
    folder.mkdir(mode=0o700)
    (folder / "accounts.json").write_text(json.dumps({"admin": LOGIN}), encoding="utf-8")
    (folder / "secret").write_text(ENABLE, encoding="utf-8")
    started = setting.router.popen(
        sys.executable, "-m", "ios_emulator", "--listen", ROUTER, "--hostname", "R2", "--level", "1", "--accounts",
        str(folder / "accounts.json"), "--enable-secret", str(folder / "secret"), "--state", str(folder / "state.json"),
        cwd=Path(__file__).resolve().parents[1] / "lab", stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    with started.stdout as stdout:
        said = json.loads(stdout.readline())
    return int(said["port"]), folder


def tasks(private: Path) -> list[dict[str, Any]]:
    """Exchanges with each way to give a password, right and wrong, here and there; lines for a router that wants to be enabled."""
    asking: list[dict[str, Any]] = []
    ways = [("target", {"password": ACCOUNT}), ("target", {"password": WRONG}), ("controller", {"password": ACCOUNT}),
            ("controller", {"password": WRONG}), ("controller", {"password_file": str(private)})]
    for number, (method, (run_on, given)) in enumerate(itertools.product(("plain", "digest-md5"), ways)):
        asking.append({"tunnelbroker.tsp.tunnel": {
            "name": f"other_{number}", "broker": "192.0.2.1", "username": "fleet", "auth_method": method, "mode": "v6v4", "min_interval": 0,
            "client_ipv4": f"192.0.2.{50 + number}", "proxy": True, "run_on": run_on, "lease_dir": "{{ tunnel_lease_dir }}", **given},
            "ignore_errors": given.get("password") == WRONG})
    lines = {"tunnelbroker.tsp.router_config": {"lines": ["interface Tunnel7", " description to the broker"]},
             "ignore_errors": "{{ inventory_hostname == 'shut' }}"}
    return [{"hosts": "host", "gather_facts": False, "tasks": asking}, {"hosts": "enabled,shut", "gather_facts": False, "tasks": [lines]}]
