# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The laboratory itself: what its users rely on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible
from ansible_collections.tunnelbroker.tsp.tests.lab.machine import LabError

pytestmark = pytest.mark.root

SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("192.0.2.1", 3653)); print("bound", flush=True)
while True:
    data, peer = s.recvfrom(100)
    s.sendto(repr(peer[1]).encode(), peer)
"""
CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.bind(("10.0.0.2", 4000))
print(flush=True)
for line in sys.stdin:
    s.sendto(b"?", ("192.0.2.1", 3653)); print(s.recv(100).decode(), flush=True)
"""


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def test_a_nat_translates_and_forgets() -> None:
    with Lab("test-nat") as lab:
        internet = lab.segment("internet")
        broker, nat, host = (lab.namespace(name) for name in ("broker", "nat", "host"))
        internet.attach(broker, "eth0", "192.0.2.1/24")
        internet.attach(nat, "wan", "192.0.2.20/24")
        lab.veth(host, "eth0", nat, "lan")
        nat.ip("addr add 10.0.0.1/24 dev lan")
        host.ip("addr add 10.0.0.2/24 dev eth0", "route add default via 10.0.0.1")
        translation = lab.nat(nat, "lan", "wan", udp_timeout=60)
        server = broker.popen(sys.executable, "-c", SERVER, stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "bound\n"
        client = host.popen(sys.executable, "-c", CLIENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        client.stdout.readline()

        def seen_port() -> int:
            client.stdin.write("go\n")
            client.stdin.flush()
            return int(client.stdout.readline())

        ports = [seen_port(), seen_port()]
        assert ports[0] == ports[1] != 4000
        for _again in range(3):  # a random port can come up twice
            translation.forget()
            ports.append(seen_port())
        assert len(set(ports)) > 1
        assert broker.run("ping", "-c1", "-W1", "10.0.0.2", check=False).returncode != 0
        for stream in (server.stdout, client.stdin, client.stdout):
            stream.close()


def test_a_root_of_its_own_keeps_the_machine_untouched(tmp_path: Path) -> None:
    with Lab("test-root") as lab:
        host = lab.namespace("host", root=True, visible=[tmp_path])
        for folder in ("/etc", "/usr/local", "/var"):
            host.run("sh", "-c", f"echo x > {folder}/tsp-lab-test")
        host.run("sh", "-c", f"echo x > {tmp_path}/seen")
        assert host.run("cat", "/etc/tsp-lab-test").stdout == "x\n"
        assert host.run("hostname").stdout == "host\n"
        assert (tmp_path / "seen").read_text() == "x\n"
    for folder in ("/etc", "/usr/local", "/var"):
        assert not os.path.exists(f"{folder}/tsp-lab-test")


@pytest.mark.parametrize("user", ["ours", "nobody"])
def test_it_works_in_a_user_namespace(user: str, repository: Path) -> None:
    """As it does for users who are not root: there the machine's root, who owns most folders, is nobody."""
    python, become, gone = sys.executable, [], "rm -r /etc/default"
    if user == "nobody":
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or python  # ours may lie where others may not look
        become, gone = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], "mkdir /var/lib/tsp-lab-test /usr/local/lib/tsp"
        if subprocess.run([*become, python, "-c", f"open({str(repository / 'Makefile')!r})"], capture_output=True, check=False).returncode:
            pytest.skip("there is no Python, or no project, that a user who is not root may use")
    script = ("import os, sys; sys.path.insert(0, sys.argv[1]); from tests.lab import Lab\n"
              "with Lab('test-user') as lab:\n"
              "    nat = lab.namespace('nat'); host = lab.namespace('host', root=True); lab.veth(host, 'eth0', nat, 'lan')\n"
              "    lab.veth(nat, 'wan', lab.namespace('far'), 'eth0'); lab.nat(nat, 'lan', 'wan', udp_timeout=2)\n"
              "    host.run(*sys.argv[2].split()); host.run('sh', '-c', 'echo x > /etc/tsp-lab-test')\n"
              "    print(host.run('ls', '-d', sys.argv[2].split()[2], '/etc/tsp-lab-test', check=False).stdout)\n")
    done = subprocess.run([*become, "unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child",
                           "--mount-proc", python, "-c", script, str(repository), gone],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["/etc/tsp-lab-test", *(["/usr/local/lib/tsp"] if user == "nobody" else [])], done.stderr
    assert os.path.isdir("/etc/default") and not os.path.exists("/etc/tsp-lab-test") and not os.path.exists("/var/lib/tsp-lab-test")


def test_signals_reach_the_program_inside() -> None:
    with Namespace("one") as one:
        script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"
        program = one.popen("sh", "-c", script, stdout=subprocess.PIPE, text=True)
        with program:
            assert program.stdout.readline() == "up\n"
            program.terminate()
            assert program.stdout.readline() == "bye\n"
            assert program.wait(timeout=10) == 3


def test_nothing_outlives_the_namespace() -> None:
    with Namespace("one") as one:
        pid = one.pid
        one.run("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &")
        assert [line for line in one.processes() if line == "sleep 1000"]
        inside = [p for p in _processes_with_net(pid) if p != pid]
        assert inside
    for process in (*inside, pid):
        wait_until_gone(process)


def test_nothing_outlives_a_maker_that_is_killed(repository: Path) -> None:
    script = ("import sys; sys.path.insert(0, sys.argv[1]); from tests.lab import Namespace; n = Namespace('one');"
              "n.run('sh', '-c', 'setsid sleep 1000 >/dev/null 2>&1 &'); print(n.pid, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", script, str(repository)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as maker:
        pid = int(maker.stdout.readline())
        inside = _processes_with_net(pid)
        assert len(inside) > 1
        maker.send_signal(signal.SIGKILL)
    for process in inside:
        wait_until_gone(process)


def test_a_failure_leaves_a_report(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LabError, match="false ended with 1"), Lab("test-failure") as lab:
        lab.namespace("one").run("false")
    assert "build/lab-failures/test-failure" in capsys.readouterr().err
    assert "$ ip -d addr" in (repository / "build/lab-failures/test-failure/one.report").read_text()


def test_sockets_can_be_opened_inside() -> None:
    with Namespace("one") as one:
        one.ip("link add d0 type veth peer name d1", "addr add 192.0.2.77/24 dev d0")
        with one.network():
            inside = socket.socket()
        with inside, socket.socket() as outside:
            inside.bind(("192.0.2.77", 0))
            with pytest.raises(OSError):
                outside.bind(("192.0.2.77", 0))


def test_ansible_takes_a_namespace_for_a_host(tmp_path: Path) -> None:
    with Lab("test-ansible") as lab:
        host = lab.namespace("inner", root=True)
        play = [{"hosts": "inner", "gather_facts": False, "tasks": [
            {"copy": {"dest": "/etc/tsp-lab-test", "content": "from the play"}},
            {"command": "hostname", "register": "name"},
            {"fetch": {"src": "/etc/tsp-lab-test", "dest": f"{tmp_path}/fetched", "flat": True}},
            {"assert": {"that": "name.stdout == 'inner'"}}]}]
        (tmp_path / "play.yml").write_text(json.dumps(play))
        ansible = Ansible(tmp_path / "ansible")
        inventory = ansible.write_inventory({"all": {"hosts": {"inner": {
            "ansible_connection": "lab_ns", "ansible_lab_ns_pid": host.pid,
            "ansible_python_interpreter": "{{ ansible_playbook_python }}"}}}})
        run = ansible.playbook(str(tmp_path / "play.yml"), inventory=inventory)
        assert run.returncode == 0, run.output
        assert run.recap["inner"]["changed"] == 3  # copy, command, fetch
        assert (tmp_path / "fetched").read_text() == "from the play"
    assert not os.path.exists("/etc/tsp-lab-test")


def _processes_with_net(pid: int) -> list[int]:
    """Ids, seen here, of the processes in the network namespace of `pid`."""
    wanted = os.readlink(f"/proc/{pid}/ns/net")
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/net") == wanted:
                found.append(int(entry))
        except OSError:
            continue
    return found
