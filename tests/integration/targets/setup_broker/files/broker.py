# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start a broker in the background: broker.py PLUGINS CONFIG FOLDER. Prints {"pid", "port"} once it listens.

PLUGINS is the folder that holds module_utils. The broker tells that it is ready as it tells systemd, over a socket in FOLDER; its log goes
there as well (broker.log).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys


def main(plugins: str, config: str, folder: str) -> int:
    # ansible-test copies the targets to a folder deeper in the collection, without the plugins: they are further up then.
    above = os.path.dirname(plugins)
    while not os.path.isdir(os.path.join(plugins, "module_utils", "_broker")) and above != os.path.dirname(above):
        above = os.path.dirname(above)
        plugins = os.path.join(above, "plugins")
    log = os.path.join(folder, "broker.log")
    notify = os.path.join(folder, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(log, "wb") as output:
        ready.bind(notify)
        ready.settimeout(1)
        broker = subprocess.Popen(
            [sys.executable, "-m", "module_utils._broker.cli", "serve", "--config", config], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, cwd=folder, start_new_session=True,
            env={**os.environ, "PYTHONPATH": plugins, "NOTIFY_SOCKET": notify, "PYTHONDONTWRITEBYTECODE": "1"})
        while broker.poll() is None:
            try:
                ready.recv(100)
                break
            except socket.timeout:
                continue
    with open(log, encoding="utf-8") as stream:
        text = stream.read()
    if broker.poll() is not None:
        print(text, file=sys.stderr)
        return 1
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    print(json.dumps({"pid": broker.pid, "port": next(line["port"] for line in lines if line["event"] == "listening")}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
