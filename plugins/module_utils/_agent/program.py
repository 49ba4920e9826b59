# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The program tsp-agent: keeps this host's tunnels. Exit codes: 0 ended as told, 1 an error that is explained, 2 wrong usage; those of
`status` are statusview's."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .._tsp.errors import TspError
from . import cli, service
from .daemon import Starter, into_background

PROGRAM = "tsp-agent"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line (`argv` without the program's name). Returns the exit code."""
    command = cli.parse(sys.argv if argv is None else [PROGRAM, *argv])
    if command.action == "help":
        sys.stdout.write(command.text)
        return command.code
    if command.action == "error":
        sys.stderr.write(f"{command.text}\n")
        return command.code
    if command.action == "status":
        from . import status

        return status.main(command.paths, command.as_json, sys.stdout)
    if command.action == "check":
        from .check import check

        return check(command.configs, sys.stdout)
    try:
        if command.action == "apply":
            return service.apply(command.configs)
        # A wrong start is told to who typed it, before anything forks.
        starter = Starter() if command.foreground else into_background()
    except TspError as exc:
        sys.stderr.write(f"{PROGRAM}: {exc}\n")
        return 1
    return service.serve(command.configs, starter, command.foreground)


if __name__ == "__main__":
    raise SystemExit(main())
