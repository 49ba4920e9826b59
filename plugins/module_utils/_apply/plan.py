# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a host shall be like: a plan is a value. Check mode shows it, diff mode derives from it, apply runs it, rollback undoes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any

from .._tsp.errors import LocalError
from .items import Item
from .kernel import check

MANAGERS = ("auto", "systemd", "none", "rc_subr", "rcctl", "rc_d", "launchd")
STATES = ("started", "restarted", "reloaded", "stopped")
WHEN = ("always", "present", "absent")


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
class FileEdit:
    """A file of the site that we extend (edits.py). options: of the editor. mode, owner, group: for a file that we must make."""

    path: str
    editor: str
    options: dict[str, Any]
    mode: int = 0o644
    owner: str | None = None
    group: str | None = None


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
class Settle:
    """A command that makes the host be as its files say. It runs after they changed, and again after they were put back.

    when: always; present: only on the way to the plan; absent: only on the way back.
    """

    argv: tuple[str, ...]
    timeout: float = 60.0
    when: str = "always"


@dataclass(frozen=True)
class Service:
    """A program that shall run with these files.

    manager: systemd (name is the unit), none (argv starts it and returns once it runs; pid_file says where it is), one of
    rc_services.COMMANDS, auto (systemd where it runs the host, else the one of this system, else none).
    """

    name: str
    manager: str = "auto"
    argv: tuple[str, ...] = ()
    pid_file: str | None = None
    timeout: float = 30.0
    reload_argv: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON types, for a journal or a memory."""
        return {**asdict(self), "argv": list(self.argv), "reload_argv": list(self.reload_argv)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Service:
        """Raises TypeError or KeyError for what is none."""
        return cls(**{**data, "argv": tuple(data["argv"]), "reload_argv": tuple(data["reload_argv"])})


@dataclass(frozen=True)
class ServiceWish:
    """What a service shall be like, one of several.

    state: started; restarted, or reloaded (started where it does not run), when one of `files` changed (of all, when none are named);
    stopped. enabled: at boot; None leaves it. test_argv: run before any of that, with the new files in place.
    """

    service: Service
    state: str = "started"
    enabled: bool | None = None
    files: tuple[str, ...] = ()
    test_argv: tuple[str, ...] = ()


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
    """All of it. present: False takes everything named here away, and what is remembered of earlier plans of this name.

    stop commands run before the files change, start commands after. items: of the kernel (items.py), items_timeout: seconds in which
    the host's own configuration system has made those of them that it makes.
    """

    name: str
    present: bool = True
    directories: tuple[Directory, ...] = ()
    files: tuple[FileChange, ...] = ()
    edits: tuple[FileEdit, ...] = ()
    stop: tuple[Command, ...] = ()
    start: tuple[Command, ...] = ()
    settle: tuple[Settle, ...] = ()
    service: Service | None = None
    services: tuple[ServiceWish, ...] = ()
    items: tuple[Item, ...] = ()
    items_timeout: float = 20.0
    probe: Probe | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith(".") or not self.name.isprintable():
            raise _invalid(f"{self.name!r} cannot be the name of a transaction.", "Use letters, digits and dashes.")
        seen: set[str] = set()
        places = [(item.path, item.mode) for item in self.files] + [(item.path, item.mode) for item in self.edits]
        for path, mode in places + [(item.path, item.mode) for item in self.directories]:
            _absolute(path)
            if path in seen:
                raise _invalid(f"{path} is named twice.", "Name each path once.")
            seen.add(path)
            if not 0 <= mode <= 0o7777:
                raise _invalid(f"The mode of {path} is not a mode.", "Write it as text, for example '0644'.")
        for command in (*self.stop, *self.start):
            for argv in (command.argv, command.undo, command.unless):
                if argv is not None:
                    _command(argv)
        for settle in self.settle:
            _command(settle.argv)
        if self.service is not None:
            self._check_service(self.service)
        names = [wish.service.name for wish in self.services] + ([self.service.name] if self.service else [])
        if len(set(names)) != len(names):
            raise _invalid("A service is named twice.", "Name each service once.")
        for wish in self.services:
            self._check_service(wish.service)
            if wish.state not in STATES:
                raise _invalid(f"A service cannot be {wish.state!r}.", f"Use one of {', '.join(STATES)}.")
            if wish.test_argv:
                _command(wish.test_argv)
        check(self.items)
        if not 0 <= self.items_timeout <= 600:
            raise _invalid("items_timeout is up to 600 seconds.")
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


def _command(argv: tuple[str, ...]) -> None:
    if not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise _invalid("A command is a list of at least one word.", "Write ['ip', 'link', 'show'].")


def _invalid(message: str, hint: str = "") -> LocalError:
    return LocalError("invalid_plan", message, hint)


def _absolute(path: str) -> None:
    if not path.startswith("/") or "\0" in path or path != "/" and path.endswith("/") or ".." in path.split("/") or path == "/":
        raise _invalid(f"{path!r} is not an absolute path without detours.", "Write it from the root, without .. and final slash.")
