# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Two processes out of one: the part that reads the network, without rights, and the part that changes the host.

Started as root, the agent forks: the child keeps the rights and takes requests (applier/serve.py), the parent gives them up for good
(confine.py) and does the rest. Started without rights, as by its unit of systemd, it listens on a socket in its own folder, and the
other part, a unit of its own started with --apply, comes there and is told from others by being root. Either part notices the end of
the other: the one without rights ends then, the one with them takes away what is left.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from .._tsp.errors import LocalError, TspError
from .applier.host import HostApplier, private_folder
from .applier.serve import serve
from .confine import confine, drop
from .daemon import held
from .settings import AgentConfig

ROOT = ("", "root")
"""Values of `user` that mean: stay what you are."""
PATIENCE = 30.0
"""Seconds that either part waits for the other at start."""
CAP_NET_ADMIN = 12
LINUX_PEERCRED = 17


def user_of(configs: Sequence[AgentConfig]) -> str:
    """Whom to become; empty to stay what we are. Raises LocalError `config_invalid` where the files of one process disagree."""
    users = {"" if config.user in ROOT else config.user for config in configs}
    if len(users) > 1:
        raise LocalError("config_invalid", f"The tunnels of one process have different users: {', '.join(sorted(users)) or 'none'}.",
                         "Give them the same `user`, or a process each.")
    return users.pop() if os.geteuid() == 0 else ""


def may_change_the_host() -> bool:
    """Whether we are root, or have CAP_NET_ADMIN."""
    if os.geteuid() == 0:
        return True
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return False


def split(configs: Sequence[AgentConfig], make: Callable[[AgentConfig, logging.Logger], HostApplier], user: str,
          log: logging.Logger, first: Callable[[], None] = lambda: None,
          load: Callable[[], None] = lambda: None) -> tuple[socket.socket, int]:
    """Fork: the child keeps the rights, we become `user`. Returns our end of the connection, and the child's process id.

    first: what the child does first, to let go of what is ours. load: what we do while we still have the rights, to load what the child
    does not need.

    Raises LocalError `cannot_drop`, `runtime_dir_unusable`; then there is no child.
    """
    for config in configs:
        private_folder(config)
        hand_over(config, user)
    ours, theirs = socket.socketpair()
    gc.freeze()  # so that collecting does not copy what the two can share
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ours.close()
            first()
            os.setpgid(0, 0)  # a ^C is for the one that ends in order
            serve(theirs, {config.name: make(config, log) for config in configs}, log)
            for config in configs:
                tidy(config)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    load()
    if not all(_open_to_all(path) for path in (sys.argv[0], os.__file__)):
        _load_all()
    try:
        for lack in drop(user):
            log.info("%s", lack)
    except BaseException:
        ours.close()
        os.waitpid(child, 0)
        raise
    return ours, child


def _open_to_all(path: str) -> bool:
    """Whether any user may read this file."""
    path = os.path.realpath(path)
    try:
        while path != os.path.dirname(path):
            mode = os.stat(path).st_mode
            if not mode & (0o001 if os.path.isdir(path) else 0o004):
                return False
            path = os.path.dirname(path)
    except OSError:
        return False
    return True


def _load_all() -> None:
    """What would be imported when it is first needed, while we may still read it: our program or Python lies where only root can look."""
    from .._tsp.dsakey import library

    for name in (".._tsp.digest_md5", ".._tsp.passdss", "encodings.idna", "concurrent.futures.thread", "_strptime", "linecache", "pwd",
                 "select", "ctypes"):
        importlib.import_module(name, __package__)
    with contextlib.suppress(TspError):
        library()


def confined(configs: Sequence[AgentConfig]) -> tuple[str, ...]:
    """Bound the part without rights to its files and its kind of calls, where the system can (OpenBSD). Returns what it lacks."""
    paths = {sys.argv[0]: "r", sys.prefix: "r", sys.base_prefix: "r", "/etc": "r", "/usr/share": "r", "/usr/lib": "r",
             "/usr/local/lib": "r", "/dev/null": "rw", "/dev/log": "rw", "/dev/console": "w"}
    for config in configs:
        paths.setdefault(os.path.dirname(config.lease_file), "r")
        options = config.options
        for place in (config.runtime_file("status.json"), os.path.join(config.state_dir, "any"), config.log.filename,
                      config.metrics.textfile, options.last_server_file, options.broker_list_file, options.known_keys_file):
            if place:
                paths[os.path.dirname(place)] = "rwc"
    if sys.platform.startswith("openbsd"):
        from . import counters

        counters.without_programs()  # netstat would be the end of us
    return confine(sorted((path, letters) for path, letters in paths.items() if os.path.exists(path)))


def ended(child: int, log: logging.Logger) -> None:
    """Wait until the part with the rights has taken away what was left."""
    with contextlib.suppress(ChildProcessError):
        _pid, status = os.waitpid(child, 0)
        if status:
            log.error("the part of the agent that changes the host ended with status %d", status)


def hand_over(config: AgentConfig, user: str) -> None:
    """Give the folders of the part without rights, and what lies in them, to that user; of what lies elsewhere (a log, the files of an
    old client) the file alone, since others have theirs beside it. Raises LocalError `runtime_dir_unusable`."""
    import pwd

    try:
        account = pwd.getpwnam(user) if not user.isdigit() else pwd.getpwuid(int(user))
    except KeyError:
        return  # drop() says so
    for folder, mode in ((config.runtime_dir, 0o755), (config.state_dir, 0o700)):
        try:
            os.makedirs(folder, mode=mode, exist_ok=True)
            _give(folder, account.pw_uid, account.pw_gid)
        except OSError as exc:
            raise LocalError("runtime_dir_unusable", f"{folder} cannot be given to {user}: {exc.strerror}.",
                             "Set another runtime_dir or state_dir, or another user.") from None
    options = config.options
    files = [config.log.filename if config.log.file else None, options.last_server_file, options.broker_list_file,
             options.known_keys_file if options.server_key_policy == "accept_new" else None]
    for path in files:
        if path and os.path.dirname(path) not in (config.runtime_dir, config.state_dir):
            with contextlib.suppress(OSError):  # who wants to write there says what is wrong
                _give_file(path, account.pw_uid, account.pw_gid)


def _give_file(path: str, uid: int, gid: int) -> None:
    """An empty one where there is none. Its folder must be there, and be such that nobody else can have put a file of this name there."""
    folder = os.stat(os.path.dirname(path))
    if folder.st_uid not in (0, uid) or folder.st_mode & 0o022:
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
    try:
        found = os.fstat(handle)
        if found.st_nlink == 1 and stat.S_ISREG(found.st_mode):
            os.fchown(handle, uid, gid)
    finally:
        os.close(handle)


def _give(folder: str, uid: int, gid: int) -> None:
    """The folder and the plain files in it: never through a link that somebody put there."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(handle, uid, gid)
        for name in os.listdir(handle):
            with contextlib.suppress(OSError):
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
                try:
                    found = os.fstat(file)
                    if found.st_nlink == 1 and (found.st_mode & 0o170000) == 0o100000:
                        os.fchown(file, uid, gid)
                finally:
                    os.close(file)
    finally:
        os.close(handle)


def tidy(config: AgentConfig) -> None:
    """Remove what an agent that was killed could not: its files of the moment, and the folders in which they lay."""
    for suffix in ("status.json", "status.json.new", "apply", "pid"):
        with contextlib.suppress(OSError):
            os.unlink(config.runtime_file(suffix))
    for folder in (os.path.dirname(config.private_file("undo.json")), config.runtime_dir):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def await_applier(configs: Sequence[AgentConfig]) -> socket.socket:
    """The connection of the unit that has the rights, once it comes. Raises LocalError `applier_missing`."""
    path = configs[0].runtime_file("apply")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o666)  # root without all its capabilities is one of the others; who comes is looked at
        listener.listen(4)
        until = time.monotonic() + PATIENCE
        while True:
            left = until - time.monotonic()
            if left <= 0 or not select.select([listener], [], [], left)[0]:
                raise LocalError("applier_missing", "The part of the agent that changes the host did not come.",
                                 "Look into the journal of its unit (tsp-apply-NAME.service), or start the agent as root.")
            sock, _address = listener.accept()
            if _peer(sock) == 0:
                return sock
            sock.close()
    except OSError as exc:
        raise LocalError("runtime_dir_unusable", f"{path} cannot be made: {exc.strerror}.", "Set another runtime_dir.") from None
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            os.unlink(path)


def apply_for(configs: Sequence[AgentConfig], make: Callable[[AgentConfig, logging.Logger], HostApplier], log: logging.Logger) -> None:
    """Be the part with the rights, for an agent that waits in its folder; until it ends. Raises LocalError `agent_missing`."""
    for config in configs:
        private_folder(config)
    tunnels = {config.name: make(config, log) for config in configs}
    signal.signal(signal.SIGTERM, _end)
    try:
        sock = _find_agent(configs[0].runtime_file("apply"))
    except BaseException:
        for config in configs:
            if not held(config.runtime_file("pid")):  # no agent will come: what one before us left is nobody's
                with contextlib.suppress(TspError):
                    tunnels[config.name].recover()
                _tidy_alone(config)
        raise
    serve(sock, tunnels, log)
    for config in configs:
        _tidy_alone(config)


def _tidy_alone(config: AgentConfig) -> None:
    """Remove our folder, and that of an agent that was killed. That of one that ended is its own, or systemd's, which may just have made it
    for the next one."""
    path = config.runtime_file("pid")
    if os.path.lexists(path) and not held(path):
        tidy(config)
    else:
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(config.private_file("undo.json")))


def _end(_number: int, _frame: Any) -> None:
    raise SystemExit(0)


def _find_agent(path: str) -> socket.socket:
    until = time.monotonic() + PATIENCE
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            # Whoever owns the folder is the agent: it lies where only root makes folders.
            if _peer(sock) != os.stat(os.path.dirname(path)).st_uid:
                raise LocalError("agent_missing", f"{path} is not the agent's: another user listens there.", "Find out who made it.")
            return sock
        except OSError as exc:
            sock.close()
            if time.monotonic() > until:
                raise LocalError("agent_missing", f"No agent waits at {path}: {exc.strerror}.",
                                 "Start the agent's unit, which starts this one.") from None
            time.sleep(0.05)


def _peer(sock: socket.socket) -> int:
    """The user at the other end; -1 where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return -1
    data = sock.getsockopt(socket.SOL_SOCKET, LINUX_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])
