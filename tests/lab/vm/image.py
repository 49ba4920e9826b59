# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image: kernel, modules and root file system out of Debian's packages, made once for each recipe (these files)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import trim

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
SUITE = "bookworm"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ("python3", "python3-pytest", "python3-yaml", "iproute2", "iputils-ping", "nftables", "kmod", "procps", "util-linux", "mount",
            "systemd", "systemd-sysv", "udev", "dbus", "openssh-server", "radvd", "ndisc6", "ifupdown", "network-manager", "netplan.io",
            "ethtool", "iperf3", "socat", "tcpdump")
MODULE_FOLDERS = ("net", "drivers/net", "drivers/virtio", "drivers/block", "drivers/char/hw_random", "lib", "crypto",
                  "arch/x86/crypto", "fs/overlayfs", "fs/nls")
MODULES_LEFT_OUT = ("drivers/net/ethernet", "drivers/net/wireless")
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
ROOM = 300
"""MiB free on the disk of a guest."""
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "cpio": "cpio", "depmod": "kmod",
            "busybox": "busybox-static", "lz4": "lz4", "ssh": "openssh-client"}
RECIPE = ("image.py", "trim.py", "initrd.sh", "guest/init.sh", "guest/lean.sh", "guest/once.sh")
_LZ4 = b"\x02\x21\x4c\x18"


@dataclass(frozen=True)
class Image:
    """Paths that a boot needs. root: an ext4 file system, never written to (each guest's changes go elsewhere)."""

    kernel: Path
    initrd: Path
    root: Path


def why_not() -> str | None:
    """None where an image can be made and booted; else what is missing."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the virtual machine is made for Linux on x86_64"
    if os.geteuid() != 0:
        return "making the virtual machine's root file system needs root"
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        return f"programs are missing: apt-get install {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        return "the image is made of Debian's packages, and this system has no apt-get"
    return None


def image() -> Image:
    """The image of the present recipe; makes it when it is not there. Raises RuntimeError with the output of what failed.

    Whoever comes second while it is being made waits for it.
    """
    recipe = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in RECIPE)).hexdigest()[:16]
    shelf = PROJECT / "build" / "vm"
    folder = shelf / recipe
    if not (folder / "root.ext4").exists():
        shelf.mkdir(parents=True, exist_ok=True)
        with _alone(shelf / "lock"):
            if not (folder / "root.ext4").exists():
                with tempfile.TemporaryDirectory(dir=shelf, prefix="making-") as scratch:
                    _make(Path(scratch))
                    for old in shelf.iterdir():  # a guest that runs has its files open and does not need their names
                        if old.is_dir() and old.name != Path(scratch).name:
                            shutil.rmtree(old, ignore_errors=True)
                    (Path(scratch) / "ready").rename(folder)
    return Image(folder / "kernel", folder / "initrd.gz", folder / "root.ext4")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def _make(scratch: Path) -> None:
    ready, root, kernel = scratch / "ready", scratch / "root", scratch / "kernel"
    ready.mkdir()
    kernel.mkdir()
    depends = _run("apt-cache", "depends", KERNEL)
    if "linux-image-" not in depends.replace(KERNEL, ""):
        _run("apt-get", "update", "-qq")
        depends = _run("apt-cache", "depends", KERNEL)
    package = next(word for word in depends.split() if word.startswith("linux-image-6") and word != KERNEL)
    version = package[len("linux-image-"):]
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=kernel)
    for archive in kernel.glob("*.deb"):
        _run("dpkg-deb", "-x", archive, kernel)
    _run("mmdebstrap", "-q", "--variant=apt", f"--include={','.join(PACKAGES)}", SUITE, root)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    _modules(kernel, root, version)
    trim.trim(root)
    (root / "lab").mkdir()
    for script in sorted((HERE / "guest").glob("*.sh")):
        shutil.copy(script, root / "lab" / script.name)
        (root / "lab" / script.name).chmod(0o755)
    (root / "project").mkdir()
    _initrd(scratch, root, version, ready / "initrd.gz")
    size = int(_run("du", "-sm", root).split()[0]) + ROOM
    _run("mke2fs", "-q", "-t", "ext4", "-J", "size=8", "-d", root, "-E", "root_owner=0:0", ready / "root.ext4", f"{size}M")
    _unpacked_kernel(kernel / "boot" / f"vmlinuz-{version}", ready / "kernel")


def _modules(kernel: Path, root: Path, version: str) -> None:
    """The modules that tunnels, packet filters and the guest's own devices need."""
    source, target = (base / "lib" / "modules" / version for base in (kernel, root))
    for folder in MODULE_FOLDERS:
        if (source / "kernel" / folder).is_dir():
            shutil.copytree(source / "kernel" / folder, target / "kernel" / folder, symlinks=True)
    for folder in MODULES_LEFT_OUT:
        shutil.rmtree(target / "kernel" / folder, ignore_errors=True)
    for listing in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(source / listing, target)
    _run("depmod", "-b", root, version)


def _unpacked_kernel(packed: Path, target: Path) -> None:
    """The ELF inside a bzImage (Documentation/arch/x86/boot.rst: payload_offset, payload_length): an emulated processor unpacks it far
    slower than this one, and QEMU starts an ELF with a PVH entry by itself. A kernel packed otherwise stays as it is.
    """
    data = packed.read_bytes()
    begin = (data[0x1F1] + 1) * 512 + struct.unpack_from("<I", data, 0x248)[0]
    payload = data[begin:begin + struct.unpack_from("<I", data, 0x24C)[0]]
    if payload.startswith(_LZ4):
        done = subprocess.run(["lz4", "-qdc"], input=payload[:-4], capture_output=True, check=False)  # the last four bytes are its size
        if done.returncode == 0 and done.stdout.startswith(b"\x7fELF"):
            target.write_bytes(done.stdout)
            return
    shutil.copy(packed, target)


def _initrd(scratch: Path, root: Path, version: str, target: Path) -> None:
    """Busybox, the modules that reach disks and network, and initrd.sh as init."""
    tree = scratch / "initrd"
    for folder in ("bin", "modules", "proc", "sys", "dev", "new"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    order: list[str] = []
    for name in BOOT_MODULES:
        for line in _run("modprobe", "-d", root, "-S", version, "--show-depends", name).splitlines():
            if line.startswith("insmod") and line.split()[1] not in order:
                order.append(line.split()[1])
    for number, path in enumerate(order, 10):
        shutil.copy(path, tree / "modules" / f"{number}-{Path(path).name}")
    shutil.copy(HERE / "initrd.sh", tree / "init")
    (tree / "init").chmod(0o755)
    _run("sh", "-c", f"find . | cpio -o -H newc --quiet | gzip -1 > '{target}'", cwd=tree)
