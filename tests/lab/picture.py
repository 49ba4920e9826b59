# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine looks like at a moment: to prove that a demonstration leaves it as it found it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .holder import CHANGES
from .namespace import Namespace

FOLDERS = ("/etc", "/usr/local", "/var/lib", "/var/log", "/run", "/srv")
_LIST = (r"find {folders} -xdev \( -path '*/.ansible' -o -path '*/__pycache__' \) -prune -o "
         r"-type d -printf '%p\tfolder %m\n' -o -printf '%p\t%y %m %s\n' 2>/dev/null; true")


@dataclass(frozen=True)
class Picture:
    """Files (path, tab, kind, mode, size), interfaces, addresses and routes, processes. own: the paths that a host of the laboratory itself
    changed; what else changes there is the machine's doing (its logs, for instance) and none of ours."""

    files: frozenset[str]
    network: frozenset[str]
    processes: frozenset[str]
    own: frozenset[str] | None = None

    def differences(self, later: Picture) -> list[str]:
        """What is there later and was not, or was and is not."""
        found = []
        for what in ("files", "network", "processes"):
            before, after = getattr(self, what), getattr(later, what)
            if what == "files" and self.own is not None and later.own is not None:
                own = self.own | later.own
                before, after = ({line for line in lines if _path(line) in own} for lines in (before, after))
            found += [f"{what}: new: {item}" for item in sorted(after - before)]
            found += [f"{what}: gone: {item}" for item in sorted(before - after)]
        return [item.replace("\t", " ") for item in found]


def _path(line: str) -> str:
    return line.partition("\t")[0]


def of_namespace(namespace: Namespace) -> Picture:
    """A host of the laboratory."""
    files = namespace.run("sh", "-c", _LIST.format(folders=" ".join(FOLDERS)), timeout=60).stdout.splitlines()
    network = []
    for command in ("-o link", "-o addr", "route", "-6 route", "-6 rule"):
        network += [" ".join(line.split()) for line in namespace.ip(command).splitlines()]
    own = set(namespace.run("find", CHANGES, "-printf", "/%P\\n", timeout=60).stdout.splitlines())
    own.update(path for path in map(_path, files) if path.startswith("/run"))  # is the host's alone
    return Picture(frozenset(files), frozenset(_without_times(network)), frozenset(namespace.processes()), frozenset(own))


def _without_times(lines: list[str]) -> list[str]:
    """Lifetimes, the state of duplicate address detection, and interface numbers left out: they change by themselves."""
    return [line.split(": ", 1)[-1].split(" valid_lft")[0].replace(" tentative", "").rstrip("\\ ") for line in lines]


def marked_processes(mark: str) -> dict[int, str]:
    """Processes of the machine whose environment has `mark` (NAME=value): id -> command line. Our own are left out."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if mark.encode() in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                found[int(entry)] = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
    return found


def networks_in_use() -> set[str]:
    """The network namespaces that some process of the machine is in."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.add(os.readlink(f"/proc/{entry}/ns/net"))
            except OSError:
                continue
    return found


def of_machine(folders: tuple[str, ...] = ("/etc", "/usr/local", "/run/netns")) -> Picture:
    """This machine itself: the names of its interfaces, and the files where a careless run would leave some."""
    files = []
    for folder in folders:
        for parent, names, plain in os.walk(folder):
            files += [os.path.join(parent, name) for name in names + plain]
    interfaces = os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else []
    return Picture(frozenset(files), frozenset(interfaces), frozenset())
