# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start an emulated router behind the back of a play and print what it says when it listens, with its process id.

emulator.py LAB_FOLDER WORDS…: the words go to the emulator.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

# ansible-test copies the targets to a folder deeper in the collection, without the laboratory: it is further up then.
lab = above = os.path.realpath(sys.argv[1])
while not os.path.isdir(os.path.join(lab, "ios_emulator")) and above != os.path.dirname(above):
    above = os.path.dirname(above)
    lab = os.path.join(above, "tests", "lab")

with open(os.devnull, "rb") as nothing:
    process = subprocess.Popen([sys.executable, "-m", "ios_emulator", *sys.argv[2:]], stdin=nothing, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "PYTHONPATH": lab})
assert process.stdout is not None
said = process.stdout.readline()
if not said:
    sys.exit("the emulator did not start: is asyncssh installed?")
print(json.dumps({**json.loads(said), "pid": process.pid}))
sys.stdout.flush()
os._exit(0)  # the emulator outlives this script, and nothing waits for it
