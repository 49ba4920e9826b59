# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The command line of gw6c and gogoc, as their guide has it (tsp-protocol.md section 10 for -c, -b, -n and -y)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .._tsp.errors import LocalError

USAGE = """  -f FILE             configuration (--config)
  -i NAME             the tunnel's interface with v6v4 (if_tunnel_v6v4)
  -u NAME             the tunnel's interface with v6udpv4 (if_tunnel_v6udpv4)
  -s NAME             the interface of the LAN that gets the prefix (if_prefix)
  -r SECONDS          wait so long before the broker is asked again (retry_delay)
  -v -vv -vvv         how much is told on stderr (log_stderr)
  -n                  stay in the foreground
  -b                  boot mode: a refusal of who we are is final
  -y                  accept the broker's key when it is seen for the first time
  -h                  this text
"""
WINDOWS_ONLY = {name: f"{name} is for Windows. Here the system starts it: install it with the role agent, or write a unit that runs "
                      "`tsp-agent --foreground --config FILE`." for name in ("--register", "--unregister", "--start-minimized")}
KEYS = {"i": "if_tunnel_v6v4", "u": "if_tunnel_v6udpv4", "s": "if_prefix", "r": "retry_delay"}
DEFAULT_FILES = {
    "gw6c": ("/etc/gw6c/gw6c.conf", "/usr/local/etc/gw6c/gw6c.conf", "/usr/local/gw6c/gw6c.conf", "gw6c.conf"),
    "gogoc": ("/etc/gogoc/gogoc.conf", "/usr/local/etc/gogoc/gogoc.conf", "/usr/local/gogoc/gogoc.conf", "gogoc.conf")}
"""Where packages had it; then the working directory, which the guide has users change to."""


@dataclass
class OldArgs:
    """keys: what takes the place of a line of the file. boot: -b. accept_keys: -y. unexplained: -c, which no document describes."""

    file: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    verbose: int = 0
    foreground: bool = False
    boot: bool = False
    accept_keys: bool = False
    unexplained: bool = False
    help: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything takes the place of what a configuration says; but for -v, which any may have beside it."""
        return bool(self.keys or self.boot or self.accept_keys or self.unexplained)

    def take(self, word: str, rest: list[str]) -> None:
        """One word of single-letter options (`-vvv`, `-i`, `-isit1`); takes a value from `rest`. Raises ValueError with a sentence."""
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter in "fiusr":
                if not letters and not rest:
                    raise ValueError(f"-{letter} needs a value.")
                value, letters = letters or rest.pop(0), ""
                if letter == "f":
                    self.file = value
                else:
                    self.keys[KEYS[letter]] = value
            elif letter == "v":
                self.verbose += 1
            elif letter == "n":
                self.foreground = True
            elif letter == "b":
                self.boot = True
            elif letter == "y":
                self.accept_keys = True
            elif letter == "c":
                self.unexplained = True
            elif letter == "h":
                self.help = True
            else:
                raise ValueError(f"-{letter} is not known.")


def called_as(program: str) -> str:
    """gw6c or gogoc where the program was called so, else an empty text."""
    name = os.path.basename(program)
    return name if name in DEFAULT_FILES else ""


def default_file(program: str) -> str:
    """The configuration that exists. Raises LocalError `config_unreadable`."""
    for path in DEFAULT_FILES[program]:
        if os.path.isfile(path):
            return path
    raise LocalError("config_unreadable", f"There is no {program}.conf in {', '.join(DEFAULT_FILES[program][:-1])}, nor here.",
                     "Name it with -f.")
