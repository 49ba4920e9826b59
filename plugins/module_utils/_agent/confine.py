# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Giving up rights for good: another user, no capabilities, none to be gained (Linux, FreeBSD), pledge and unveil (OpenBSD).

Each function tells what this system cannot do, so that the caller can say so; what a system can do and refuses is an error. To be
called before there is a second thread: the kernel keeps some of these rights for each thread by itself.
Sources: Linux capabilities(7), prctl(2), proc(5); FreeBSD procctl(2); OpenBSD pledge(2), unveil(2); setresuid(2) of each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from .._tsp.errors import LocalError

PROMISES = "stdio rpath wpath cpath fattr flock inet unix dns route sendfd recvfd prot_exec"
"""pledge(2) of the part that reads the network: sockets, its files, names of brokers, descriptors from the applier, and Python's own
modules as they are needed. No promise allows to open a route socket: that must have been done by then, or the kernel ends the process."""
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 39, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
P_PID, PROC_NO_NEW_PRIVS_CTL, PROC_NO_NEW_PRIVS_ENABLE = 0, 19, 1
LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"
HINT = "Let `user` name an account that exists and has no rights of its own, and start the agent as root; or set user to nothing."


def drop(user: str, keep_groups: Sequence[str] = ()) -> tuple[str, ...]:
    """Become this user (a name or a number) for good: no other groups than its own and keep_groups, no capabilities, none to be gained.

    Returns sentences on what this system has no means for; empty when all was done. Raises LocalError `cannot_drop` when there is no such
    user, when it is root, or when the kernel lets us keep or regain anything.
    """
    uid, gid = _account(user)
    groups = {gid, *map(_group, keep_groups)}
    try:
        if os.geteuid() == 0:
            _drop_bounding_set()
            os.setgroups(sorted(groups))
            _set_group(gid)
            _set_user(uid)
        elif os.geteuid() != uid:
            raise _refused(f"only root can become user {user}")
        else:
            groups = {os.getgid(), *os.getgroups()}  # who started us chose them
        _drop_capabilities()
        lacks = _no_new_privileges()
    except OSError as exc:
        raise _refused(f"{exc.strerror}") from None
    _verify(uid, groups)
    return lacks


def pledge(promises: str = PROMISES, platform: str = sys.platform) -> bool:
    """Nothing but these promises from here on, and no other program. False: this system has no pledge(2). Raises LocalError
    `cannot_drop`."""
    if not platform.startswith("openbsd"):
        return False
    _call("pledge", promises.encode("ascii"), None)
    return True


def unveil(paths: Sequence[tuple[str, str]], platform: str = sys.platform) -> bool:
    """No other files than these from here on. paths: (absolute path, letters of r, w, x, c). False: this system has no unveil(2).
    Raises LocalError `cannot_drop`."""
    if not platform.startswith("openbsd"):
        return False
    for path, letters in paths:
        _call("unveil", os.fsencode(path), letters.encode("ascii"))
    _call("unveil", None, None)
    return True


def confine(paths: Sequence[tuple[str, str]], promises: str = PROMISES, platform: str = sys.platform) -> tuple[str, ...]:
    """unveil, then pledge; returns sentences on what this system lacks, as `drop` does."""
    if unveil(paths, platform) and pledge(promises, platform):
        return ()
    return ("This system has neither pledge nor unveil: files and calls of the kernel are bounded by the user's rights alone.",)


def _account(user: str) -> tuple[int, int]:
    import pwd

    try:
        found = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        raise _refused(f"there is no user {user}") from None
    if found.pw_uid == 0:
        raise _refused(f"{user} is root")
    return found.pw_uid, found.pw_gid


def _group(name: str) -> int:
    import grp

    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise _refused(f"there is no group {name}") from None


def _set_group(gid: int) -> None:
    # setgid(2) of root sets the saved one as well; NetBSD and macOS have no setresgid.
    if hasattr(os, "setresgid"):
        os.setresgid(gid, gid, gid)
    else:
        os.setgid(gid)


def _set_user(uid: int) -> None:
    if hasattr(os, "setresuid"):
        os.setresuid(uid, uid, uid)
    else:
        os.setuid(uid)


def _verify(uid: int, groups: set[int]) -> None:
    """That it cannot go back."""
    users = set(os.getresuid()) if hasattr(os, "getresuid") else {os.getuid(), os.geteuid()}
    if users != {uid}:
        raise _refused("the kernel kept the user that we were")
    left_groups = {*(os.getresgid() if hasattr(os, "getresgid") else (os.getgid(), os.getegid())), *os.getgroups()}
    if left_groups - groups:
        raise _refused("the kernel kept groups of the user that we were")
    for back in (os.setuid, os.seteuid, os.setgid):
        try:
            back(0)
        except OSError:
            continue
        raise _refused("the kernel would let us become root again")
    left = _capabilities()
    if left:
        raise _refused(f"the kernel kept capabilities ({left})")


def _capabilities() -> str:
    """What is left of them; only Linux has any."""
    try:
        with open("/proc/self/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    sets = [line.split() for line in lines if line.startswith((b"CapPrm:", b"CapEff:", b"CapInh:", b"CapAmb:"))]
    return ", ".join(f"{name.decode()} {value.decode()}" for name, value in sets if int(value, 16))


def _drop_bounding_set() -> None:
    """Needs CAP_SETPCAP, so it comes before the user changes. What is not in the bounding set comes back by no program."""
    if not sys.platform.startswith("linux"):
        return
    try:
        with open(LAST_CAPABILITY, encoding="ascii") as file:
            last = int(file.read())
    except (OSError, ValueError):
        last = 40
    for number in range(last + 1):
        try:
            _prctl(PR_CAPBSET_DROP, number)
        except OSError:
            return  # a container may keep CAP_SETPCAP from its root; the sets that matter are emptied and read back below


def _drop_capabilities() -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    try:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError:
        pass  # before Linux 4.3 there are none
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    libc = _libc()
    if libc.capset(header, nothing):
        raise _error()


def _no_new_privileges() -> tuple[str, ...]:
    if sys.platform.startswith("linux"):
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
        return ()
    if sys.platform.startswith("freebsd"):
        import ctypes

        value = ctypes.c_int(PROC_NO_NEW_PRIVS_ENABLE)
        procctl = getattr(_libc(), "procctl", None)
        if procctl is not None and not procctl(P_PID, ctypes.c_int64(os.getpid()), PROC_NO_NEW_PRIVS_CTL, ctypes.byref(value)):
            return ()
        return ("This FreeBSD is older than 14: a set-user-ID program that the agent was made to run would still get its rights.",)
    if sys.platform.startswith("openbsd"):
        return ("On OpenBSD only pledge(2) without exec forbids set-user-ID programs.",)
    return ("This system cannot forbid set-user-ID programs to one process.",)


def _prctl(*values: int) -> None:
    import ctypes

    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[1:5]]
    if _libc().prctl(values[0], *arguments):
        raise _error()


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _error() -> OSError:
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _call(function: str, *arguments: bytes | None) -> None:
    """A function of the C library that takes strings, and returns 0 when all is well."""
    if getattr(_libc(), function)(*arguments):
        raise _refused(f"{function}: {_error().strerror}")


def _refused(why: str) -> LocalError:
    return LocalError("cannot_drop", f"The agent cannot give up its rights: {why}.", HINT)
