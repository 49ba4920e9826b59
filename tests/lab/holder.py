# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The process that holds one namespace of the laboratory. Run by namespace.py: `holder.py JSON`.

It makes the namespaces, forks the first process inside (the init of a process namespace), prints that one's id, and waits. The
init lives until the pipe on its standard input is closed, that is until whoever asked for the namespace ends or closes it; with
it the kernel ends every process inside, and takes the interfaces and mounts away.

Standard library only; any Python 3.9 or newer.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
ALL = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
PRIVATE_FOLDERS = {"proc", "sys", "dev", "run", "tmp"}
CHANGES = "/.changes"
"""Where a host with files of its own shows what it changed, folder by folder."""
WRITTEN_TO = ("etc/systemd/system", "usr/local/lib", "var/lib")
OURS_ON_A_HOST = ("etc/ansible", "etc/tsp", "usr/local/lib/tsp", "var/lib/tsp")
"""Folders of the machine's root, who has no number in a user namespace, so that nobody there may write to them, nor remove the latter."""


def main() -> int:
    settings = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(ALL):
        number = ctypes.get_errno()
        print(f"error: cannot make namespaces: {os.strerror(number)}", flush=True)
        return 1
    told, telling = os.pipe()
    child = os.fork()
    if child:
        os.close(0)
        print(f"pid {child}", flush=True)
        os.close(telling)  # only now may the child say its own
        os.close(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(telling)
    os.read(told, 1)
    os.close(told)
    try:
        _prepare(settings)
    except (OSError, subprocess.CalledProcessError) as exc:
        detail = exc.stderr.strip() if isinstance(exc, subprocess.CalledProcessError) else str(exc)
        print(f"error: cannot prepare {settings['name']}: {detail}", flush=True)
        return 1
    print("ready", flush=True)
    _live()
    return 0


def _live() -> None:
    """Be an init: bury the dead, and end when the pipe closes."""

    def bury(_signal: int, _frame: Any) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    signal.signal(signal.SIGCHLD, bury)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    while True:
        ready = select.select([0], [], [])[0]
        if ready and not os.read(0, 1):
            return


def _run(*words: str) -> None:
    subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)


def _prepare(settings: dict[str, Any]) -> None:
    socket.sethostname(settings["name"])
    _run("mount", "--make-rprivate", "/")
    if settings["root"]:
        _own_root(settings["folder"], settings["readable"], settings["writable"])
    else:
        _run("mount", "-t", "proc", "proc", "/proc")
        subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], capture_output=True, check=False)  # /sys/class/net; forbidden in places
    _run("ip", "link", "set", "lo", "up")


def _is_real_root() -> bool:
    """Whether user 0 here is user 0 of the machine, and not of a user namespace."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _give_us(upper: str, entry: str) -> None:
    """Lay folders of our own over those of `entry` that are written to; what is in them is still seen."""
    paths = [f"/{path}" for path in WRITTEN_TO]
    paths += [parent for path in OURS_ON_A_HOST for parent, _folders, _files in os.walk(f"/{path}")]
    for path in paths:
        if path.startswith(f"/{entry}/") and os.path.isdir(path) and os.path.realpath(path) == path:
            os.makedirs(upper + path, mode=0o755, exist_ok=True)


def _own_root(folder: str, readable: list[str], writable: list[str]) -> None:
    """Make / a copy whose changes live in memory: one overlay per folder of /, since the whole of / cannot be one without root.

    `readable` and `writable` are folders seen under their own names as they are; what is written to the latter stays.
    """
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    # Without real root an overlay keeps its notes in attributes that users may write.
    options = "" if _is_real_root() else ",userxattr"
    new, upper = os.path.join(folder, "root"), os.path.join(folder, "changes")
    os.mkdir(new, 0o755)
    os.mkdir(upper, 0o755)
    _run("mount", "--bind", new, new)
    for entry in sorted(os.listdir("/")):
        source, target = "/" + entry, os.path.join(new, entry)
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif os.path.isdir(source) and entry not in PRIVATE_FOLDERS:
            mode = os.stat(source).st_mode & 0o7777
            os.mkdir(target)
            above, work = os.path.join(upper, entry), os.path.join(upper, entry + ".work")
            os.mkdir(above)
            os.chmod(above, mode)
            os.mkdir(work)
            if not _is_real_root():
                _give_us(upper, entry)
            try:
                _run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={source},upperdir={above},workdir={work}{options}", target)
            except subprocess.CalledProcessError:
                # Without root a folder with mounts inside cannot lie under an overlay. Seen as it is, then, but not written to.
                _run("mount", "--rbind", source, target)
                subprocess.run(["mount", "-o", "remount,bind,ro", target], capture_output=True, check=False)
    # What this host itself changed, to look at: the rest of what is seen may change by the machine's doing.
    os.mkdir(new + CHANGES)
    _run("mount", "--bind", upper, new + CHANGES)
    _run("mount", "-o", "remount,bind,ro", new + CHANGES)
    for entry in PRIVATE_FOLDERS:
        os.mkdir(os.path.join(new, entry))
    _run("mount", "--rbind", "/dev", os.path.join(new, "dev"))
    _run("mount", "-t", "proc", "proc", os.path.join(new, "proc"))
    try:
        _run("mount", "-t", "sysfs", "sysfs", os.path.join(new, "sys"))
    except subprocess.CalledProcessError:
        _run("mount", "--rbind", "/sys", os.path.join(new, "sys"))
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", os.path.join(new, "run"))
    _run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", os.path.join(new, "tmp"))
    for path in (*readable, *writable):
        target = new + path
        os.makedirs(target, exist_ok=True)
        _run("mount", "--bind", path, target)
        if path not in writable:
            subprocess.run(["mount", "-o", "remount,bind,ro", target], capture_output=True, check=False)
    old = os.path.join(new, "run")
    os.chdir(new)
    _run("pivot_root", ".", old)
    os.chroot(".")
    os.chdir("/")
    _run("umount", "-l", "/run")


if __name__ == "__main__":
    sys.exit(main())
