# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One namespace of the laboratory, from outside: start and stop it, run programs in it, look at it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .machine import LabError, setns_net

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
_PYTHON = [sys.executable, "-I", "-S"]


class Namespace:
    """A host: its own network, processes, host name, and with `root=True` its own files too (the machine's, changes in memory).

    A context manager; `Lab.namespace()` makes one that ends with the lab. `pid` is the id of its first process, as seen here.
    Raises LabError when the machine does not allow it, with what is missing.
    """

    def __init__(self, name: str, *, root: bool = False, visible: Sequence[str | os.PathLike[str]] = (), logs: Path | None = None) -> None:
        self.name = name
        self.logs = logs
        self._programs: list[tuple[str, subprocess.Popen[Any]]] = []
        self._folder = tempfile.mkdtemp(prefix="tsp-lab-", dir=logs) if root else None
        settings = {"name": name, "root": root, "folder": self._folder, "writable": [os.path.realpath(path) for path in visible],
                    "readable": _hidden_otherwise()}
        self._holder = subprocess.Popen([*_PYTHON, str(HERE / "holder.py"), json.dumps(settings)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try:
            assert self._holder.stdout is not None
            first = self._holder.stdout.readline().strip()
            if not first.startswith("pid "):
                raise LabError(first or "the holder of the namespace ended at once")
            self.pid = int(first[4:])
            ready = self._holder.stdout.readline().strip()
            if ready != "ready":
                raise LabError(ready or "the namespace's first process ended at once")
        except BaseException:
            self.close()
            raise

    # Running programs -------------------------------------------------------------------------------------------------------------

    def wrap(self, *words: str, network_only: bool = False) -> list[str]:
        """The command line that runs `words` inside when it is run here; or just in the network, among our files and processes."""
        return [*_PYTHON, str(HERE / "enter.py"), f"{self.pid}:{'net' if network_only else 'all'}", *words]

    def run(self, *words: str, check: bool = True, timeout: float = 30, input: str | None = None,
            env: dict[str, str] | None = None, network_only: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a program to its end. With `check`, a non-zero end raises LabError with what it printed."""
        done = subprocess.run(self.wrap(*words, network_only=network_only), input=input or "", capture_output=True, text=True,
                              timeout=timeout, env=env, check=False)
        if check and done.returncode:
            raise LabError(f"{self.name}: {shlex.join(words)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done

    def popen(self, *words: str, label: str | None = None, **options: Any) -> subprocess.Popen[Any]:
        """Start a program. Unless told otherwise its output goes to a log among the lab's artefacts. Ended with the namespace."""
        label = label or os.path.basename(words[0])
        options.setdefault("stdin", subprocess.DEVNULL)
        if "stdout" not in options and self.logs is not None:
            with open(self.log_path(label), "ab") as log:
                program: subprocess.Popen[Any] = subprocess.Popen(self.wrap(*words), stdout=log, stderr=subprocess.STDOUT, **options)
        else:
            program = subprocess.Popen(self.wrap(*words), **options)
        self._programs.append((label, program))
        return program

    def log_path(self, label: str) -> Path:
        """Where popen(label=…) writes."""
        if self.logs is None:
            raise LabError(f"{self.name}: no folder for logs was given")
        return self.logs / f"{self.name}-{label}.log"

    def ip(self, *commands: str) -> str:
        """`ip` commands, one string each; returns what they printed. Process ids in them are those seen here."""
        if len(commands) == 1 or any(command.startswith("-") for command in commands):  # a batch knows no options
            return "".join(self.run("ip", *shlex.split(command), network_only=True).stdout for command in commands)
        return self.run("ip", "-batch", "-", input="\n".join(commands) + "\n", network_only=True).stdout

    def ip_json(self, command: str) -> list[dict[str, Any]]:
        """An `ip` command's answer as data."""
        parsed: list[dict[str, Any]] = json.loads(self.run("ip", "-json", *shlex.split(command)).stdout or "[]")
        return parsed

    def sysctl(self, **values: str | int) -> None:
        """sysctl(net__ipv4__ip_forward=1): double underscores are dots."""
        for name, value in values.items():
            self.run("sh", "-c", f"echo {value} > /proc/sys/{name.replace('__', '/')}")

    def nft(self, rules: str) -> None:
        """Load nftables rules."""
        self.run("nft", "-f", "-", input=rules)

    def has_udp_port(self, port: int) -> bool:
        """Whether some program inside has bound this UDP port."""
        for table in ("udp", "udp6"):
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                if int(line.split()[1].rpartition(":")[2], 16) == port:
                    return True
        return False

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread opens inside the block are of this namespace, and stay so afterwards."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            inside = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            try:
                setns_net(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                setns_net(before)
        finally:
            os.close(before)

    # Looking at it ----------------------------------------------------------------------------------------------------------------

    def report(self) -> str:
        """Addresses, routes, rules, connections and processes, for people who look for what went wrong."""
        parts = []
        for words in ("ip -d addr", "ip route", "ip -6 route", "nft list ruleset", "ss -lunt", "ps -efww"):
            with contextlib.suppress(LabError, OSError, subprocess.TimeoutExpired):
                done = self.run(*words.split(), check=False, timeout=5)
                parts.append(f"$ {words}\n{done.stdout}{done.stderr}")
        for path in ("/proc/net/nf_conntrack", "/proc/net/snmp6", "/proc/net/snmp"):
            with contextlib.suppress(LabError, OSError, subprocess.TimeoutExpired):
                done = self.run("cat", path, check=False, timeout=5)
                if not done.returncode:
                    parts.append(f"$ cat {path}\n{done.stdout}")
        return f"## {self.name} (pid {self.pid})\n\n" + "\n".join(parts)

    def processes(self) -> list[str]:
        """Command lines of what runs inside, the first process apart."""
        return list(self._processes().values())

    def _processes(self) -> dict[str, str]:
        lines = self.run("ps", "-eww", "-o", "pid=,args=", check=False).stdout.splitlines()
        found = [line.split(None, 1) for line in lines if line.strip()]
        return {pid: words for pid, words in found if pid != "1" and not words.startswith("ps -eww")}

    def signal(self, number: int, containing: str) -> None:
        """Send a signal to the programs inside whose command line contains these words, by their ids. LabError when there are none.

        (A Popen of popen() hands on SIGTERM, SIGINT and SIGHUP; kill() ends only the process that went in, and with it the program.)
        """
        chosen = [pid for pid, words in self._processes().items() if containing in words]
        if not chosen:
            raise LabError(f"{self.name}: no program runs there with {containing!r} in its command line")
        self.run("kill", f"-{int(number)}", *chosen)

    # The end ----------------------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything inside. Programs get SIGTERM and a moment first. Harmless when done twice."""
        running = [program for _label, program in self._programs if program.poll() is None]
        for program in running:
            program.terminate()
        for program in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(timeout=3)
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                stream.close()
        try:
            self._holder.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        for program in running:
            program.kill()
            program.wait()
        if self._folder is not None:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self._folder)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Namespace({self.name!r}, pid={getattr(self, 'pid', None)})"


def _hidden_otherwise() -> list[str]:
    """Of the project and this Python, what is not seen in a root of its own: /tmp is private there, and mounts further down are not
    followed (the overlays see only the first level of /).
    """
    found: list[str] = []
    for path in sorted({os.path.realpath(p) for p in (PROJECT, sys.prefix, sys.base_prefix)}):
        mount = path
        while not os.path.ismount(mount):
            mount = os.path.dirname(mount)
        hidden = path.startswith(("/tmp/", "/run/")) or mount.count("/") > 1
        if hidden and not any(path.startswith(known + "/") for known in found):
            found.append(path)
    return found
