# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this machine allows, and what it looks like: for those who must say what is missing or that nothing was left behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

CLONE_NEWNET = 0x40000000
PROGRAMS = {"ip": "iproute2", "nft": "nftables", "ping": "iputils-ping", "mount": "mount", "pivot_root": "util-linux",
            "ps": "procps", "unshare": "util-linux"}


class LabError(Exception):
    """The laboratory could not do what it was asked; the text says what, and what to do where that is known."""


def setns_net(handle: int) -> None:
    """Move this thread into the network namespace behind an open /proc/…/ns/net."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, CLONE_NEWNET):
        raise LabError(f"cannot enter the network namespace: {os.strerror(ctypes.get_errno())}")


def add_sbin_to_path() -> None:
    """People's PATH often lacks the folders that ip, nft and pivot_root live in."""
    known = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(known + [folder for folder in ("/usr/sbin", "/sbin") if folder not in known])


def why_not(*, tun: bool = True) -> str | None:
    """None where the laboratory works (as root, or in a user namespace made for it); else what is missing and how to get it."""
    if not sys.platform.startswith("linux"):
        return "The laboratory is made of Linux namespaces. Run it on Linux, in a virtual machine if need be."
    add_sbin_to_path()
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        return f"Programs are missing: install the packages {', '.join(missing)} (Debian: apt-get install {' '.join(missing)})."
    flags = ["--net", "--mount", "--pid", "--fork"]
    if os.geteuid():
        flags += ["--user", "--map-root-user"]
    probe = "ip link set lo up && ip link add a0 type veth peer name b0 && nft add table ip t"
    done = subprocess.run(["unshare", *flags, "sh", "-c", probe], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        if os.geteuid():
            return (f"This user may not make namespaces ({said[0]}). Run it as root, or allow it: "
                    "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000, "
                    "and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0.")
        return (f"Root may not make namespaces here ({said[0]}). In a container, give it more: docker run --privileged, or "
                "--cap-add SYS_ADMIN --cap-add NET_ADMIN --device /dev/net/tun; and the host's kernel needs veth and nftables.")
    if tun:
        try:
            os.close(os.open("/dev/net/tun", os.O_RDWR))
        except FileNotFoundError:
            return "There is no /dev/net/tun. Load the module (modprobe tun); in a container, pass --device /dev/net/tun."
        except OSError as exc:
            return f"/dev/net/tun cannot be opened ({exc.strerror}). Run it as root, or allow it: chmod 666 /dev/net/tun."
    return None
