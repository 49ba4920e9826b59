# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bundle builder: the same sources give the same program, and the program runs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bundle import AGENT, Bundle, build, main, render, sources
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError


def tree(base: Path, order: int = 1) -> Path:
    names = ["__init__.py", "_one/__init__.py", "_one/__main__.py", "_one/help.py", "_two/__init__.py", "_two/lib.py", "_two/other.py"]
    for name in names[::order]:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (base / "_one/__main__.py").write_text(
        "from .help import answer\nfrom .._two.lib import more\n\n\ndef main():\n    print(answer + more)\n    return 3\n")
    (base / "_one/help.py").write_text("answer = 40\n")
    (base / "_two/lib.py").write_text("more = 2\n")
    (base / "_one/__pycache__").mkdir()
    (base / "_one/__pycache__/help.cpython-39.pyc").write_bytes(b"no")
    return base


BUNDLE = Bundle("one", ("_one", "_two/lib.py"), "_one.__main__:main")


def test_same_sources_same_bytes(tmp_path: Path) -> None:
    first = tree(tmp_path / "a")
    second = tree(tmp_path / "b", -1)
    os.utime(second / "_one/help.py", (1, 1))
    assert render(BUNDLE, root=first) == render(BUNDLE, root=second)
    assert render(AGENT) == render(AGENT)


def test_it_holds_what_it_needs_and_runs(tmp_path: Path) -> None:
    program = tmp_path / "out" / "one.pyz"
    library = tmp_path / "library"
    library.mkdir()
    (library / "__init__.py").write_text("x = 1\n")
    assert build(BUNDLE, program, {"library": library}, root=tree(tmp_path / "a")) is True
    assert zipfile.ZipFile(program).namelist() == sorted([
        "__main__.py", "library/__init__.py", "tunnelbroker_tsp/__init__.py", "tunnelbroker_tsp/_one/__init__.py",
        "tunnelbroker_tsp/_one/__main__.py", "tunnelbroker_tsp/_one/help.py", "tunnelbroker_tsp/_two/__init__.py",
        "tunnelbroker_tsp/_two/lib.py"])
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False,
                          env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})
    assert (done.returncode, done.stdout) == (3, "42\n"), done.stderr
    assert os.access(program, os.X_OK)
    stamp = program.stat().st_mtime_ns
    assert build(BUNDLE, program, {"library": library}, root=tmp_path / "a") is False and program.stat().st_mtime_ns == stamp
    assert [path.name for path in program.parent.iterdir()] == ["one.pyz"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        render(Bundle("one", ("_none",), "_one.__main__:main"), root=tree(tmp_path))
    assert "_none" in caught.value.message
    with pytest.raises(LocalError):
        render(BUNDLE, {"x": tmp_path / "nothing"}, root=tmp_path)
    with pytest.raises(LocalError) as caught:
        build(BUNDLE, Path("/proc/nothing/one.pyz"), root=tmp_path)
    assert caught.value.code == "bundle_not_written"


def test_the_agent_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every module of ours that a bundled file imports is in the bundle, and the program starts isolated from everything else."""
    assert main(["agent", str(tmp_path / "agent.pyz")]) == 0
    assert "written" in capsys.readouterr().out
    assert main(["agent", str(tmp_path / "agent.pyz")]) == 0
    assert "up to date" in capsys.readouterr().out
    done = subprocess.run([sys.executable, "-I", str(tmp_path / "agent.pyz"), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "tsp-agent" in done.stdout, done.stderr
    names = [name[len("tunnelbroker_tsp/"):-3].replace("/", ".") for name in sources(AGENT) if name.endswith(".py")]
    everything = "; ".join(f"import tunnelbroker_tsp.{name}" for name in names if not name.endswith(("__init__", "__main__")))
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'agent.pyz')!r}); {everything}"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
