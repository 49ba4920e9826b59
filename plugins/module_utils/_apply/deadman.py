# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The dead man's timer: unless somebody who came in anew confirms a change in time, the host undoes it by itself.

Beside the journal, in the checkpoint of the transaction, stand

    undo.pyz        the program that undoes (undo.py with all that it imports); it needs nothing of what Ansible copied for the task
    deadman.json    {"schema", "id": of this run, "boot": id of this boot, "until": seconds on the monotonic clock, "seconds": given}
    undo.log        what the program says, where no systemd runs the host

and all of it goes with the journal. Where systemd runs the host, three units stand in /etc/systemd/system (or, where that cannot be
written, in /run/systemd/system) until then: a timer, the program as a service, and an early service for a host that reboots before
the change is confirmed: it puts the old files back before the network comes up. Elsewhere the program waits in the background. Nobody
needs to end it: when the journal is gone, it goes within a second.

The clock is the monotonic one: nobody sets it. What another boot wrote is over, whatever its number.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from .._tsp.errors import ApplyError, TspError
from .runner import Runner
from .service import SYSTEMD_RUNS

SCHEMA = 1
FILE, PROGRAM, LOG = "deadman.json", "undo.pyz", "undo.log"
UNITS = ("/etc/systemd/system", "/run/systemd/system")
"""Where units go, best first: those in /run do not last until after a reboot."""
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Deadman:
    """The timer of one run. seconds: until it fires, counted anew when the change is proved. token: names the run.

    program: the bytes of undo.pyz. python: what runs it.
    """

    def __init__(self, runner: Runner, state_dir: str, name: str, seconds: float, token: str, program: bytes, python: str) -> None:
        self.runner = runner
        self.state_dir = state_dir
        self.name = name
        self.seconds = seconds
        self.token = token
        self.how = ""
        self._program = program
        self._python = python
        self._directory = os.path.join(state_dir, name)

    def arm(self) -> None:
        """Before the first step, when the journal is there. Raises ApplyError `not_armed`; then nothing of it is left."""
        said = "there is no Python to run it with"
        if self._python:
            try:
                self._arm()
                return
            except TspError as exc:
                disarm(self.runner, self.state_dir, self.name)
                said = exc.message.rstrip(".")
        raise ApplyError("not_armed", f"The timer that would undo an unconfirmed change cannot be started: {said}.",
                         "Nothing was changed. See to it, or set confirm_timeout to 0 where the way to the host cannot break.")

    def extend(self) -> float:
        """The change is proved: whoever shall confirm it has the whole time from now on, that is these seconds."""
        self._save()
        return self.seconds

    def _arm(self) -> None:
        self.runner.write(os.path.join(self._directory, PROGRAM), self._program, 0o600)
        self._save()
        if self.runner.directory_mode(SYSTEMD_RUNS) is not None:
            for folder in UNITS:
                try:
                    self._systemd(folder)
                    self.how = folder
                    return
                except ApplyError:
                    _remove_units(self.runner, self.name)
        self._background()
        self.how = "process"

    def _systemd(self, folder: str) -> None:
        for path, text in units(folder, self.name, self.state_dir, self.seconds, self._python).items():
            self.runner.write(path, text.encode(), 0o644)
        stem = unit_name(self.name)
        _systemctl(self.runner, "daemon-reload")
        if folder == UNITS[0]:
            _systemctl(self.runner, "enable", f"{stem}-boot.service")
        _systemctl(self.runner, "start", f"{stem}.timer")

    def _background(self) -> None:
        done = self.runner.run([self._python, "-I", "-B", os.path.join(self._directory, PROGRAM), "background", self.state_dir, self.name])
        if done.rc:
            raise ApplyError("not_armed", f"{PROGRAM} does not start: {done.words}.", "")

    def _save(self) -> None:
        text = json.dumps({"schema": SCHEMA, "id": self.token, "boot": boot_id(self.runner), "until": self.runner.clock() + self.seconds,
                           "seconds": self.seconds})
        self.runner.write(os.path.join(self._directory, FILE), text.encode(), 0o600)


def load(runner: Runner, state_dir: str, name: str) -> dict[str, Any] | None:
    """What deadman.json says; None where there is none, or none that can be understood."""
    found = runner.read(os.path.join(state_dir, name, FILE))
    try:
        data = json.loads(found.content) if found is not None else None
        if data is None or data["schema"] != SCHEMA:
            return None
        return {"id": str(data["id"]), "boot": str(data["boot"]), "until": float(data["until"]), "seconds": float(data["seconds"])}
    except (ValueError, KeyError, TypeError):
        return None


def left(runner: Runner, state_dir: str, name: str) -> float:
    """Seconds until the change is undone; 0 when that is due: also when nobody knows any more."""
    data = load(runner, state_dir, name)
    if data is None or data["boot"] != boot_id(runner):
        return 0.0
    return float(min(max(data["until"] - runner.clock(), 0.0), data["seconds"]))


def rebooted(runner: Runner, state_dir: str, name: str) -> bool:
    """Whether the timer was armed before the host's last boot."""
    data = load(runner, state_dir, name)
    return data is not None and data["boot"] != boot_id(runner)


def boot_id(runner: Runner) -> str:
    """The kernel's name for this boot, empty where it has none."""
    found = runner.read(BOOT_ID)
    return "" if found is None else found.content.decode("ascii", "replace").strip()


def disarm(runner: Runner, state_dir: str, name: str) -> None:
    """Stop the timer and take its units and files away; the journal stays. Nothing there is fine."""
    _remove_units(runner, name)
    directory = os.path.join(state_dir, name)
    if runner.directory_mode(directory) is not None:
        for file in (FILE, PROGRAM, LOG):
            runner.remove(os.path.join(directory, file))


def _remove_units(runner: Runner, name: str) -> None:
    stem = unit_name(name)
    for folder in UNITS:
        paths = [f"{folder}/{unit}" for unit in unit_names(name)]
        if not any(runner.read(path) is not None for path in paths):
            continue
        runner.run(["systemctl", "stop", f"{stem}.timer"])
        if folder == UNITS[0]:
            runner.run(["systemctl", "disable", f"{stem}-boot.service"])
        for path in paths:
            runner.remove(path)
        runner.run(["systemctl", "daemon-reload"])


def unit_name(name: str) -> str:
    """The units of a transaction are called so, up to what comes after the dot (systemd.unit(5) on names)."""
    return "tsp-undo-" + re.sub(r"[^A-Za-z0-9:_.-]", lambda found: "".join(f"\\x{byte:02x}" for byte in found.group().encode()), name)


def unit_names(name: str) -> tuple[str, str, str]:
    """Its three units."""
    stem = unit_name(name)
    return f"{stem}.service", f"{stem}.timer", f"{stem}-boot.service"


def units(folder: str, name: str, state_dir: str, seconds: float, python: str) -> dict[str, str]:
    """Path -> text of the three units.

    The early one only puts files back and has the other started when its turn comes: to stop or start services and wait for them
    would wait for a network that waits for it.
    """
    service, timer, boot = unit_names(name)
    directory = os.path.join(state_dir, name)
    title = re.sub(r"%", "%%", f"Description=Undo the change {name}, which nobody confirmed")
    journal = os.path.join(directory, "journal.json").replace("%", "%%")
    head = "# Kept by the Ansible collection tunnelbroker.tsp while a change waits to be confirmed.\n"

    def command(verb: str) -> str:
        return " ".join(_quoted(word) for word in (python, "-I", "-B", os.path.join(directory, PROGRAM), verb, state_dir, name))

    return {
        f"{folder}/{service}": (
            f"{head}[Unit]\n{title}\nConditionPathExists={journal}\nAfter=network.target\n\n"
            # What it starts without systemd's help lives on.
            f"[Service]\nType=simple\nExecStart={command('wait')}\nKillMode=process\n"),
        f"{folder}/{timer}": f"{head}[Unit]\n{title}\n\n[Timer]\nOnActiveSec={seconds:.3f}s\nAccuracySec=100ms\nRemainAfterElapse=no\n",
        f"{folder}/{boot}": (
            f"{head}[Unit]\n{title}: files, before the network comes up\nDefaultDependencies=no\nConditionPathExists={journal}\n"
            f"RequiresMountsFor={_quoted(directory)}\nAfter=local-fs.target\nWants=network-pre.target\n"
            "Before=network-pre.target shutdown.target\nConflicts=shutdown.target\n\n"
            f"[Service]\nType=oneshot\nExecStart={command('boot')}\nTimeoutStartSec=60\n\n[Install]\nWantedBy=multi-user.target\n"),
    }


def _quoted(word: str) -> str:
    """A word of a unit file."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _systemctl(runner: Runner, *words: str) -> None:
    done = runner.run(["systemctl", *words])
    if done.rc:
        raise ApplyError("not_armed", f"systemctl {' '.join(words)} failed: {done.words}.", "")
