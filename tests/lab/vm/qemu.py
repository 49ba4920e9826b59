# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a guest is started: QEMU's command line, the second disk, and QEMU's control socket."""

from __future__ import annotations

import io
import json
import socket
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .image import Image


def command_line(image: Image, seed: Path, *, memory: int, append: str, nics: Sequence[tuple[str, int]] = (), control: Path | None = None,
                 once: bool = False, counted: bool = False) -> list[str]:
    """QEMU with the console on its standard output.

    What the guest writes to its disk goes to a nameless file that lives as long as QEMU: it survives reboots and resets of the guest,
    and nothing else. (no_timer_check: on a busy machine the kernel may find no tick of its clock where it looks for one, and give up.)
    nics: hardware addresses and open taps. memory in MiB. once: end instead of rebooting. counted: the guest's clock is the number of
    instructions that it has executed, 4 ns for each, so that what it measures does not depend on what else this machine does.
    """
    words = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
        "-accel", "tcg,thread=single,tb-size=512", "-M", "q35,usb=off,sata=off,smbus=off,vmport=off", "-cpu", "max,-avx2,-avx", "-smp", "1",
        "-m", str(memory), "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-drive", f"if=none,id=root,file={image.root},format=raw,snapshot=on,cache=unsafe,file.locking=off",
        "-device", "virtio-blk-pci,drive=root",
        "-drive", f"if=none,id=seed,file={seed},format=raw,read-only=on", "-device", "virtio-blk-pci,drive=seed",
        "-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
        "-append", f"console=ttyS0 quiet mitigations=off nokaslr no_timer_check net.ifnames=0 tsc=unstable {append}"]
    if once:
        words += ["-no-reboot"]
    if counted:
        words += ["-icount", "shift=2,sleep=off"]
    if not nics:
        words += ["-nic", "none"]
    for number, (hardware, tap) in enumerate(nics):
        words += ["-netdev", f"tap,id=n{number},fd={tap}", "-device", f"virtio-net-pci,netdev=n{number},mac={hardware},romfile="]
    if control is not None:
        words += ["-qmp", f"unix:{control},server=on,wait=off"]
    return words


def pack(target: Path, members: Mapping[str, bytes | str | Path], links: Mapping[str, str] | None = None) -> None:
    """The second disk: a tar archive of what the guest unpacks at /, padded to what a block device wants.

    members: path in the guest, without the leading slash, to content or to a file here (copied with its mode; a link stays one).
    Content gets mode 0600 in places where programs insist on it, else 0644. links: symbolic links, path to where it leads.
    """
    with tarfile.open(target, "w") as archive:
        for name, content in members.items():
            if isinstance(content, Path):
                archive.add(content, name, recursive=False)
                continue
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o600 if name.startswith(_PRIVATE) else 0o755 if data.startswith(b"#!") else 0o644
            archive.addfile(member, io.BytesIO(data))
        for name, leads_to in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, leads_to
            archive.addfile(member)
    with target.open("ab") as disk:
        disk.write(bytes(-disk.tell() % 4096 + 4096))


_PRIVATE = ("root/.ssh/", "etc/NetworkManager/system-connections/", "etc/netplan/")


def tell(control: Path, command: str, timeout: float = 10) -> None:
    """One command on QEMU's control socket (QMP), waited for. Raises OSError when there is nobody, RuntimeError when it is refused."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(control))
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.readline()  # its greeting
            for word in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": word}) + "\n")
                stream.flush()
                while True:
                    answer = json.loads(stream.readline() or '{"error": "QEMU closed the connection"}')
                    if "error" in answer:
                        raise RuntimeError(f"QEMU refuses {word}: {answer['error']}")
                    if "return" in answer:  # what else comes are events
                        break
