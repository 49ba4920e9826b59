# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs one fuzz target: with atheris or AFL where they are installed, else with random mutations of the recorded sessions.

    python tests/fuzz/fuzz_client.py                  for ever, until a failure or Ctrl-C
    python tests/fuzz/fuzz_client.py --runs 2000 --seed 7
    python tests/fuzz/fuzz_client.py crash-file       one input, again
    python tests/fuzz/fuzz_client.py --atheris …      coverage-guided; the rest goes to libFuzzer (pip install atheris)
    python tests/fuzz/fuzz_client.py --seeds seeds    write the recorded texts as files, for
    py-afl-fuzz -i seeds -o out -- python tests/fuzz/fuzz_client.py --stdin     (pip install python-afl)

An input that fails is written beside the output of the run as crash-<target>-<hash>, and named.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import random
import sys
import traceback
import types
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._hostile"
PACKAGE = "ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp."


def hostile() -> Any:
    """The helpers of the property tests. Makes the collection's name resolve to this checkout where nothing else does."""
    try:
        return importlib.import_module(HOSTILE)
    except ImportError:
        paths: tuple[tuple[str, list[str]], ...] = (
            ("ansible_collections", []), ("ansible_collections.tunnelbroker", []), ("ansible_collections.tunnelbroker.tsp", [str(ROOT)]))
        for name, path in paths:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = path
        return importlib.import_module(HOSTILE)


def protocol(name: str) -> Any:
    """A module of the protocol core."""
    hostile()
    return importlib.import_module(PACKAGE + name)


def pieces(data: bytes, most: int = 4) -> tuple[int, list[bytes]]:
    """A number (from the first octet) and up to `most` messages (separated by an octet 0xA5) out of one input."""
    return (data[0] if data else 0), data[1:].split(b"\xa5", most - 1)


def mutate(source: random.Random, corpus: list[bytes]) -> bytes:
    """A recorded text, changed here and there."""
    data = bytearray(source.choice(corpus))
    for _number in range(source.randrange(6)):
        at = source.randrange(len(data) + 1)
        what = source.randrange(6)
        if what == 0:
            data[at:at] = bytes(source.randrange(256) for _octet in range(source.randrange(1, 5)))
        elif what == 1:
            del data[at:at + source.randrange(1, 40)]
        elif what == 2 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif what == 3:
            data[at:] = source.choice(corpus)
        elif what == 4:
            data[at:at] = b"\xa5" + source.choice(corpus)
        else:
            data[at:at] = data[at:at + 30] * source.randrange(1, 4)
    return bytes([source.randrange(256)]) + bytes(data[:20000])


def main(target: Callable[[bytes], None], argv: list[str] | None = None) -> int:
    """Run `target` on inputs. Returns the exit status: 1 after the first failure."""
    name = Path(sys.modules[target.__module__].__file__ or "fuzz").stem
    parser = argparse.ArgumentParser(description=target.__doc__)
    parser.add_argument("inputs", nargs="*", type=Path, help="files to run instead of random inputs")
    parser.add_argument("--runs", type=int, default=0, help="stop after so many inputs (0: never)")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--stdin", action="store_true", help="one input from standard input (AFL)")
    parser.add_argument("--seeds", type=Path, help="write the recorded texts into this folder and stop")
    parser.add_argument("--atheris", action="store_true", help="use atheris; further arguments are libFuzzer's")
    options, rest = parser.parse_known_args(argv)
    if options.atheris:
        try:
            import atheris
        except ImportError:
            print("atheris is not installed: pip install atheris, or run without --atheris", file=sys.stderr)
            return 2
        atheris.instrument_all()
        atheris.Setup([name, *rest, *map(str, options.inputs)], target)
        atheris.Fuzz()
        return 0
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.seeds:
        options.seeds.mkdir(parents=True, exist_ok=True)
        for text in hostile().corpus():
            (options.seeds / hashlib.sha1(text).hexdigest()[:12]).write_bytes(b"\0" + text)
        return 0
    if options.stdin:
        target(sys.stdin.buffer.read())
        return 0
    for path in options.inputs:
        target(path.read_bytes())
        print(f"{name}: {path} is fine")
    if options.inputs:
        return 0
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2 ** 32)
    source, corpus, number = random.Random(seed), hostile().corpus(), 0
    print(f"{name}: seed {seed}", flush=True)
    try:
        while not options.runs or number < options.runs:
            data = mutate(source, corpus)
            number += 1
            try:
                target(data)
            except Exception:
                traceback.print_exc()
                path = Path(f"crash-{name}-{hashlib.sha1(data).hexdigest()[:12]}")
                path.write_bytes(data)
                print(f"{name}: input {number} failed; again: python tests/fuzz/{name}.py {path}", file=sys.stderr)
                return 1
    except KeyboardInterrupt:
        pass
    print(f"{name}: {number} inputs, nothing found")
    return 0
