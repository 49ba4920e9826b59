# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boot the image, run one command in a copy of the checkout, and give back what it printed."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .image import PROJECT, image


@dataclass(frozen=True)
class Report:
    """status: of the command, None when the guest did not come to its end. output: of the command; log: of the whole console."""

    status: int | None
    output: str
    log: str


def boot(command: str, *, folder: Path, extra: Mapping[str, Path] | None = None, memory: int = 512, timeout: float = 600) -> Report:
    """Run the shell `command` in /project of a fresh guest.

    folder: a scratch folder. extra: more files for the guest, path inside /project to path here (built programs, for example).
    memory in MiB, timeout in seconds: generous, since emulation on a busy machine takes its time; reaching it gives status None.
    """
    made = image()
    disk = folder / "project.tar"
    _pack(disk, command, extra or {})
    arguments = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-accel", "tcg,thread=single,tb-size=512", "-M", "q35,usb=off,sata=off,smbus=off,vmport=off", "-cpu", "max,-avx2,-avx", "-smp", "1",
        "-m", str(memory), "-kernel", str(made.kernel), "-initrd", str(made.initrd),
        "-drive", f"if=none,id=root,file={made.root},format=raw,read-only=on,file.locking=off", "-device", "virtio-blk-pci,drive=root",
        "-drive", f"if=none,id=project,file={disk},format=raw,read-only=on", "-device", "virtio-blk-pci,drive=project",
        "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0", "-nic", "none",
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=unstable"]
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                              check=False)
        log = done.stdout
    except subprocess.TimeoutExpired as late:
        log = late.stdout or b""
    text = log.decode("utf-8", "replace").replace("\r\n", "\n")
    _unused, begun, rest = text.partition("@@guest begins\n")
    output, ended, tail = rest.partition("@@guest ends ")
    status = int(tail.split()[0]) if begun and ended and tail.split()[:1] else None
    return Report(status, output, text)


def _pack(target: Path, command: str, extra: Mapping[str, Path]) -> None:
    """The checkout as git sees it (tracked and new files), the command, and `extra`; padded to what a block device wants."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True,
                            check=False)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
    else:  # a copy without its repository
        names = [str(path.relative_to(PROJECT)) for path in PROJECT.rglob("*")
                 if path.is_file() and path.relative_to(PROJECT).parts[0] not in ("build", "dist", ".venv", ".git")]
    with tarfile.open(target, "w") as archive:
        for name in sorted(names):
            if (PROJECT / name).is_symlink() or (PROJECT / name).is_file():
                archive.add(PROJECT / name, name, recursive=False)
        for name, path in extra.items():
            archive.add(path, name, recursive=False)
        script = command.encode() + b"\n"
        member = tarfile.TarInfo(".command")
        member.size = len(script)
        archive.addfile(member, io.BytesIO(script))
    with target.open("ab") as disk:
        disk.write(bytes(-disk.tell() % 4096 + 4096))
