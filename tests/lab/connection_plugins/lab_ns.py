# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible's way into a namespace of the laboratory: playbooks see a remote host, without an SSH server in it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lab_ns
short_description: Run tasks in a namespace of the test laboratory
description:
  - Enters the namespaces of a process on this machine. For the tests and the demonstration of this collection only.
author:
  - The tunnelbroker.tsp authors
options:
  pid:
    description: Id of the first process of the namespace.
    type: int
    required: true
    vars:
      - name: ansible_lab_ns_pid
  way:
    description:
      - How packets find it, as "PID PEER ADDRESS". Then a connection is made only when a ping from the namespace of that process,
        which has the address PEER, to ADDRESS is answered, and processes see an SSH_CONNECTION. One that was made lasts.
    type: str
    vars:
      - name: ansible_lab_ns_way
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure, AnsibleFileNotFound
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display

display = Display()
ENTER = Path(__file__).resolve().parent.parent / "enter.py"


class Connection(ConnectionBase):
    """One short-lived process per command."""

    transport = "lab_ns"
    has_pipelining = True

    def _connect(self):
        way = self.get_option("way")
        if way and not self._connected:
            pid, _peer, address = way.split()
            ping = [sys.executable, "-I", "-S", str(ENTER), f"{pid}:net", "ping", "-n", "-q", "-c", "1", "-W", "2", address]
            if subprocess.run(ping, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode:
                raise AnsibleConnectionFailure(f"{address} does not answer")
        self._connected = True
        return self

    def reset(self):
        self.close()

    def _start(self, *words, **options):
        pid, way = self.get_option("pid"), self.get_option("way")
        if way:
            _pid, peer, address = way.split()
            options["env"] = {**os.environ, "SSH_CONNECTION": f"{peer} 40000 {address} 22"}
        command = [sys.executable, "-I", "-S", str(ENTER), f"{pid}:all", *words]
        try:
            return subprocess.Popen(command, cwd="/", **options)
        except OSError as exc:
            raise AnsibleConnectionFailure(f"cannot enter the namespace of process {pid}: {exc}") from exc

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        display.vvv(f"EXEC {cmd}", host=self._play_context.remote_addr)
        with self._start("/bin/sh", "-c", cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
            stdout, stderr = program.communicate(in_data)
        if program.returncode == 126 and b"enter.py:" in stderr:
            raise AnsibleConnectionFailure(stderr.decode(errors="replace").strip())
        return program.returncode, stdout, stderr

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        try:
            source = open(in_path, "rb")
        except FileNotFoundError as exc:
            raise AnsibleFileNotFound(f"{in_path} is not there") from exc
        with source, self._start("/bin/sh", "-c", 'cat > "$1"', "sh", out_path, stdin=source, stderr=subprocess.PIPE) as program:
            said = program.communicate()[1]
        if program.returncode:
            raise AnsibleConnectionFailure(f"cannot write {out_path}: {said.decode(errors='replace').strip()}")

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        with open(out_path, "wb") as target:
            with self._start("cat", in_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
                shutil.copyfileobj(program.stdout, target)
                said = program.stderr.read()
        if program.returncode:
            raise AnsibleConnectionFailure(f"cannot read {in_path}: {said.decode(errors='replace').strip()}")

    def close(self):
        self._connected = False
