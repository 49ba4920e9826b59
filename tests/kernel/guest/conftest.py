# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""These tests want a kernel with sit, ip6tnl and fou, and nobody else's tunnels: they run in the guest, started by ../test_kernel.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

collect_ignore_glob = [] if os.environ.get("TSP_GUEST") else ["test_*.py"]
sys.path.insert(0, str(Path(__file__).parent))  # for _guest, which the tests share
