# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bad days: what a real device or line does now and then, on demand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Faults:
    """one_byte: output arrives a byte at a time. char_delay: seconds between pieces. refuse: patterns of configuration lines that
    are refused (searched in the line as typed). cut_at: the session dies at the n-th command line (1 is the first), once;
    cut_on: it dies when this line arrives, once, before it is carried out.
    """

    one_byte: bool = False
    char_delay: float = 0.0
    refuse: list[str] = field(default_factory=list)
    cut_at: int = 0
    cut_on: str = ""
    count: int = 0

    def refuses(self, line: str) -> bool:
        return any(re.search(pattern, line) for pattern in self.refuse)

    def cuts(self, line: str) -> bool:
        """Whether the session dies now. Counts the line."""
        self.count += 1
        if self.cut_at and self.count >= self.cut_at:
            self.cut_at = 0
            return True
        if self.cut_on and line.strip() == self.cut_on:
            self.cut_on = ""
            return True
        return False
