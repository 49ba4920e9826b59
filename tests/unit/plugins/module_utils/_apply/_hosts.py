# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host in memory that passes the contract of `_apply.runner`, and a host that dies at a chosen moment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import Completed, FileState
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError


class FakeRunner:
    """Files, directories, processes and a systemd. `handlers[argv[0]](argv)` gives (rc, stdout, stderr) for other commands."""

    def __init__(self) -> None:
        self.files: dict[str, FileState] = {}
        self.directories: dict[str, int] = {"/": 0o755, "/etc": 0o755, "/var": 0o755, "/var/lib": 0o755, "/run": 0o755,
                                            "/usr": 0o755}
        self.processes: dict[int, tuple[str, ...]] = {}
        self.stubborn = False
        self.units: dict[str, dict[str, bool]] = {}
        self.unit_files: dict[str, str] = {}
        self.handlers: dict[str, Callable[[Sequence[str]], tuple[int, str, str]]] = {}
        self.ran: list[tuple[str, ...]] = []
        self.writes = 0
        self.now = 0.0
        self.sysctls: dict[str, str] = {}
        self.locked = False

    # files
    def read(self, path: str) -> FileState | None:
        if path in self.directories:
            raise ApplyError("not_a_file", f"{path} is a directory.")
        return self.files.get(path)

    def write(self, path: str, content: bytes, mode: int, uid: int | None = None, gid: int | None = None) -> None:
        if path in self.directories:
            raise ApplyError("not_a_file", f"{path} is a directory.")
        if os.path.dirname(path) not in self.directories:
            raise ApplyError("host_refused", f"The host refused to write {path}: No such file or directory.")
        self.writes += 1
        self.files[path] = FileState(content, mode, uid or 0, gid or 0)

    def remove(self, path: str) -> None:
        if path in self.directories:
            raise ApplyError("not_a_file", f"{path} is a directory.")
        if self.files.pop(path, None) is not None:
            self.writes += 1

    def directory_mode(self, path: str) -> int | None:
        if path in self.files:
            raise ApplyError("not_a_directory", f"{path} is not a directory.")
        return self.directories.get(path)

    def names(self, path: str) -> list[str]:
        if path.startswith("/proc/sys/"):
            depth = path[len("/proc/sys/"):] + "/"
            return sorted({name[len(depth):].split("/")[0] for name in self.sysctls if name.startswith(depth)})
        return sorted(os.path.basename(name) for name in (*self.files, *self.directories)
                      if os.path.dirname(name) == path and name != "/")

    def make_directory(self, path: str, mode: int) -> None:
        if os.path.dirname(path) not in self.directories or path in self.files:
            raise ApplyError("host_refused", f"The host refused to make the directory {path}: No such file or directory.")
        self.writes += 1
        self.directories[path] = mode

    def remove_directory(self, path: str) -> bool:
        if path in self.files:
            raise ApplyError("host_refused", f"The host refused to remove {path}: Not a directory.")
        if self.names(path):
            return False
        self.directories.pop(path, None)
        return True

    def get_sysctl(self, name: str) -> str | None:
        return self.sysctls.get(name)

    def set_sysctl(self, name: str, value: str) -> None:
        if name not in self.sysctls:
            raise ApplyError("host_refused", f"The host refused to set it to {value}: /proc/sys/{name}: No such file or directory.")
        self.writes += 1
        self.sysctls[name] = value

    @contextmanager
    def lock(self, directory: str) -> Iterator[None]:
        if self.locked:
            raise ApplyError("busy", f"Another run is at work on this host (it holds {directory}).")
        missing = directory
        while missing not in self.directories:
            self.directories[missing] = 0o700
            missing = os.path.dirname(missing)
        self.locked = True
        try:
            yield
        finally:
            self.locked = False
            self.remove_directory(directory)

    # processes
    def run(self, argv: Sequence[str], timeout: float = 60.0) -> Completed:
        command = tuple(argv)
        self.ran.append(command)
        if command[0] == "systemctl":
            return Completed(command, *self._systemctl(command[1:]))
        if command[0] in self.handlers:
            return Completed(command, *self.handlers[command[0]](command))
        return Completed(command, 127, "", f"{command[0]}: No such file or directory")

    def process(self, pid: int) -> tuple[str, ...] | None:
        return self.processes.get(pid)

    def signal(self, pid: int, number: int) -> None:
        if number != 1 and not self.stubborn or number == 9:
            self.processes.pop(pid, None)

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now

    def user_id(self, name: str) -> int:
        if not name.isdigit() and name != "root":
            raise ApplyError("no_such_user", f"There is no user {name} on this host.")
        return 0 if name == "root" else int(name)

    group_id = user_id

    def with_systemd(self) -> FakeRunner:
        for path in ("/run/systemd", "/run/systemd/system", "/etc/systemd", "/etc/systemd/system"):
            self.directories[path] = 0o755
        return self

    def _systemctl(self, words: Sequence[str]) -> tuple[int, str, str]:
        verb, units = words[0], [word for word in words[1:] if not word.startswith("--")]
        if verb == "daemon-reload":
            self.unit_files = {os.path.basename(path): state.content.decode() for path, state in self.files.items()
                               if path.startswith("/etc/systemd/system/")}
            return 0, "", ""
        unit = units[0]
        state = self.units.setdefault(unit, {"active": False, "enabled": False})
        if verb == "show":
            return 0, (f"ActiveState={'active' if state['active'] else 'inactive'}\n"
                       f"UnitFileState={'enabled' if state['enabled'] else 'disabled'}\n"), ""
        if verb in ("enable", "start", "restart") and unit not in self.unit_files:
            return 5, "", f"Failed to {verb} {unit}: Unit {unit} not found."
        verb = {"reload-or-restart": "restart"}.get(verb, verb)
        if verb in ("start", "restart") and "bad" in self.unit_files.get(unit, ""):
            return 1, "", f"Job for {unit} failed because the control process exited with error code."
        state.update({"enable": {"enabled": True}, "disable": {"enabled": False}, "start": {"active": True}, "restart": {"active": True},
                      "stop": {"active": False}}.get(verb, {}))
        return 0, "", ""

    def snapshot(self) -> dict[str, Any]:
        """All that a user would notice."""
        return {"files": dict(self.files), "directories": dict(self.directories), "processes": sorted(self.processes.values()),
                "units": {unit: dict(state) for unit, state in self.units.items() if any(state.values())}}


class Killed(BaseException):
    """kill -9: nothing of the program runs after it."""


class MortalRunner:
    """A host under a program that dies at its n-th change: just before it, or just after it."""

    CHANGES = ("write", "remove", "make_directory", "remove_directory", "run", "signal", "set_sysctl")

    def __init__(self, host: FakeRunner, at: int, after: bool) -> None:
        self._host = host
        self._left = at
        self._after = after
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._host, name)
        if name not in self.CHANGES and name != "lock":
            return real
        if name == "lock":
            return self._lock

        def change(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise Killed
            self._left -= 1
            if self._left < 0:
                self.dead = True
                if self._after:
                    real(*args, **kwargs)
                raise Killed
            return real(*args, **kwargs)

        return change

    @contextmanager
    def _lock(self, directory: str) -> Iterator[None]:
        with self._host.lock(directory):  # the kernel frees it when the program dies
            yield
