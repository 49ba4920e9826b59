# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""templates/agent/agent.json.j2: the agent reads what the role writes, and the role can say all that the agent can be told."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import config, settings

# What the role has from its vars, or works out. The mode's own devices are for old files, the port is the lease's.
GIVEN = {"agent_name": "tsp", "agent_request": {"mode": "v6v4"}, "agent_broker": ["a.example", "b.example"],
         "agent_auth_method": "anonymous", "agent_password_file_used": "",
         "agent_runtime_dir": "/run/tsp-tsp", "agent_lease_file": "/l", "agent_radvd_transactions": []}
NOT_SAID = {"devices", "warnings", "options.source_port", "options.transcript", "options.moved", "options.last_server_file",
            "options.broker_list_file", "options.longest_delay", "options.identity", "name", "runtime_dir", "radvd", "options.brokers"}
OTHER: dict[str, Any] = {
    "agent_device": "tsp9", "agent_request": {"mode": "v6udpv4"}, "agent_auth_method": "any", "agent_username": "alice",
    "agent_password_file_used": "PASSWORD", "agent_allow_plaintext": True, "agent_strict": True, "agent_server_key_policy": "accept_new",
    "agent_known_keys_file": "/k", "agent_transport": "udp", "agent_source_address": "192.0.2.1", "agent_source_interface": "eth9",
    "agent_deadline": 9, "agent_min_interval": 9, "agent_always_use_same_server": "yes", "agent_choose": "nearest",
    "agent_preferred_broker": "b.example", "agent_return_after": 900, "agent_mtu": 1300, "agent_link_mtu": 1400,
    "agent_lan_interfaces": ["eth1"], "agent_default_route": "none", "agent_metric": 9, "agent_forwarding": True, "agent_data_plane": "tun",
    "agent_keepalive_longest_interval": 9, "agent_keepalive_misses": 9, "agent_keepalive_probe_nat": True, "agent_retry_first_delay": 9,
    "agent_retry_longest_delay": 99, "agent_auth_tries": 9, "agent_reconnect": False, "agent_roaming": False, "agent_renew_at": 0.5,
    "agent_hook_script": "/s", "agent_hook_script_sets_up": True, "agent_hook_lease": "/l", "agent_hook_home_dir": "/h",
    "agent_hook_timeout": 9, "agent_log_stderr": "3", "agent_log_console": 1, "agent_log_file": 2, "agent_log_filename": "/f",
    "agent_log_rotation": False, "agent_log_rotation_size": 128, "agent_log_rotation_delete": True, "agent_log_syslog": 1,
    "agent_syslog_facility": "LOCAL1", "agent_metrics_textfile": "/m.prom", "agent_metrics_listen": "127.0.0.1:9653", "agent_user": "tsp",
    "agent_lease_file": "/other", "agent_log_level": "debug", "agent_exchange_state_dir": "/x"}


def read(repository: Path, **variables: Any) -> settings.AgentConfig:
    """What the agent makes of the file that the role would write."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(repository / "templates" / "agent"), undefined=jinja2.StrictUndefined)
    environment.filters.update(
        to_json=json.dumps, bool=lambda value: value in (True, "yes", "true"),
        flatten=lambda value: [one for item in value for one in (item if isinstance(item, list) else [item])])
    defaults = yaml.safe_load((repository / "roles" / "agent" / "defaults" / "main.yml").read_text(encoding="utf-8"))
    text = environment.get_template("agent.json.j2").render(**{**defaults, **GIVEN, **variables})
    return config.parse_text(text.encode(), "agent.json", {})


def flat(made: Any, before: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if dataclasses.is_dataclass(value) and field.name not in ("request", "credentials"):
            out.update(flat(value, f"{before}{field.name}."))
        else:
            out[before + field.name] = value
    return out


def test_the_roles_defaults_are_the_agents(repository: Path) -> None:
    written = flat(read(repository))
    own = flat(config.parse({"request": {"mode": "v6v4"}, "lease_file": "/l", "runtime_dir": "/run/tsp-tsp",
                             "broker": {"brokers": ["a.example", "b.example"], "auth_method": "anonymous"}}))
    assert written == own


def test_the_role_can_say_all_that_the_agent_can_be_told(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sword\n")
    (tmp_path / "secret").chmod(0o600)
    given = {**OTHER, "agent_password_file_used": str(tmp_path / "secret")}
    before, after = flat(read(repository)), flat(read(repository, **given))
    assert {name for name in before if before[name] == after[name]} == NOT_SAID | {"options.server_key"}, "but for a key, which is long"
    assert after["options.credentials"].password == "sword"


def test_each_variable_of_the_file_is_an_option_of_the_role_with_its_default(repository: Path) -> None:
    role = repository / "roles" / "agent"
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    options = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    assert set(defaults) <= set(options)
    for variable, value in defaults.items():
        if variable not in ("agent_transaction", "agent_lease_file"):
            assert options[variable]["default"] == value, variable
    variables = set(re.findall(r"\bagent_[a-z_0-9]+", (repository / "templates/agent/agent.json.j2").read_text(encoding="utf-8")))
    assert variables <= {*options, *GIVEN, "agent_credential"}
