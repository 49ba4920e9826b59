# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual machine with a distribution's kernel, for what the machine's own kernel may lack: sit, ip6tnl, fou.

    from ansible_collections.tunnelbroker.tsp.tests.lab.vm import boot, why_not
    report = boot("python3 -m pytest tests/kernel", folder=scratch)      # the checkout is at /project inside
    assert report.status == 0, report.output

QEMU's emulation, so no KVM is needed; the image is made once (about a minute) in build/vm from the distribution's own packages,
a boot takes some ten seconds. Nothing is written to the image: what the guest writes is in memory and gone with it.
"""

from __future__ import annotations

from .image import why_not
from .machine import Report, boot

__all__ = ["Report", "boot", "why_not"]
