# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What is advertised for the last time: its numbers in radvd.conf go down with the clock, and at its deadline it goes.

radvd sends the numbers of its file as long as it runs. (Its DecrementLifetimes does not help: it leaves out what has a preferred
lifetime of 0.) A host prolongs an address by what it hears, so they have to follow the clock. Hence the number in the file is always
what is left when this looks at it again, a step later: nothing is ever promised beyond the deadline.

Also the program that does so on a host, by a timer and before each start of radvd, while there is something to do, and that takes
itself away afterwards. `program` is its text: this file and radvd_conf.py in one.
"""

from __future__ import annotations

import calendar
import fcntl
import json
import os
import pkgutil
import re
import subprocess
import sys
import time
from typing import Any

from .radvd_conf import ConfError, interfaces, own, put, take

STANZA = re.compile(r"^    (prefix|RDNSS|DNSSL) (\S+) \{(?: # goes at (\S+))?\n((?:        .*\n)*)    \};\n", re.MULTILINE)
VALID = re.compile(r"(AdvValidLifetime )(\d+)(;)")
TIME = "%Y-%m-%dT%H:%M:%SZ"


def stamp(when: float) -> str:
    """A time as it stands in the file: UTC, in whole seconds."""
    return time.strftime(TIME, time.gmtime(when))


def moment(text: str) -> int:
    """And back. Raises ValueError."""
    return calendar.timegm(time.strptime(text, TIME))


def lifetime(deadline: float, now: float, step: int) -> int:
    """The valid lifetime to write, seconds: what will be left a step from now."""
    return max(int(deadline - now) - step, 0)


def aged(text: str, owner: str, now: float, step: int) -> tuple[str, bool]:
    """The file as of now, and whether something of the owner still has a deadline. Raises ConfError."""
    waiting = False

    def stanza(found: re.Match[str]) -> str:
        nonlocal waiting
        if found.group(3) is None:
            return found.group()
        deadline = moment(found.group(3))
        if deadline <= now:
            return ""
        waiting = True
        return VALID.sub(lambda number: f"{number.group(1)}{min(int(number.group(2)), lifetime(deadline, now, step))}{number.group(3)}",
                         found.group())

    for interface, lines in own(text, owner).items():
        fresh = STANZA.sub(stanza, lines)
        text = put(text, owner, interface, fresh) if STANZA.search(fresh) else take(text, owner, interface)
    return text, waiting


def program() -> str:
    """The text of the program."""
    package = __name__.rpartition(".")[0]
    out = ""
    for name in ("radvd_conf.py", "radvd_tidy.py"):
        source = (pkgutil.get_data(package, name) or b"").decode("utf-8").splitlines(keepends=True)
        # One file needs neither of these twice; the first brings the import from the future, which must come first.
        out += "".join(line for line in source if not line.startswith("from .") and not (out and line.startswith("from __future__")))
    return f"#!/usr/bin/env python3\n{out}\n\nif __name__ == \"__main__\":\n    raise SystemExit(main(sys.argv[1:]))\n"


def main(argv: list[str]) -> int:
    """--begin (before radvd starts: the file alone) | --now, and the job as JSON:

    name: the transaction. config: radvd.conf. step: seconds between two looks. radvd: the program, for its test. unit: its unit.
    state_dir: of apply_config. files: of the timer and this program, to be removed in the end. timer: the unit of the timer.
    """
    begin, job = argv[0] == "--begin", json.loads(argv[1])
    try:
        folder = os.open(job["state_dir"], os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        folder = -1
    try:
        if folder >= 0:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.isdir(os.path.join(job["state_dir"], job["name"])):  # a change that is not confirmed yet: it may be undone
            return 0
        return _look(begin, job)
    except BlockingIOError:
        return 0  # a run is at work here: it does the same; else the next look does
    except ConfError as exc:
        sys.stderr.write(f"{job['config']}: {exc}\n")
        return 1
    finally:
        if folder >= 0:
            os.close(folder)


def _look(begin: bool, job: dict[str, Any]) -> int:
    path = job["config"]
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        text = ""
    fresh, waiting = aged(text, job["name"], time.time(), job["step"])
    if fresh != text:
        _replace(path, fresh)
        if interfaces(fresh) and _call(job["radvd"], "--configtest", "--config", path):
            _replace(path, text)
            sys.stderr.write(f"{path} is left as it was: radvd does not accept it without what has had its time.\n")
            return 1
        if not begin:  # radvd would go on with what it has, rather than with nothing
            _systemctl("try-reload-or-restart" if interfaces(fresh) else "stop", job["unit"])
    if not waiting and not begin:
        _end(job, fresh)
    return 0


def _replace(path: str, text: str) -> None:
    was = os.stat(path)
    new = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tsp-new")
    with open(new, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        os.fchmod(file.fileno(), was.st_mode & 0o7777)
        os.fchown(file.fileno(), was.st_uid, was.st_gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def _end(job: dict[str, Any], text: str) -> None:
    """Nothing is left to do: away with the timer and the program; and where the transaction wants nothing of radvd any more, radvd is as
    it was before."""
    memory = os.path.join(job["state_dir"], job["name"] + ".before.json")
    try:
        with open(memory, encoding="utf-8") as file:
            before = json.load(file)
    except (OSError, ValueError):
        before = {}
    edited = before.get("edits", {}).get(job["config"], {})
    gone = False
    if edited.get("state", {}).get("taken_out") and not own(text, job["name"]):
        was = before.get("services", {}).pop(job["unit"], {}).get("was", {})
        if _others_use(job):
            was = {}
        if was.get("enabled") is False:
            _systemctl("disable", job["unit"])
        if was.get("active") is False:
            _systemctl("stop", job["unit"])
        if edited.get("made") and not text.strip():
            _remove(job["config"])
        del before["edits"][job["config"]]
        gone = not any(before.get(kind) for kind in ("devices", "files", "edits", "items", "facts", "services"))
        if gone:
            _remove(memory)
            _remove_empty(job["state_dir"])
        else:
            _replace(memory, json.dumps(before, indent=1, sort_keys=True) + "\n")
    # First of all: to systemd, a timer that runs without its file has failed.
    _systemctl("stop", job["timer"])
    for path in job["files"]:
        _remove(path)
        _remove_empty(os.path.dirname(path))
    for path in sorted(before.get("directories", {}) if gone else (), reverse=True):
        if before["directories"][path] is None:
            _remove_empty(path)
    _systemctl("daemon-reload")


def _others_use(job: dict[str, Any]) -> bool:
    """Whether another transaction has radvd in use: what it was before is remembered there as well."""
    for name in os.listdir(job["state_dir"]):
        if name.endswith(".before.json") and name != job["name"] + ".before.json":
            try:
                with open(os.path.join(job["state_dir"], name), encoding="utf-8") as file:
                    if job["unit"] in json.load(file)["services"]:
                        return True
            except (OSError, ValueError, KeyError, TypeError):
                continue
    return False


def _systemctl(*words: str) -> None:
    _call("systemctl", "--no-ask-password", *words)


def _call(*argv: str) -> int:
    # On the host there is no AnsibleModule.
    return subprocess.call(argv, stdin=subprocess.DEVNULL)  # pylint: disable=ansible-bad-function


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass
