# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""apply_config in real plays against this machine, in folders of the test: copies, diffs, secrets, failure."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run

SECRET = "swordfish-canary"


class Plays:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        other = os.environ.get("TSP_TEST_ANSIBLE")  # the bin folder of another ansible-core than this Python's
        self.ansible = Ansible(folder / "ansible", ANSIBLE_REMOTE_TEMP=str(folder / "remote"),
                               **({"PATH": f"{other}:/usr/bin:/bin:/usr/sbin:/sbin"} if other else {}))
        self.target = folder / "target"
        self.target.mkdir()
        self.inventory = self.ansible.write_inventory({"all": {"hosts": {"here": {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable}}}})
        (folder / "play").mkdir()

    def apply(self, *words: str, **options: Any) -> Run:
        book = self.folder / "play" / "play.json"
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [
            {"name": "Apply", "tunnelbroker.tsp.apply_config": {"name": "t", "state_dir": str(self.folder / "state"), **options},
             "register": "applied"},
            {"name": "Show", "ansible.builtin.debug": {"msg": "result: {{ applied | to_json }}"}}]}]))
        return self.ansible.playbook(str(book), *words, inventory=self.inventory)


@pytest.fixture
def plays(tmp_path: Path) -> Plays:
    return Plays(tmp_path)


def test_files_come_over_once(plays: Plays) -> None:
    program = plays.folder / "play" / "files" / "program.bin"
    program.parent.mkdir()
    program.write_bytes(bytes(range(256)) * 40)
    target = plays.target
    options = {"files": [
        {"path": f"{target}/lib/program", "src": "program.bin", "mode": "0755"},
        {"path": f"{target}/config", "content": "first\n"},
        {"path": f"{target}/secret", "secret_content": f"{SECRET}\n", "mode": "0600"}], "directories": [{"path": f"{target}/own"}]}
    predicted = plays.apply("--check", "--diff", **options)
    assert predicted.returncode == 0 and predicted.changed == 1, predicted.output
    assert not list(target.iterdir()) and not (plays.folder / "state").exists()
    done = plays.apply("--diff", "-vvv", **options)
    assert done.returncode == 0 and done.changed == 1 and "program.bin TO" in done.output, done.output
    assert (target / "lib/program").read_bytes() == program.read_bytes() and os.access(target / "lib/program", os.X_OK)
    assert (target / "secret").read_text() == f"{SECRET}\n" and (target / "secret").stat().st_mode & 0o777 == 0o600
    for run in (predicted, done):
        assert "+first" in run.output and "(secret, changed)" in run.output and "binary, 10240 bytes" in run.output
        assert SECRET not in run.output
    again = plays.apply("-vvv", **options)
    assert again.returncode == 0 and again.changed == 0, again.output
    assert SECRET not in again.output and "program.bin TO" not in again.output, "nothing is copied to a settled host"
    gone = plays.apply(state="absent", **options)
    assert gone.changed == 1 and not list(target.iterdir()) and not (plays.folder / "state").exists(), gone.output
    assert plays.apply(state="absent", **options).changed == 0


TEMPLATE = """# {{ title }} on {{ inventory_hostname }}
{% for line in lines %}
{{ line }}
{% endfor %}
  {{ '{"a": 1}' }}\\n  end {# nothing #}

"""


def test_templates_are_those_of_ansible(plays: Plays) -> None:
    folder = plays.folder / "play" / "templates"
    folder.mkdir()
    (folder / "lines.j2").write_text(TEMPLATE)
    (folder / "data.j2").write_text("{{ {'a': [1, 2]} | to_json }}")
    (folder / "broken.j2").write_text("{{ nobody.knows }}")
    target, site = plays.target, plays.target / "site.conf"
    site.write_text("site\n")
    files = [{"path": f"{target}/ours", "template": "lines.j2", "vars": {"lines": ["one", "{{ title }}"]}},
             {"path": f"{target}/data", "template": "data.j2"},
             {"path": str(site), "template": "data.j2", "edit": {"editor": "block"}}]
    book = plays.folder / "play" / "template.json"
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "vars": {"title": "Lines", "lines": ["one", "Lines"]}, "tasks": [
        {"tunnelbroker.tsp.apply_config": {"name": "t", "state_dir": str(plays.folder / "state"), "files": files,
                                           "facts": {"told": "{{ title }}", "listed": [1]}, "proof_fact": "proof"}},
        {"ansible.builtin.debug": {"msg": "told={{ ansible_facts.told }} listed={{ ansible_facts.listed | to_json }} "
                                          "proved={{ ansible_facts.proof.proved }}"}},
        *({"ansible.builtin.template": {"src": f"{name}.j2", "dest": f"{target}/{name}.ansible", "mode": "0644"}}
          for name in ("lines", "data"))]}]))
    done = plays.ansible.playbook(str(book), inventory=plays.inventory)
    assert done.returncode == 0 and "told=Lines listed=[1] proved=False" in done.output, done.output
    assert "DEPRECATION" not in done.output, done.output
    for ours, theirs in (("ours", "lines"), ("data", "data")):
        assert (target / ours).read_bytes() == (target / f"{theirs}.ansible").read_bytes(), done.output
    assert site.read_text() == 'site\n# BEGIN tunnelbroker.tsp t\n{"a": [1, 2]}\n# END tunnelbroker.tsp t\n'
    again = plays.ansible.playbook(str(book), "--check", inventory=plays.inventory)
    assert again.changed == 0 and "told=Lines" in again.output, again.output
    broken = plays.apply(files=[{"path": f"{target}/x", "template": "broken.j2"}])
    assert broken.returncode != 0 and "template_failed" in broken.output and "nobody" in broken.output, broken.output
    missing = plays.apply(files=[{"path": f"{target}/x", "template": "nothing.j2"}])
    assert missing.returncode != 0 and "template_failed" in missing.output and "nothing.j2" in missing.output
    gone = plays.apply(state="absent")
    assert gone.changed == 1 and site.read_text() == "site\n" and not (target / "ours").exists(), gone.output


def test_a_step_that_fails_is_told_and_undone(plays: Plays) -> None:
    (plays.target / "config").write_text("old\n")
    failed = plays.apply(files=[{"path": f"{plays.target}/config", "content": "new\n"}],
                         start=[{"argv": ["/bin/sh", "-c", "echo it is stuck >&2; exit 3"]}])
    assert failed.returncode != 0 and "it is stuck" in failed.output and "apply_failed" in failed.output
    assert "Everything is as it was before" in failed.output and "Traceback" not in failed.output
    assert (plays.target / "config").read_text() == "old\n" and not (plays.folder / "state").exists()


def test_mistakes_are_named(plays: Plays) -> None:
    missing = plays.apply(files=[{"path": f"{plays.target}/a", "src": "nothing-here"}])
    assert missing.returncode != 0 and "src_unreadable" in missing.output and "nothing-here" in missing.output
    both = plays.apply(files=[{"path": f"{plays.target}/a", "content": "a", "secret_content": SECRET}])
    assert both.returncode != 0 and "mutually exclusive" in both.output and SECRET not in both.output
    nothing = plays.apply(files=[{"path": f"{plays.target}/a"}])
    assert nothing.returncode != 0 and "invalid_plan" in nothing.output


def test_the_lookup_gives_the_agent(plays: Plays) -> None:
    done = plays.apply(files=[{"path": f"{plays.target}/agent", "src": "{{ lookup('tunnelbroker.tsp.zipapp', 'agent') }}", "mode": "0755"}])
    assert done.returncode == 0, done.output
    assert (plays.target / "agent").read_bytes().startswith(b"#!/usr/bin/env python3\nPK")
    unknown = plays.apply(files=[{"path": f"{plays.target}/x", "src": "{{ lookup('tunnelbroker.tsp.zipapp', 'kitchen') }}"}])
    assert unknown.returncode != 0 and "There is no program kitchen" in unknown.output
