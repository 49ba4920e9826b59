# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Are the tests that `ansible-test units` would run the very ones that pytest runs? `python -m tests.tools.same_tests`

Each has its own idea of where tests are and what they are called; a file that only one of them finds would pass unseen in the other.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

from .stage import ROOT

_ITEM = re.compile(r"^ *<(?P<kind>Module|Function|Coroutine|TestCaseFunction) (?P<name>.*)>$")


def collected(*command: str) -> Counter[tuple[str, str]]:
    """(file, test) of everything that a `--collect-only` run lists. Exits with its output when it fails."""
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}")
    found: Counter[tuple[str, str]] = Counter()
    module = ""
    for line in done.stdout.splitlines():
        match = _ITEM.match(line)
        if match and match["kind"] == "Module":
            module = match["name"].rpartition("/")[2]
        elif match:
            found[module, match["name"]] += 1
    return found


def main() -> int:
    here = collected(sys.executable, "-m", "pytest", "--collect-only", "tests/unit")
    there = collected("sh", "tests/tools/ansible_test.sh", "test", "units", "--collect-only")
    for title, more in (("only pytest has", here - there), ("only ansible-test has", there - here)):
        for (module, name), _count in sorted(more.items()):
            print(f"{title} {module}: {name}")
    if here != there or not here:
        return 1
    print(f"pytest and ansible-test units have the same {here.total()} tests")
    return 0


if __name__ == "__main__":
    sys.exit(main())
