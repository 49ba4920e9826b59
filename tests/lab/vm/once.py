# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boot the image, run one command in a copy of the checkout, and give back what it printed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import qemu
from .image import PROJECT, image


@dataclass(frozen=True)
class Report:
    """status: of the command, None when the guest did not come to its end. output: of the command; log: of the whole console."""

    status: int | None
    output: str
    log: str


def boot(command: str, *, folder: Path, extra: Mapping[str, Path] | None = None, memory: int = 512, timeout: float = 600,
         counted: bool = False) -> Report:
    """Run the shell `command` in /project of a fresh guest.

    folder: a scratch folder. extra: more files for the guest, path inside /project to path here (built programs, for example).
    memory in MiB, timeout in seconds: generous, since emulation on a busy machine takes its time; reaching it gives status None.
    counted: see qemu.py.
    """
    made = image()
    disk = folder / "project.tar"
    members: dict[str, bytes | str | Path] = {f"project/{name}": path for name, path in checkout().items()}
    members.update({f"project/{name}": path for name, path in (extra or {}).items()})
    qemu.pack(disk, {**members, "project/.command": command + "\n"})
    words = qemu.command_line(made, disk, memory=memory, append="panic=-1 lab.init=/lab/once.sh", once=True,
                              counted=counted)
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                              check=False)
        log = done.stdout
    except subprocess.TimeoutExpired as late:
        log = late.stdout or b""
    text = log.decode("utf-8", "replace").replace("\r\n", "\n")
    _unused, begun, rest = text.partition("@@guest begins\n")
    output, ended, tail = rest.partition("@@guest ends ")
    status = int(tail.split()[0]) if begun and ended and tail.split()[:1] else None
    return Report(status, output, text)


def checkout() -> dict[str, Path]:
    """The checkout's files as git sees them, tracked and new: name to path."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True,
                            check=False)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
    else:  # a copy without its repository
        names = [str(path.relative_to(PROJECT)) for path in PROJECT.rglob("*")
                 if path.is_file() and path.relative_to(PROJECT).parts[0] not in ("build", "dist", ".venv", ".git")]
    return {name: PROJECT / name for name in sorted(names) if (PROJECT / name).is_symlink() or (PROJECT / name).is_file()}
