# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's program starts without libraries that it never uses, and works all the same."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import lean
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bundle import AGENT, build

PACKAGE = "tunnelbroker_tsp"
NEEDLESS = ("ssl", "_ssl", "statistics", "decimal", "platform", "tempfile", "multiprocessing", "http", "urllib", "email", "xml.etree",
            "unittest", "pickle", "lzma", "bz2", "argparse", "locale")
"""What no idle agent needs."""


def python(program: Path, code: str, *options: str) -> str:
    done = subprocess.run([sys.executable, "-I", "-S", *options, "-c", f"import sys; sys.path.insert(0, {str(program)!r}); {code}"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "agent.pyz"
    build(AGENT, path)
    return path


START = f"from {PACKAGE}._agent.lean import load_network, prepare; prepare(); import {PACKAGE}._agent.program; load_network(); "


def test_the_program_prepares_itself_before_all_else(program: Path) -> None:
    entry = zipfile.ZipFile(program).read("__main__.py").decode()
    assert 0 < entry.index(f"from {PACKAGE}._agent.lean import prepare\n\nprepare()\n") < entry.index("import main")


def test_hashes_are_the_same_without_openssl(program: Path) -> None:
    code = ("import hashlib, hmac; print(hashlib.md5(b'a').hexdigest(), hashlib.sha1(b'a').hexdigest(), hashlib.sha256(b'a').hexdigest(),"
            " hmac.new(b'k', b'm', 'sha1').hexdigest(), hmac.compare_digest(b'x', b'x'))")
    assert python(program, START + code) == python(program, code)


def test_a_fips_host_keeps_its_openssl(program: Path, tmp_path: Path) -> None:
    said = tmp_path / "fips"
    said.write_text("1\n")
    code = (f"from {PACKAGE}._agent import lean; lean.FIPS = {str(said)!r}; lean.prepare(); import hashlib; "
            "print('_hashlib' in sys.modules)")
    if python(program, "import hashlib; print('_hashlib' in sys.modules)") != "True":
        pytest.skip("this Python's hashlib goes without OpenSSL anyway")
    assert python(program, code) == "True"
    said.write_text("0\n")
    assert python(program, code) == "False"


def test_who_needs_tls_later_gets_it(program: Path) -> None:
    pytest.importorskip("ssl")
    assert python(program, START + "import ssl; print(ssl.create_default_context().verify_mode.name)") == "CERT_REQUIRED"


def test_nothing_is_taken_from_those_who_have_it() -> None:
    before = {name: sys.modules.get(name) for name in ("ssl", "_hashlib")}
    lean.prepare()
    assert {name: sys.modules.get(name) for name in before} == before
