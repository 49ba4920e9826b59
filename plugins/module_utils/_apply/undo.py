# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The program that undoes a change which nobody confirmed (deadman.py says when), and its text, self-contained.

    python3 -I undo.pyz wait STATE_DIR NAME          wait until it is due, undo it, end
    python3 -I undo.pyz background STATE_DIR NAME    the same in the background; returns when it waits
    python3 -I undo.pyz boot STATE_DIR NAME          early in a boot: put files back at once, and leave the rest to `wait`

It never works beside a run: it waits for the lock. When it gets it, the journal says what there is to do: after a run that failed,
or was confirmed meanwhile, nothing.
"""

from __future__ import annotations

import ast
import io
import os
import pkgutil
import sys
import zipfile

from .._tsp.errors import ApplyError, TspError
from .deadman import LOG, left, rebooted, unit_name
from .journal import CONFIRMED, JOURNAL, Journal
from .runner import HostRunner, Runner
from .service import SYSTEMD_RUNS
from .transaction import recover

PARENT = "tunnelbroker_tsp"
"""What module_utils is called in the program."""
STEP = 1.0
"""Seconds between two looks, while it waits: soon enough to notice that nobody needs it any more."""
TRIES = 5
EPOCH = (1980, 1, 1, 0, 0, 0)


def wait(runner: Runner, state_dir: str, name: str) -> str:
    """Undo the change when it is due; returns what was done, for a log. Raises TspError when it cannot be undone."""
    tries = 0
    while True:
        if runner.read(os.path.join(state_dir, name, JOURNAL)) is None:
            return ""
        seconds = left(runner, state_dir, name)
        if seconds > 0:
            runner.pause(min(seconds, STEP))
            continue
        try:
            with runner.lock(state_dir):
                if left(runner, state_dir, name) > 0:  # the run that held the lock has proved its change only now
                    continue
                return recover(runner, os.path.join(state_dir, name))
        except TspError as exc:
            if exc.code != "busy":
                tries += 1
                if tries >= TRIES:
                    raise
            runner.pause(STEP)


def early(runner: Runner, state_dir: str, name: str) -> str:
    """Put the files back that an unconfirmed run changed before this boot, and have the rest done later."""
    journal = Journal.load(runner, os.path.join(state_dir, name))
    if journal is None or not rebooted(runner, state_dir, name):
        return ""
    failed: list[str] = []
    if journal.phase != CONFIRMED:
        with runner.lock(state_dir):
            failed = journal.put_files_back()
    if runner.directory_mode(SYSTEMD_RUNS) is not None:
        runner.run(["systemctl", "daemon-reload"])  # runs its generators again, too
        runner.run(["systemctl", "--no-block", "start", f"{unit_name(name)}.service"])
    return " ".join(failed) or "The files are the old ones again."


def program() -> bytes:
    """This program as one file: this module, and what it imports of module_utils, from wherever that was imported."""
    buffer = io.BytesIO()
    package, own = __name__.rpartition(".")[0].rpartition(".")[2], __name__.rpartition(".")[2]
    names, files = [(package, own)], {f"{PARENT}/__init__.py": b"", "__main__.py": _main(package, own)}
    while names:
        package, module = names.pop()
        path = f"{PARENT}/{package}/{module}.py"
        if path not in files:
            files[f"{PARENT}/{package}/__init__.py"] = b""
            files[path] = _source(package, module)
            names += _imports(files[path], package)
    with zipfile.ZipFile(buffer, "w") as archive:  # not compressed: a Python may lack zlib
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path, EPOCH), files[path])
    return buffer.getvalue()


def _main(package: str, module: str) -> bytes:
    return f"import sys\n\nfrom {PARENT}.{package}.{module} import main\n\nsys.exit(main(sys.argv[1:]))\n".encode()


def _source(package: str, module: str) -> bytes:
    above = __name__.rpartition(".")[0].rpartition(".")[0]
    try:
        found = pkgutil.get_data(f"{above}.{package}", f"{module}.py")
    except OSError:
        found = None
    if found is None:
        raise ApplyError("not_armed", f"{package}/{module}.py cannot be read where this program runs.",
                         "Install the collection completely.")
    return found


def _imports(source: bytes, package: str) -> list[tuple[str, str]]:
    """What a module imports of this collection: pairs of package and module."""
    out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            words = (node.module or "").split(".") if node.module else []
            inside = [package, *words] if node.level == 1 else words
            out += [(inside[0], inside[1])] if len(inside) > 1 else [(inside[0], alias.name) for alias in node.names]
    return out


def main(argv: list[str]) -> int:
    """See above. Returns the exit code."""
    verb, state_dir, name = argv
    runner = HostRunner()
    if verb == "background" and not _into_the_background(os.path.join(state_dir, name)):
        return 0
    try:
        said = early(runner, state_dir, name) if verb == "boot" else wait(runner, state_dir, name)
    except TspError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stdout.write(said + "\n" if said else "")
    return 0


def _into_the_background(directory: str) -> bool:
    """False in the process that was called, once the other one waits: in a session of its own, far from what ends with the task."""
    parent_end, child_end = os.pipe()
    child = os.fork()
    if child:
        os.close(child_end)
        os.waitpid(child, 0)
        if not os.read(parent_end, 1):
            raise SystemExit(1)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    log = os.open(os.path.join(directory, LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    os.write(child_end, b"1")
    os.closerange(3, 256)
    return True
