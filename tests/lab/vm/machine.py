# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One machine of the laboratory, from outside: wait for it, run commands in it, reboot it, cut its power, look at it."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..machine import LabError
from ..namespace import Namespace
from ..network import Segment
from . import qemu

PATIENCE = 300.0
"""Seconds for a boot: on a busy machine an emulated one takes minutes."""
_SHOWN = ("uname -a", "ip -d addr", "ip -d -j addr", "ip route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule",
          "ip fou show", "nft list ruleset", "ss -lunt", "lsmod", "ps -efww", "systemctl --failed --no-pager", "networkctl --no-pager",
          "journalctl -b --no-pager -n 2000")


@dataclass(frozen=True)
class Nic:
    """A network interface of a machine: its name there, the segment it is attached to, addresses (`192.0.2.10/24`), the default
    gateways behind it, and whether it listens to router advertisements."""

    name: str
    segment: Segment
    addresses: Sequence[str] | str = ()
    gateways: Sequence[str] | str = ()
    accept_ra: bool = False

    def all_addresses(self) -> list[str]:
        return [self.addresses] if isinstance(self.addresses, str) else list(self.addresses)

    def all_gateways(self) -> list[str]:
        return [self.gateways] if isinstance(self.gateways, str) else list(self.gateways)


class Machine:
    """Made by Rig.start(). `name`, `address` (of its management interface `mgmt`), `nics`.

    Every method that goes in does so by SSH, as root, and raises LabError with what was said.
    """

    def __init__(self, name: str, address: str, nics: Sequence[Nic], place: Namespace, process: subprocess.Popen[Any], control: Path,
                 entrance: Namespace, ssh: Sequence[str], kind: str) -> None:
        self.name = name
        self.address = address
        self.nics = tuple(nics)
        self.kind = kind
        self.place = place
        self.process = process
        self._control = control
        self._entrance = entrance
        self._ssh = tuple(ssh)

    # In and out -------------------------------------------------------------------------------------------------------------------

    def wait(self, timeout: float = PATIENCE) -> None:
        """Until SSH answers (and, with systemd, until the boot is over)."""
        end = time.monotonic() + timeout
        while True:
            if self.process.poll() is not None or "Kernel panic" in self.console():
                raise LabError(f"{self.name} ended while it started: {self.console()[-2000:]}")
            done = self._enter("true", 30)
            if done.returncode == 0:
                break
            if time.monotonic() > end:
                raise LabError(f"{self.name}: no SSH after {timeout:.0f} s: {done.stderr.strip()} {self.console()[-2000:]}")
            time.sleep(0.3)
        if self.kind == "systemd":
            self._enter("systemctl is-system-running --wait", max(end - time.monotonic(), 10))

    def run(self, command: str, *, check: bool = True, timeout: float = 120, input: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell command to its end."""
        try:
            done = self._enter(command, timeout, input)
        except subprocess.TimeoutExpired as late:
            raise LabError(f"{self.name}: {command} did not end within {timeout:.0f} s") from late
        if check and done.returncode:
            raise LabError(f"{self.name}: {command} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done

    def read(self, path: str) -> str:
        """A file's content."""
        return self.run(f"cat {shlex.quote(path)}").stdout

    def boot_id(self) -> str:
        """The kernel's name for this boot."""
        return self.read("/proc/sys/kernel/random/boot_id").strip()

    def _enter(self, command: str, timeout: float, input: str = "") -> subprocess.CompletedProcess[str]:
        return self._entrance.run(*self._ssh, f"root@{self.address}", command, check=False, timeout=timeout, input=input)

    def _leave(self) -> None:
        """Forget the connection to a machine that is about to go away."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._entrance.run(*self._ssh, "-O", "exit", f"root@{self.address}", check=False, timeout=30)

    # Power ------------------------------------------------------------------------------------------------------------------------

    def reboot(self, timeout: float = PATIENCE) -> None:
        """Reboot as an administrator does, and wait until it is back as another boot."""
        before = self.boot_id()
        how = "systemctl reboot" if self.kind == "systemd" else "sync; (sleep 0.2; echo b >/proc/sysrq-trigger) >/dev/null 2>&1 &"
        self._enter(how, 60)
        self._back(before, timeout)

    def power_cut(self, timeout: float = PATIENCE) -> None:
        """Take the power away without a word, give it back, and wait. What was not written to the disk is lost."""
        before = self.boot_id()
        qemu.tell(self._control, "system_reset")
        self._back(before, timeout)

    def _back(self, before: str, timeout: float) -> None:
        self._leave()
        end = time.monotonic() + timeout
        while True:
            with contextlib.suppress(LabError):
                self.wait(max(end - time.monotonic(), 1))
                if self.boot_id() != before:
                    return
                self._leave()
            if self.process.poll() is not None or time.monotonic() > end:
                raise LabError(f"{self.name} did not come back: {self.console()[-2000:]}")
            time.sleep(0.3)

    def stop(self) -> None:
        """End it for good, at once. Harmless when done twice."""
        self._leave()
        self.place.close()

    # Looking at it ----------------------------------------------------------------------------------------------------------------

    def console(self) -> str:
        """What it wrote to its serial console."""
        return self.place.log_path("console").read_text(encoding="utf-8", errors="replace")

    def report(self) -> str:
        """Addresses, routes, packet filter, processes and the journal, for people who look for what went wrong."""
        if self.process.poll() is not None:
            return f"## {self.name} has ended"
        script = "; ".join(f"echo '$ {words}'; {words} 2>&1; echo" for words in _SHOWN)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"## {self.name} ({self.address})\n\n{self._enter(script, 90).stdout}"
        return f"## {self.name} does not answer"

    def __repr__(self) -> str:
        return f"Machine({self.name!r}, {self.address})"
