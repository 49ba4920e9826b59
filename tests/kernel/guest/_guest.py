# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests in the guest share: a command, in a namespace or not, and patience."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 180
"""For anything to happen: emulation on a busy machine is slow."""


def run(command: str, where: str = "") -> str:
    """A program's output, in the network namespace `where`; its failure fails the test with what it said."""
    words = shlex.split(f"ip netns exec {where} {command}" if where else command)
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)
    return value


def let_in(folder: Path) -> Path:
    """Let any user into a folder of pytest's, which are root's alone: the agent's part without rights has its files there."""
    for place in (folder, *folder.parents):
        if place != Path("/tmp") and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o011)
    return folder


def kill_agent() -> None:
    """Both parts of the agent at once, so that neither cleans up after the other."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"/opt/agent\0--config" in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
