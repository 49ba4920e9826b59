# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run a program inside a namespace of the laboratory, as if it ran here: `enter.py PID:all PROGRAM [ARGUMENT…]`,
or only in its network: `enter.py PID:net …`.

nsenter would do, but for one thing: it forks to enter a process namespace, and a signal for the program then ends nsenter alone.
This one hands SIGTERM, SIGINT and SIGHUP on, waits for the program, and ends as it ended; and the program ends if this is killed.

Standard library only; any Python 3.9 or newer.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
NAMESPACES = ("ipc", "uts", "net", "pid", "mnt")


def main() -> int:
    pid, _colon, what = sys.argv[1].partition(":")
    program = sys.argv[2:]
    names = ("net",) if what == "net" else NAMESPACES
    libc = ctypes.CDLL(None, use_errno=True)
    folder = os.getcwd()
    handles = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in names]
    for name, handle in zip(names, handles):
        if libc.setns(handle, 0):
            print(f"enter.py: cannot enter the {name} namespace of {pid}: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
            return 126
        os.close(handle)
    if os.path.isdir(folder):
        os.chdir(folder)
    handed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, handed_on)
    child = os.fork()
    if not child:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
        try:
            os.execvp(program[0], program)
        except OSError as exc:
            print(f"enter.py: {program[0]}: {exc.strerror}", file=sys.stderr)
            os._exit(127)

    def hand_on(number: int, _frame: Any) -> None:
        os.kill(child, number)

    for number in handed_on:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:  # ended by a signal: end the same way, so that our parent sees what happened
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main())
