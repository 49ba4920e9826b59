# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A laboratory of Linux namespaces: hosts, wires, NATs, on one machine, gone without a trace when the process that made it ends.

    from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

    with Lab("nat") as lab:
        internet = lab.segment("internet")
        broker = lab.namespace("broker")
        internet.attach(broker, "eth0", "192.0.2.1/24")
        nat = lab.namespace("nat")
        internet.attach(nat, "wan", "192.0.2.20/24")
        host = lab.namespace("host", root=True)        # its own /etc, /usr, /var … as well
        lab.veth(host, "eth0", nat, "lan")
        host.ip("addr add 10.0.0.2/24 dev eth0"), nat.ip("addr add 10.0.0.1/24 dev lan")
        host.ip("route add default via 10.0.0.1")
        lab.nat(nat, inside="lan", outside="wan", udp_timeout=3)
        agent = host.popen("python3", "agent.py")      # a Popen: terminate() and wait() mean the program inside
        assert host.run("ping", "-c1", "192.0.2.1").returncode == 0

Every namespace is held by one process whose end ends everything in it: its processes (it is their init), its interfaces, its
files. That process ends when its maker does, however that happens, so nothing has to be cleaned up, and no name is left in
/run/netns. `root=True` gives a root folder of its own: the machine's files below, a memory file system above.

Needs root, or `python -m tests.lab` (which makes a user namespace first). `why_not()` says what is missing.
"""

from __future__ import annotations

from .lab import Lab
from .machine import why_not
from .namespace import Namespace
from .network import Nat, Segment, veth

__all__ = ["Lab", "Namespace", "Nat", "Segment", "veth", "why_not"]
