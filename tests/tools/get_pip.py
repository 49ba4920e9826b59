# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stand-in for the get-pip.py which ansible-test would fetch from a server of its own.

Laid into ansible-test's cache, so that the only server asked is the package index that pip is set up for: the pip that starts
comes out of the interpreter itself (ensurepip), and installs the one ansible-test names.
"""

from __future__ import annotations

import ensurepip
import runpy
import sys
from pathlib import Path

wheels = sorted(Path(ensurepip.__file__).with_name("_bundled").glob("pip-*.whl"))
if not wheels:
    sys.exit(f"{sys.executable} brings no pip of its own (ensurepip); install its venv package")
sys.path.insert(0, str(wheels[-1]))
# Switches of get-pip that pip itself does not know.
wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.argv = ["pip", "install", "--upgrade", "--force-reinstall", *wanted]
runpy.run_module("pip", run_name="__main__")
