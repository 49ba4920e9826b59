# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Machines in the laboratory's networks, and the management network by which tests and Ansible reach them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..ansible import Ansible
from ..lab import Lab
from ..machine import LabError
from . import governors, qemu
from .image import image, why_not
from .machine import Machine, Nic

KINDS = {"systemd": "/sbin/init", "lean": "/lab/lean.sh"}
MEMORY = {"systemd": 288, "lean": 192}


class Rig:
    """The management network 10.99.0.0/24, the namespace `control` (10.99.0.1) that SSH and Ansible start from, and a key for it all.

    Machines end with the lab, by `kill -9` of the test too. When the lab fails, their journals and consoles are kept with it.
    """

    def __init__(self, lab: Lab) -> None:
        reason = why_not()
        if reason:
            raise LabError(reason)
        self.lab = lab
        self.image = image()
        self.management = lab.segment("mgmt")
        self.control = lab.namespace("control")
        self.management.attach(self.control, "mgmt", "10.99.0.1/24")
        self.key = lab.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(self.key)], stdin=subprocess.DEVNULL,
                       check=True)
        self.machines: list[Machine] = []
        # Short: the name of a socket may have about a hundred characters.
        (lab.folder / "cm").mkdir()

    def start(self, name: str, *nics: Nic, kind: str = "systemd", governor: str = "none",
              files: Mapping[str, bytes | str | Path] | None = None, enable: Sequence[str] = (), memory: int | None = None) -> Machine:
        """Start a machine and return at once; Machine.wait() waits for it.

        kind: systemd, or lean (an SSH server as the only process, up sooner).
        governor: whose configuration the nics' addresses are: networkd, netplan, networkmanager, ifupdown, or none (set at each boot
        before the system starts). The interface `mgmt` is nobody's.
        files: more files for it, path without the leading slash to content or to a file here. enable: more units to start at boot.
        """
        number = len(self.machines) + 1
        address = f"10.99.0.{100 + number}"
        everything = (Nic("mgmt", self.management, f"{address}/24"), *nics)
        hardware = [f"02:00:00:00:{number:02x}:{index:02x}" for index in range(len(everything))]
        site = governors.site(governor, nics)
        table = [" ".join((mac, nic.name, ",".join(nic.all_addresses()) or "-", ",".join(nic.all_gateways()) or "-"))
                 if governor == "none" or nic.name == "mgmt" else f"{mac} {nic.name} - -" for mac, nic in zip(hardware, everything)]
        seed = self.lab.folder / f"{name}.seed"
        qemu.pack(seed, {"root/.ssh/authorized_keys": self.key.with_suffix(".pub").read_bytes(), "lab/nics": "\n".join(table) + "\n",
                         **site.files, **(files or {})}, governors.enabled([*site.units, *enable]))
        place = self.lab.namespace(name)
        control = self.lab.folder / f"{name}.qmp"
        taps = [nic.segment.tap() for nic in everything]
        try:
            words = qemu.command_line(self.image, seed, memory=memory or MEMORY[kind], append=f"lab.name={name} lab.init={KINDS[kind]}",
                                      nics=[*zip(hardware, (tap.fileno() for tap in taps))], control=control)
            process = place.popen(*words, label="console", pass_fds=[tap.fileno() for tap in taps])
        finally:
            for tap in taps:
                tap.close()
        made = Machine(name, address, nics, place, process, control, self.control, ["ssh", *self.ssh_options()], kind)
        self.machines.append(made)
        self.lab.reporters[f"{name}-machine"] = made.report
        return made

    def ssh_options(self) -> list[str]:
        """What ssh needs to enter a machine."""
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null", "LogLevel=ERROR",
                   "BatchMode=yes", "ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=8", "ControlMaster=auto",
                   "ControlPersist=300", f"ControlPath={self.lab.folder}/cm/%h", f"IdentityFile={self.key}", "IdentitiesOnly=yes")
        return ["-F", "none", *(word for option in options for word in ("-o", option))]

    # Ansible ----------------------------------------------------------------------------------------------------------------------

    def ansible(self, folder: Path, **environment: str) -> Ansible:
        """Ansible on the machine `control`; its processes end with the lab."""
        return Ansible(folder, self.control, whole=True, **{
            "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_PIPELINING": "True", "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{self.lab.folder}/cm",
            "ANSIBLE_TIMEOUT": "60", **environment})

    def host_variables(self, machine: Machine) -> dict[str, Any]:
        """How Ansible reaches a machine."""
        return {"ansible_host": machine.address, "ansible_user": "root", "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_common_args": "-F none -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR",
                "ansible_python_interpreter": "/usr/bin/python3"}

    def inventory(self, machines: Mapping[str, Machine], variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An inventory as data (Ansible.write_inventory takes it): names in it to machines, and variables of all."""
        return {"all": {"hosts": {name: self.host_variables(machine) for name, machine in machines.items()}, "vars": dict(variables or {})}}
