# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The real kernel behind the port of `link`, and the small files in the runtime directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from .._apply.runner import Completed, HostRunner
from .._tsp.errors import ApplyError

SYSCTL_NAME = re.compile(r"net(/(?!\.{1,2}(/|\Z))[A-Za-z0-9_.-]+)+\Z")


class HostKernel:
    """This host's kernel, in the network namespace we run in."""

    def __init__(self) -> None:
        self._runner = HostRunner()

    def run(self, argv: Sequence[str]) -> Completed:
        return self._runner.run(argv, timeout=20.0)

    def get_sysctl(self, name: str) -> str | None:
        try:
            with open(_path(name), encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return None

    def set_sysctl(self, name: str, value: str) -> None:
        try:
            with open(_path(name), "w", encoding="ascii") as file:
                file.write(value)
        except OSError as exc:
            raise ApplyError("host_refused", f"The kernel refused to set {name} to {value}: {exc.strerror}.",
                             "Run the agent as root; in a container, allow it to write /proc/sys/net.") from None


def _path(name: str) -> str:
    if not SYSCTL_NAME.match(name):
        raise ApplyError("host_refused", f"{name} is not a setting of the network.", "")
    return f"/proc/sys/{name}"


def write_public(path: str, data: dict[str, Any]) -> None:
    """Replace a JSON file that everybody may read. A status that cannot be written must not stop a tunnel: errors are ignored."""
    temporary = f"{path}.new"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644), "w",
                  encoding="utf-8") as file:
            json.dump(data, file, indent=1, sort_keys=True)
            file.write("\n")
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError:
        pass
