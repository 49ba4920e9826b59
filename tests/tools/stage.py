# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copy the checkout to FOLDER/ansible_collections/tunnelbroker/tsp: ansible-test insists on such a path, and on no links to it.

Only what git knows or would add is copied, so that build output of any kind stays out. Files that did not change are left
alone, files that went away go away, links stay links. Prints the path.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
NOT_SOURCE = {"build", "dist", "collections", ".git", ".venv", ".ansible", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def sources(root: Path) -> list[str]:
    """Paths of the source files below `root`, relative to it."""
    try:
        out = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # a tarball, or no git here
        found = []
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in NOT_SOURCE and not name.startswith(".venv")]
            found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
        return sorted(found)
    names = {os.fsdecode(name) for name in out.split(b"\0") if name}
    return sorted(name for name in names if os.path.lexists(root / name))


def stage(folder: Path) -> Path:
    """Bring the copy below `folder` up to date and return its path."""
    target = folder / "ansible_collections" / "tunnelbroker" / "tsp"
    wanted = sources(ROOT)
    known = set(wanted)
    for parent, _folders, files in os.walk(target, topdown=False):
        here = os.path.relpath(parent, target)
        if here.split(os.sep)[0] == ".git" or here.startswith(os.path.join("tests", "output")):
            continue
        for name in files:
            if os.path.normpath(os.path.join(here, name)) not in known:
                Path(parent, name).unlink()
        if not os.listdir(parent):
            os.rmdir(parent)
    for name in wanted:
        source, copy = ROOT / name, target / name
        if source.is_symlink():
            if not (copy.is_symlink() and os.readlink(copy) == os.readlink(source)):
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.unlink(missing_ok=True)
                os.symlink(os.readlink(source), copy)
            continue
        if copy.is_symlink():
            copy.unlink()
        if not (copy.exists() and filecmp.cmp(source, copy, shallow=False)):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        if copy.stat().st_mode & 0o777 != source.stat().st_mode & 0o777:
            shutil.copymode(source, copy)
    return target


if __name__ == "__main__":
    print(stage(Path(sys.argv[1])))
