# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The image: kernel, modules and root file system out of Debian's packages, made once for each recipe."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
SUITE = "bookworm"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ("python3", "python3-pytest", "python3-yaml", "iproute2", "iputils-ping", "nftables", "kmod", "procps", "util-linux", "mount")
MODULE_FOLDERS = ("net", "drivers/net", "drivers/virtio", "drivers/block", "drivers/char/hw_random", "lib", "crypto",
                  "arch/x86/crypto", "fs/overlayfs")
BOOT_MODULES = ("virtio_pci", "virtio_blk", "overlay")
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "cpio": "cpio", "depmod": "kmod",
            "busybox": "busybox-static"}


@dataclass(frozen=True)
class Image:
    """Paths that a boot needs."""

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
    """The image of the present recipe; makes it when it is not there. Raises RuntimeError with the output of what failed."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + b"".join(p.read_bytes() for p in sorted(HERE.glob("*.sh")))).hexdigest()[:16]
    folder = PROJECT / "build" / "vm" / recipe
    if not (folder / "root.ext4").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="making-") as scratch:
            _make(Path(scratch))
            for old in folder.parent.iterdir():
                if old.name != Path(scratch).name:
                    shutil.rmtree(old, ignore_errors=True)
            ready = Path(scratch) / "ready"
            ready.rename(folder)
    return Image(folder / "vmlinuz", folder / "initrd.gz", folder / "root.ext4")


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
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
    modules = root / "lib" / "modules" / version
    for folder in MODULE_FOLDERS:
        source = kernel / "lib" / "modules" / version / "kernel" / folder
        if source.is_dir():
            shutil.copytree(source, modules / "kernel" / folder, symlinks=True)
    for listing in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(kernel / "lib" / "modules" / version / listing, modules)
    _run("depmod", "-b", root, version)
    shutil.copy(HERE / "guest.sh", root / "guest.sh")
    (root / "project").mkdir()
    _initrd(scratch, root, version, ready / "initrd.gz")
    size = int(_run("du", "-sm", root).split()[0]) + 100
    _run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, "-E", "root_owner=0:0", ready / "root.ext4", f"{size}M")
    shutil.copy(kernel / "boot" / f"vmlinuz-{version}", ready / "vmlinuz")


def _initrd(scratch: Path, root: Path, version: str, target: Path) -> None:
    """Busybox, the modules that reach the disks, and initrd.sh as init."""
    tree = scratch / "initrd"
    for folder in ("bin", "modules", "proc", "sys", "dev", "ro", "rw", "new"):
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
