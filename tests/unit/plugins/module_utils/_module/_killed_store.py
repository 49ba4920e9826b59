# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stores a lease and dies at each step of it, once per step. Run as a program: _killed_store.py ROOT FOLDER SIGNAL.

ROOT is the checkout. For every call that the lease store makes into the operating system, a child is forked that gets SIGNAL right
before or right after that call. Prints one JSON line: how many steps there were, and what the file held after each.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys


def main(root: str, folder: str, number: int) -> None:
    conftest = importlib.util.spec_from_file_location("conftest", os.path.join(root, "tests", "conftest.py"))
    conftest.loader.exec_module(importlib.util.module_from_spec(conftest))
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module import leasestore
    from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease

    path = os.path.join(folder, "tsp.fact")
    old, new = lease("v6v4"), lease("v6v4", "2001:db8:a::/48")
    texts = {leasestore.lease_text(old): "old", leasestore.lease_text(new): "new"}
    seen = []
    for step in range(1000):
        leasestore.save(path, old)
        child = os.fork()
        if child == 0:
            count = 0

            def watch(frame, event, _arg, step=step):
                nonlocal count
                if event in ("c_call", "c_return") and frame.f_code.co_filename.endswith("leasestore.py"):
                    if count == step:
                        sys.setprofile(None)
                        os.kill(os.getpid(), number)
                        signal.pause()
                    count += 1

            sys.setprofile(watch)
            leasestore.save(path, new)
            os._exit(0)
        _pid, status = os.waitpid(child, 0)
        for name in os.listdir(folder):  # what the killed left: more of it would be more steps for the next
            if name.endswith(".tmp"):
                os.unlink(os.path.join(folder, name))
        with open(path) as stream:
            seen.append(texts.get(stream.read(), "torn"))
        if os.WIFEXITED(status):
            break
    print(json.dumps({"steps": step, "seen": seen, "status": status}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
