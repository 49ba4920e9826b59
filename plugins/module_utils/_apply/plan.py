# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a host shall be like: a plan is a value. Check mode shows it, diff mode derives from it, apply runs it, rollback undoes it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from .._tsp.errors import LocalError

MANAGERS = ("auto", "systemd", "none")


@dataclass(frozen=True)
class FileChange:
    """A file that shall have this content (None: shall not exist), mode and owner. secret: content is never shown."""

    path: str
    content: bytes | None
    mode: int = 0o644
    owner: str | None = None
    group: str | None = None
    secret: bool = False

    def __repr__(self) -> str:
        size = "absent" if self.content is None else f"{len(self.content)} bytes"
        return f"FileChange({self.path!r}, {size}, {self.mode:04o})"


@dataclass(frozen=True)
class Directory:
    """A directory of ours: made when the state is present, removed when absent and empty."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True)
class Command:
    """A command that runs when something changes. undo: takes it back. unless: when this one succeeds, there is nothing to do."""

    argv: tuple[str, ...]
    undo: tuple[str, ...] | None = None
    unless: tuple[str, ...] | None = None
    timeout: float = 60.0

    @property
    def line(self) -> str:
        """The command for people."""
        return " ".join(self.argv)


@dataclass(frozen=True)
class Service:
    """A program that shall run with these files.

    manager: systemd (name is the unit), none (argv starts it and returns once it runs; pid_file says where it is), auto (systemd
    where it runs the host, else none).
    """

    name: str
    manager: str = "auto"
    argv: tuple[str, ...] = ()
    pid_file: str | None = None
    timeout: float = 30.0


@dataclass(frozen=True)
class Probe:
    """Whom to ping to prove it. count: replies wanted; timeout: seconds for all of them, set-up of the tunnel included.

    status_file: where the program that makes the tunnel says what it is about; its last error explains a failure.
    """

    address: str
    source: str | None = None
    interface: str | None = None
    count: int = 1
    timeout: float = 15.0
    status_file: str | None = None


@dataclass(frozen=True)
class Plan:
    """All of it. present: False takes everything named here away. stop commands run before the files change, start commands after."""

    name: str
    present: bool = True
    directories: tuple[Directory, ...] = ()
    files: tuple[FileChange, ...] = ()
    stop: tuple[Command, ...] = ()
    start: tuple[Command, ...] = ()
    service: Service | None = None
    probe: Probe | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith(".") or not self.name.isprintable():
            raise _invalid(f"{self.name!r} cannot be the name of a transaction.", "Use letters, digits and dashes.")
        seen: set[str] = set()
        places = [(item.path, item.mode) for item in self.files] + [(item.path, item.mode) for item in self.directories]
        for path, mode in places:
            _absolute(path)
            if path in seen:
                raise _invalid(f"{path} is named twice.", "Name each path once.")
            seen.add(path)
            if not 0 <= mode <= 0o7777:
                raise _invalid(f"The mode of {path} is not a mode.", "Write it as text, for example '0644'.")
        for command in (*self.stop, *self.start):
            for argv in (command.argv, command.undo, command.unless):
                if argv is not None and (not argv or not all(isinstance(word, str) and "\0" not in word for word in argv)):
                    raise _invalid("A command is a list of at least one word.", "Write ['ip', 'link', 'show'].")
        if self.service is not None:
            self._check_service(self.service)
        if self.probe is not None:
            self._check_probe(self.probe)

    @staticmethod
    def _check_service(service: Service) -> None:
        if service.manager not in MANAGERS:
            raise _invalid(f"The service manager {service.manager!r} is unknown.", f"Use one of {', '.join(MANAGERS)}.")
        if not service.name or "/" in service.name or service.name.startswith("-"):
            raise _invalid(f"{service.name!r} cannot be the name of a service.", "Use the unit's name, for example tsp-agent.service.")
        if service.manager != "systemd" and (not service.argv or not service.pid_file):
            raise _invalid(f"The service {service.name} has no command and pid file.",
                           "Give both: they are used where systemd does not run the host.")
        if service.pid_file is not None:
            _absolute(service.pid_file)

    @staticmethod
    def _check_probe(probe: Probe) -> None:
        for value in (probe.address, probe.source):
            if value is not None:
                try:
                    ip_address(value)
                except ValueError:
                    raise _invalid(f"probe: {value!r} is not an address.", "Probe an address, not a name.") from None
        if probe.source is not None and ip_address(probe.source).version != ip_address(probe.address).version:
            raise _invalid(f"probe: {probe.source} cannot be the source of a ping to {probe.address}.", "Use addresses of one family.")
        if not 1 <= probe.count <= 100 or not 0 < probe.timeout <= 600:
            raise _invalid("probe: count is 1 to 100, timeout up to 600 seconds.")


def _invalid(message: str, hint: str = "") -> LocalError:
    return LocalError("invalid_plan", message, hint)


def _absolute(path: str) -> None:
    if not path.startswith("/") or "\0" in path or path != "/" and path.endswith("/") or ".." in path.split("/") or path == "/":
        raise _invalid(f"{path!r} is not an absolute path without detours.", "Write it from the root, without .. and final slash.")
