# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The laboratory as one value: makes namespaces and wires, ends them all, and keeps what helps to understand a failure."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from . import network
from .machine import LabError, why_not
from .namespace import PROJECT, Namespace

_HEIR = """
import os, shutil, sys, time
sys.stdin.buffer.read()
for _attempt in range(100):  # what still runs in the namespaces may write a moment longer
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.1)
"""
"""Removes the folder when we end, by `kill -9` too."""


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if stat.S_ISSOCK(os.lstat(os.path.join(folder, name)).st_mode)]


class Lab:
    """A context manager. `folder` is for files of this run; programs started with popen() log there.

    When the block ends with an exception, the folder, with a report of every namespace added, is kept as
    build/lab-failures/<name>, and its path goes to standard error. Else the folder is removed. failures: counts what failed elsewhere; it
    is kept too when that is more at the end than it was at the beginning (a fixture's block ends well whatever its tests found).
    """

    def __init__(self, name: str, failures: Callable[[], int] = int) -> None:
        reason = why_not(tun=False)
        if reason:
            raise LabError(reason)
        self.name = name
        self._failures = failures
        self._failed = failures()
        self.folder = Path(tempfile.mkdtemp(prefix=f"tsp-{name}-"))
        self._heir = subprocess.Popen([sys.executable, "-I", "-S", "-c", _HEIR, str(self.folder)], stdin=subprocess.PIPE,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.namespaces: list[Namespace] = []
        self.reporters: dict[str, Callable[[], str]] = {}
        """What else can say how things are, by the name of the file to keep it in."""

    def namespace(self, name: str, *, root: bool = False, visible: Sequence[str | os.PathLike[str]] = ()) -> Namespace:
        """A host; with `root` one with files of its own, where this project, this Python and `visible` are seen too."""
        made = Namespace(name, root=root, visible=[*visible, self.folder], logs=self.folder)
        self.namespaces.append(made)
        return made

    def segment(self, name: str) -> network.Segment:
        """An Ethernet segment; attach hosts to it."""
        return network.Segment(self.namespace(name))

    def veth(self, a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
        """A wire between two hosts."""
        network.veth(a, a_name, b, b_name)

    def nat(self, namespace: Namespace, inside: str | tuple[str, ...], outside: str, udp_timeout: int = 30) -> network.Nat:
        """Make a host with these interfaces a NAT."""
        return network.Nat(namespace, inside, outside, udp_timeout)

    def close(self) -> None:
        """End every namespace, the last made first."""
        while self.namespaces:
            self.namespaces.pop().close()

    def keep(self) -> Path:
        """Write down the state of every namespace, and move the folder to where failures are kept."""
        for made in self.namespaces:
            with contextlib.suppress(LabError, OSError):
                (self.folder / f"{made.name}.report").write_text(made.report(), encoding="utf-8")
        for name, report in self.reporters.items():
            with contextlib.suppress(LabError, OSError):
                (self.folder / f"{name}.report").write_text(report(), encoding="utf-8")
        kept = PROJECT / "build" / "lab-failures" / self.name
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.folder, kept, symlinks=True, ignore_dangling_symlinks=True, ignore=_sockets)
        return kept

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, _value: object, _trace: object) -> None:
        try:
            if kind is not None and issubclass(kind, Exception) or self._failures() > self._failed:
                print(f"lab {self.name}: what it looked like is in {self.keep().relative_to(PROJECT)}", file=sys.stderr)
        finally:
            self.close()
            self._heir.communicate()
