# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is written as a script with a unit, as goldens; and what a shell says of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Callable

import jinja2
import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.setup import linux_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host, lease

PREFIX = {"v6v4": "2001:db8:a::/48", "v6udpv4": "2001:db8:a::/56", "v4v6": "203.0.113.64/26"}
CASES = [(kind, mode, route) for kind in ("host", "router") for mode in PREFIX for route in ("metric", "source", "replace", "none")]


def setup_of(mode: str, router: bool = False, made: Any = None, **options: Any) -> dict[str, Any]:
    return linux_setup(lease(mode, PREFIX[mode] if router else None), made or host("networkd"), backend="script",
                       lan_interfaces=["eth2"] if router else [], **options)


def files(repository: Path, setup: dict[str, Any]) -> dict[str, str]:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(repository / "templates/linux"), trim_blocks=True,
                                     keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return {item["path"]: environment.get_template(item["template"]).render(linux=setup, **item.get("vars", {}))
            for item in setup["files"] if item["template"].startswith("script")}


@pytest.mark.parametrize(("kind", "mode", "route"), CASES, ids=["-".join(case) for case in CASES])
def test_golden(repository: Path, golden: Callable[[str, str], None], kind: str, mode: str, route: str) -> None:
    texts = files(repository, setup_of(mode, kind == "router", default_route=route))
    golden(f"linux/script/{kind}-{mode}-{route}.txt", "".join(f"--- {path}\n{text}\n" for path, text in texts.items()))


@pytest.mark.parametrize("mode", PREFIX)
def test_up_and_down_run_every_command_once(repository: Path, tmp_path: Path, mode: str) -> None:
    """With an `ip` that only writes down what it was told: up makes each item, down names each that does not go with the device."""
    setup = setup_of(mode, True, default_route="source")
    script = next(text for path, text in files(repository, setup).items() if path.endswith("/tunnel"))
    fake, log = tmp_path / "ip", tmp_path / "log"
    fake.write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    fake.chmod(0o755)
    (tmp_path / "tunnel").write_text(script.replace("PATH=/usr/sbin", f"PATH={tmp_path}:/usr/sbin"))
    said = {}
    for word in ("up", "down"):
        subprocess.run(["sh", str(tmp_path / "tunnel"), word], check=True, env={**os.environ, "PATH": "/usr/bin:/bin"})
        said[word] = log.read_text().splitlines()
        log.unlink()
    for item in (*setup["addresses"], *setup["lan_addresses"]):
        assert any(f" address {verb} {item['cidr']} dev {item['device']}" in line for line in said["up"] for verb in ("add", "replace"))
    for item in setup["routes"]:
        assert any(item["destination"] in line and f"metric {item['metric']}" in line for line in said["up"])
    assert any("link delete" in line for line in said["down"])
    assert any(setup["lan"][0]["cidr"] in line for line in said["down"]), "the LAN's interface stays, our address does not"
    assert any("unreachable" in line for line in said["down"]) == any(item["type"] == "unreachable" for item in setup["routes"])
    assert len([line for line in said["down"] if line.startswith("-4 rule delete")]) == len(setup["rules"])


def test_a_wrong_word_is_refused(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "tunnel").write_text(next(iter(files(repository, setup_of("v6v4")).values())))
    done = subprocess.run(["sh", str(tmp_path / "tunnel"), "sideways"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage" in done.stderr


def test_the_unit_waits_for_the_lan(repository: Path) -> None:
    setup = setup_of("v6v4", True)
    unit = next(text for path, text in files(repository, setup).items() if path.endswith(".service"))
    assert "sys-subsystem-net-devices-eth2.device" in unit


def test_without_systemd_nobody_would_run_it() -> None:
    made = host("networkd")
    made["service_manager"] = "none"
    with pytest.raises(LocalError) as caught:
        setup_of("v6v4", made=made)
    assert caught.value.code == "backend_cannot" and "at boot" in caught.value.message
