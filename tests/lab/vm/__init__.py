# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines with a distribution's kernel, for what the machine's own kernel may lack: sit, ip6tnl, fou, systemd, a reboot.

One command in a fresh guest:

    from ansible_collections.tunnelbroker.tsp.tests.lab.vm import boot, why_not
    report = boot("python3 -m pytest tests/kernel", folder=scratch)      # the checkout is at /project inside
    assert report.status == 0, report.output

Machines that stay, in the laboratory's networks, with SSH and Ansible:

    from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Nic, Rig

    with Lab("reboot") as lab:
        internet = lab.segment("internet")
        rig = Rig(lab)
        router = rig.start("router", Nic("eth0", internet, "192.0.2.10/24"), governor="networkd")
        router.wait()                                   # until SSH answers
        router.run("ip tunnel add t0 mode sit remote 192.0.2.1")
        router.reboot()
        ansible, inventory = rig.ansible(scratch), rig.inventory({"branch": router})

QEMU's emulation, so no KVM is needed; the image is made once (about a minute) in build/vm from the distribution's own packages,
a boot takes some ten to twenty seconds. Nothing is written to the image; what a guest writes to its disk lasts until the guest ends.
"""

from __future__ import annotations

from .image import why_not
from .machine import Machine, Nic
from .once import Report, boot
from .rig import Rig

__all__ = ["Machine", "Nic", "Report", "Rig", "boot", "why_not"]
