# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Build the programs as zipapps out of the very packages that modules and tests use.

An archive holds the named packages of `module_utils` under one parent package, so that their relative imports work unchanged,
and a top-level `__main__.py` that calls the program. The same sources give the same bytes: members are sorted, times and modes
are fixed, and nothing of the machine gets in.

    PYTHONPATH=plugins python3 -m module_utils._agent.bundle agent dist/tsp-agent.pyz
    PYTHONPATH=plugins python3 -m module_utils._agent.bundle broker dist/tsp-broker.pyz --tree yaml=…/site-packages/yaml
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._tsp.errors import LocalError

SOURCES = Path(__file__).resolve().parent.parent
"""The module_utils directory of the collection that this file belongs to."""
PARENT = "tunnelbroker_tsp"
"""Name of the package inside the archive that stands in for module_utils."""
SHEBANG = b"#!/usr/bin/env python3\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
LEFT_OUT = (".pyc", ".pyo", ".so", ".pyd")


@dataclass(frozen=True)
class Bundle:
    """A program: name, the members of module_utils that it consists of (`_tsp`, or one file: `_module/leasestore.py`), and
    the function that is its main, as `package.module:function` below module_utils. It returns the exit code. first: a function of the
    same form that is called before the main one is imported."""

    name: str
    members: tuple[str, ...]
    main: str
    first: str = ""
    python: tuple[int, int] = (3, 9)


AGENT = Bundle("tsp-agent", ("_tsp", "_exchange", "_apply", "_agent", "_module/ask.py", "_module/leasestore.py", "_module/pathmtu.py",
                             "_module/plan.py"),
               "_agent.program:main", "_agent.lean:prepare")
BROKER = Bundle("tsp-broker", ("_tsp", "_agent/icmp6.py", "_agent/tun.py", "_broker"), "_broker.cli:main")
BUNDLES: dict[str, Bundle] = {"agent": AGENT, "broker": BROKER}


def sources(bundle: Bundle, root: Path = SOURCES) -> dict[str, Path]:
    """Archive name -> file, for what comes from module_utils. Raises LocalError `bundle_incomplete` for a missing member."""
    found: dict[str, Path] = {}
    for member in bundle.members:
        path = root / member
        if path.is_dir():
            files = _walk(path)
        elif path.is_file():
            files = [path] + [p for p in (path.parent / "__init__.py",) if p.is_file()]
        else:
            raise LocalError("bundle_incomplete", f"{bundle.name} needs {member}, which is not in {root}.",
                             "Install the collection completely.")
        for file in files:
            found[f"{PARENT}/{file.relative_to(root).as_posix()}"] = file
    found.setdefault(f"{PARENT}/__init__.py", root / "__init__.py")
    return found


def render(bundle: Bundle, trees: Mapping[str, Path] | None = None, root: Path = SOURCES) -> bytes:
    """The whole program as bytes. trees: name at the top of the archive -> directory or file (vendored libraries)."""
    content = {name: path.read_bytes() for name, path in sources(bundle, root).items()}
    for name, tree in (trees or {}).items():
        tree = Path(tree)
        if tree.is_file():
            content[name] = tree.read_bytes()
        elif tree.is_dir():
            content.update({f"{name}/{p.relative_to(tree).as_posix()}": p.read_bytes() for p in _walk(tree)})
        else:
            raise LocalError("bundle_incomplete", f"{tree} is neither a file nor a directory.", "Name an installed library.")
    content["__main__.py"] = _entry(bundle)
    buffer = io.BytesIO()
    buffer.write(SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(content):
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # as on Unix, whatever builds it
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content[name])
    return buffer.getvalue()


def build(bundle: Bundle, output: Path, trees: Mapping[str, Path] | None = None, root: Path = SOURCES) -> bool:
    """Write the program to `output`, executable, atomically. Returns whether the file changed. Raises LocalError."""
    data = render(bundle, trees, root)
    output = Path(output)
    try:
        if output.is_file() and output.read_bytes() == data and os.access(output, os.X_OK):
            return False
        output.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{output.name}.", dir=str(output.parent))
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o755)
            os.replace(temporary, output)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as exc:
        raise LocalError("bundle_not_written", f"{output} cannot be written: {exc.strerror}.", "Name a writable place.") from None
    return True


def _walk(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts and not path.name.endswith(LEFT_OUT)]


def _entry(bundle: Bundle) -> bytes:
    module, function = bundle.main.split(":")
    earlier, _separator, first = bundle.first.partition(":")
    before = f"from {PARENT}.{earlier} import {first}\n\n{first}()\n\n" if bundle.first else ""
    wanted = ".".join(str(part) for part in bundle.python)
    return (f'import sys\n\nif sys.version_info < {bundle.python!r}:\n'
            f'    sys.exit("{bundle.name} needs Python {wanted} or newer, this is %d.%d" % sys.version_info[:2])\n\n'
            f'{before}from {PARENT}.{module} import {function}\n\nif __name__ == "__main__":\n    sys.exit({function}())\n').encode()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: BUNDLE OUTPUT [--tree NAME=PATH]… Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bundle", description="Build a program of the collection as one executable file.")
    parser.add_argument("bundle", choices=sorted(BUNDLES))
    parser.add_argument("output", type=Path)
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=PATH", help="vendored library to add")
    arguments = parser.parse_args(argv)
    trees = {}
    for item in arguments.tree:
        name, separator, path = item.partition("=")
        if not separator or not name or not path:
            parser.error(f"--tree {item}: NAME=PATH expected")
        trees[name] = Path(path)
    try:
        changed = build(BUNDLES[arguments.bundle], arguments.output, trees)
    except LocalError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stdout.write(f"{arguments.output}: {'written' if changed else 'up to date'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
