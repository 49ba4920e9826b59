# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documentation of the modules says what their argument specs say; and the modules themselves stay thin."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.tunnelbroker.tsp.plugins.doc_fragments import attributes, broker
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.info_task import SPEC as LINUX_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import INFO_SPEC, TUNNEL_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_info_task import SPEC as TUNNELS_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.modules import broker_info, linux_info, tunnel, tunnel_info

FRAGMENTS = {
    "tunnelbroker.tsp.attributes": attributes.ModuleDocFragment.DOCUMENTATION,
    "tunnelbroker.tsp.broker": broker.ModuleDocFragment.DOCUMENTATION,
    "tunnelbroker.tsp.broker.login": broker.ModuleDocFragment.LOGIN,
    "tunnelbroker.tsp.broker.request": broker.ModuleDocFragment.REQUEST,
}
MODULES = [(tunnel, TUNNEL_SPEC), (broker_info, INFO_SPEC), (linux_info, LINUX_SPEC), (tunnel_info, TUNNELS_SPEC)]
NAMES = [module.__name__.rpartition(".")[2] for module, _spec in MODULES]


@pytest.mark.parametrize("module, spec", MODULES, ids=NAMES)
def test_options_are_documented_as_they_are(module, spec):
    doc = yaml.safe_load(module.DOCUMENTATION)
    options = {}
    for name in doc["extends_documentation_fragment"]:
        options.update(yaml.safe_load(FRAGMENTS[name])["options"])
    options.update(doc["options"])
    assert set(options) == set(spec)
    for name, option in spec.items():
        said = options[name]
        for key in ("type", "elements", "choices", "default", "required"):
            assert said.get(key) == option.get(key), f"{name}: {key}"
        assert said["description"]


@pytest.mark.parametrize("module", [module for module, _spec in MODULES], ids=NAMES)
def test_examples_use_options_that_exist(module):
    spec = next(spec for one, spec in MODULES if one is module)
    name = "tunnelbroker.tsp." + module.__name__.rpartition(".")[2]
    used = [task[name] for task in yaml.safe_load(module.EXAMPLES) if name in task]
    assert used and all(set(task) <= set(spec) for task in used)


@pytest.mark.parametrize("module", [module for module, _spec in MODULES], ids=NAMES)
def test_a_module_is_documentation_and_wiring(module):
    code = Path(module.__file__).read_text().split('RETURN = r"""')[1].split('"""')[1]
    assert len([line for line in code.splitlines() if line.strip()]) < 30


def test_every_secret_option_is_no_log():
    assert [name for name, option in TUNNEL_SPEC.items() if option.get("no_log")] == ["password"]
