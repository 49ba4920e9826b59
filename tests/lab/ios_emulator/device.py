# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One device: its configurations, its accounts, its bad days, and the file that remembers it."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from .config import Config
from .dataplane import Dataplane
from .faults import Faults

BANNER = """banner motd ^C
This router is an emulator. The next line is text, not configuration:
interface Tunnel99
^C
"""
LINES = """line con 0
line vty 0 4
 login local
 transport input ssh
"""


class Device:
    """Running and startup configuration, kept in `state` (JSON, written atomically) where one is named.

    accounts: user name -> password; enable_secret: asked for by `enable` from level 1, None asks for nothing; level: where a
    session starts, 1 or 15.
    """

    def __init__(self, hostname: str = "Router", *, state: Path | None = None,
                 physical: tuple[str, ...] = ("GigabitEthernet0/0", "GigabitEthernet0/1"),
                 accounts: dict[str, str] | None = None, enable_secret: str | None = None, level: int = 15,
                 faults: Faults | None = None) -> None:
        self.state = state
        self.physical = physical
        self.accounts = {"lab": "lab"} if accounts is None else accounts
        self.enable_secret = enable_secret
        self.level = level
        self.faults = faults or Faults()
        self.config = Config(hostname, physical)
        self.config.opaque = [BANNER, LINES]
        self.startup: str | None = None
        self.changed = "never"
        self.commands: list[str] = []
        """Every command line received, in every session: for tests."""
        if state is not None and state.exists():
            self._load(state)
        self.dataplane = Dataplane(self)

    @property
    def running(self) -> str:
        return self.config.text()

    def touched(self, user: str) -> None:
        """The configuration was changed: note when and by whom, and remember it."""
        self.changed = f"{datetime.now(timezone.utc).strftime('%H:%M:%S UTC %a %b %d %Y')} by {user}"
        self.store()

    def save(self) -> None:
        self.startup = self.running
        self.store()

    def reload(self) -> None:
        """What a power cut leaves: the startup configuration, or the factory's."""
        hostname = "Router" if self.startup is None else self.config.hostname
        self.config = Config(hostname, self.physical) if self.startup is None else Config.parse(self.startup, self.physical)
        self.store()

    def store(self) -> None:
        if self.state is None:
            return
        text = json.dumps({"running": self.running, "startup": self.startup, "changed": self.changed}, indent=1)
        handle, name = tempfile.mkstemp(dir=self.state.parent, prefix=".ios-")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(name, self.state)

    def _load(self, state: Path) -> None:
        stored = json.loads(state.read_text(encoding="utf-8"))
        self.config = Config.parse(stored["running"], self.physical)
        self.startup, self.changed = stored["startup"], stored["changed"]
