# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scripts of rc.d and the property list of launchd: shells and parsers take them, and they do what their manager asks of them.

No such system is here. What rc.subr would do with a script is played by a few lines, of what its manual page says.
"""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jinja2
import pytest
import yaml

SCRIPTS = ["agent.rc_subr.j2", "agent.rc_d.j2", "agent.rcctl.j2"]
SHELLS = [shell for shell in ("sh", "dash", "mksh", "bash", "busybox") if shutil.which(shell)]
READY = """
import signal, sys, time
signal.signal(signal.SIGHUP, lambda *_: open(sys.argv[1] + ".hup", "w").close())
open(sys.argv[1] + ".ready", "w").close()
while True:
    time.sleep(60)
"""


def render(repository: Path, name: str, folder: str = "/nowhere") -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(repository / "templates" / "agent"), trim_blocks=True,
                                     undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.get_template(name).render(
        agent_name="home", agent_rc_name="tsp_agent_home", agent_runtime_dir=folder, agent_python="/usr/local/bin/python3",
        agent_program="/usr/local/lib/tsp/home/tsp-agent.pyz", agent_config_file="/etc/tsp/home.json")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_takes_it(repository: Path, name: str, shell: str) -> None:
    argv = ["busybox", "sh", "-n"] if shell == "busybox" else [shell, "-n"]
    done = subprocess.run(argv, input=render(repository, name), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_begins_as_its_manager_wants(repository: Path, name: str) -> None:
    lines = render(repository, name).splitlines()
    assert lines[0] == ("#!/bin/ksh" if name == "agent.rcctl.j2" else "#!/bin/sh")
    text = "\n".join(lines)
    assert "{{" not in text and "{%" not in text
    if name == "agent.rcctl.j2":
        assert lines[-1] == "rc_cmd $1" and text.index('daemon="') < text.index(". /etc/rc.d/rc.subr") < text.index("rc_stop()")
    else:
        assert "# PROVIDE: tsp_agent_home" in lines and lines[-1] == 'run_rc_command "$1"'
        assert re.search(r'^name="tsp_agent_home"$', text, re.MULTILINE)


RC_SUBR = """
load_rc_config() { :; }
run_rc_command() {
    eval "echo enabled=\\$${rcvar}"
    echo "pidfile=$pidfile"
    echo "command=$command $command_args"
    case $1 in
    reload) if [ -n "$reload_cmd" ]; then $reload_cmd; else kill -HUP "$(cat "$pidfile")"; fi;;
    esac
}
"""
OPENBSD = """
rc_cmd() {
    case $1 in
    check) rc_check;;
    start) echo "command=${daemon} ${daemon_flags}";;
    stop) rc_check && rc_stop;;
    reload) rc_check && rc_reload;;
    esac
}
"""


class Rc:
    """A script beside its rc.subr, and a process that stands for the agent."""

    def __init__(self, repository: Path, folder: Path, name: str) -> None:
        self.folder = folder
        self.openbsd = name == "agent.rcctl.j2"
        subr = folder / "rc.subr"
        subr.write_text(OPENBSD if self.openbsd else RC_SUBR, encoding="utf-8")
        text = re.sub(r"/etc/(rc\.d/)?rc\.subr", str(subr), render(repository, name, str(folder)))
        (folder / "script").write_text(text, encoding="utf-8")
        self.shell = "mksh" if self.openbsd and shutil.which("mksh") else "sh"

    def run(self, verb: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.shell, str(self.folder / "script"), verb], capture_output=True, text=True, timeout=60, check=False,
                              env={**os.environ, **environment})

    def agent(self) -> subprocess.Popen[bytes]:
        mark = self.folder / "agent"
        process = subprocess.Popen([sys.executable, "-c", READY, str(mark)])
        (self.folder / "home.pid").write_text(f"{process.pid}\n", encoding="ascii")
        self.until(mark.with_suffix(".ready"))
        return process

    @staticmethod
    def until(path: Path) -> None:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline, f"{path.name} did not come"
            time.sleep(0.01)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_reload_reaches_the_agent_and_nobody_else(repository: Path, tmp_path: Path, name: str) -> None:
    rc = Rc(repository, tmp_path, name)
    agent = rc.agent()
    try:
        assert rc.run("reload").returncode == 0
        rc.until(tmp_path / "agent.hup")
        assert agent.poll() is None
    finally:
        agent.kill()
        agent.wait()


def test_openbsd_checks_and_stops_by_the_number_in_the_file(repository: Path, tmp_path: Path) -> None:
    rc = Rc(repository, tmp_path, "agent.rcctl.j2")
    assert rc.run("check").returncode == 1
    agent = rc.agent()
    try:
        assert rc.run("check").returncode == 0
        assert rc.run("stop").returncode == 0
        assert agent.wait(60) == -signal.SIGTERM
        assert rc.run("check").returncode == 1
        assert "--config /etc/tsp/home.json" in rc.run("start").stdout
    finally:
        agent.kill()
        agent.wait()


@pytest.mark.parametrize(("name", "variable"), [("agent.rc_subr.j2", "tsp_agent_home_enable"), ("agent.rc_d.j2", "tsp_agent_home")])
def test_it_runs_at_boot_unless_rc_conf_says_no(repository: Path, tmp_path: Path, name: str, variable: str) -> None:
    rc = Rc(repository, tmp_path, name)
    said = rc.run("start")
    assert said.returncode == 0 and "enabled=YES" in said.stdout
    assert "/usr/local/lib/tsp/home/tsp-agent.pyz --config /etc/tsp/home.json" in said.stdout
    assert "enabled=NO" in rc.run("start", **{variable: "NO"}).stdout


def test_launchd_starts_it_at_boot_and_again_when_it_fails(repository: Path) -> None:
    data = plistlib.loads(render(repository, "agent.launchd.j2").encode())
    assert data["Label"] == "tsp_agent_home" and data["RunAtLoad"] is True and data["KeepAlive"] == {"SuccessfulExit": False}
    assert data["ProgramArguments"] == ["/usr/local/bin/python3", "-B", "-E", "-s", "/usr/local/lib/tsp/home/tsp-agent.pyz", "--config",
                                        "/etc/tsp/home.json", "--foreground"]
    assert data["ExitTimeOut"] >= 30 and data["Umask"] == 0o077


def test_the_role_and_the_module_give_a_service_one_name(repository: Path) -> None:
    """The role writes the file, the module names it to the manager."""
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import Service
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.rc_services import ByCommands
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import HostRunner

    variables = yaml.safe_load((repository / "roles" / "agent" / "vars" / "main.yml").read_text(encoding="utf-8"))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["regex_replace"] = lambda value, pattern, by: re.sub(pattern, by, value)
    for tunnel in ("home", "home-2", "v6.example"):
        unit = environment.from_string(variables["agent_unit"]).render(agent_name=tunnel)
        made = ByCommands("rc_subr", Service(unit, "rc_subr", ("/bin/agent",), "/run/x.pid"), HostRunner())
        assert made.name == environment.from_string(variables["agent_rc_name"]).render(agent_name=tunnel)
    assert {path.rsplit("/", 1)[1] for path in variables["agent_rc_files"].values()} == \
        {"{{ agent_rc_name }}", "{{ agent_rc_name }}.plist"}
