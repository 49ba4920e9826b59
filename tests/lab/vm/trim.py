# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the guest's system quick to start under emulation, and leave its network to nobody until a test says whose it is."""

from __future__ import annotations

from pathlib import Path

MASKED = """
    systemd-binfmt.service systemd-remount-fs.service systemd-update-utmp.service
    systemd-update-utmp-runlevel.service systemd-random-seed.service systemd-user-sessions.service systemd-pstore.service
    kmod-static-nodes.service systemd-machine-id-commit.service systemd-journal-flush.service serial-getty@ttyS0.service
    getty-static.service console-getty.service getty@tty1.service systemd-fsck-root.service systemd-tmpfiles-setup-dev.service
    ldconfig.service systemd-update-done.service systemd-journal-catalog-update.service systemd-hwdb-update.service
    systemd-firstboot.service modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service
    modprobe@fuse.service modprobe@loop.service
    proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount sys-fs-fuse-connections.mount sys-kernel-config.mount
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount
    systemd-ask-password-console.path systemd-ask-password-wall.path getty.target systemd-initctl.socket
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    """.split()
"""Units that take seconds here and give nothing: consoles, file systems, housekeeping."""

ASLEEP = ("NetworkManager", "NetworkManager-wait-online", "NetworkManager-dispatcher", "radvd", "systemd-networkd",
          "systemd-networkd-wait-online", "systemd-network-generator", "networking", "nftables", "wpa_supplicant", "iperf3", "e2scrub_reap")
"""Services that are installed and not enabled. governors.py enables the one that a guest's network belongs to."""

FILES = {
    "etc/systemd/system/systemd-udev-trigger.service.d/lab.conf":
        "[Service]\nExecStart=\nExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=net\n",
    "etc/systemd/system.conf.d/lab.conf": "[Manager]\nDefaultTimeoutStartSec=180s\nShowStatus=no\n",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\n",
    "etc/ssh/sshd_config.d/lab.conf":
        "UseDNS no\nUsePAM no\nGSSAPIAuthentication no\nPasswordAuthentication no\nMaxSessions 100\nMaxStartups 100\n",
    "etc/network/interfaces": "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n",
    # An empty file means a first boot, which is slow and enables units anew. Each guest writes its own (guest/init.sh).
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
}


def trim(root: Path) -> None:
    """Change an unpacked Debian in place."""
    units = root / "etc/systemd/system"
    for name in MASKED:
        _link(units / name, "/dev/null")
    _link(units / "default.target", "/lib/systemd/system/multi-user.target")
    # It starts when shutdown(8) asks for it.
    (root / "lib/systemd/system/multi-user.target.wants/systemd-logind.service").unlink(missing_ok=True)
    for name in ASLEEP:
        for path in units.rglob(f"{name}.*"):
            if path.is_symlink():
                path.unlink()
    for alias in units.glob("dbus-org.freedesktop.*"):  # or a mere question on the bus would start the service
        alias.unlink()
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
