# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A gw6c.conf or gogoc.conf, as it stands, as plain values (tsp-protocol.md section 10). What an agent makes of them: `oldagent`.

One `name=value` a line; blanks around both do not count, what begins with # is a comment, an empty value is the default, the last of
several counts. Names that no client knew were ignored by the clients; here they are told, as everything else that cannot be meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._tsp.errors import LocalError
from .oldkeys import DEVICES, KEYS, SECRET

LONGEST_LINE = 2048


@dataclass(frozen=True)
class OldConf:
    """kind: gw6c | gogoc, whose file it is. values: one for every key of `oldkeys.KEYS`, defaults filled in. places: for each key that was
    given, where (`line 12`, `-r`). warnings: sentences. Its repr holds no password."""

    path: str
    kind: str
    values: dict[str, Any] = field(repr=False)
    places: dict[str, str]
    warnings: tuple[str, ...]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def home_dir(self) -> str:
        """gw6_dir or gogoc_dir, as it is written; empty where neither is set."""
        first, second = ("gogoc_dir", "gw6_dir") if self.kind == "gogoc" else ("gw6_dir", "gogoc_dir")
        return str(self[first] or self[second])

    def where(self, key: str) -> str:
        """For messages: `line 12: key`, or the key alone where it was not given."""
        return f"{self.places[key]}: {key}" if key in self.places else key


def read(text: str, path: str = "gw6c.conf", platform: str = "linux", given: Mapping[str, str] | None = None) -> OldConf:
    """Pure. platform: as sys.platform has it, for the names of devices. given: values of the command line, which take the place of lines.

    Raises LocalError `config_invalid`, with all that is wrong and the values that are allowed.
    """
    wrong: list[str] = []
    warnings: list[str] = []
    found = _lines(text, warnings)
    for key, value in (given or {}).items():
        found[key] = ("command line", value)
    kind = "gogoc" if os.path.basename(path).startswith("gogoc") or any(
        key == "gogoc_dir" or key.startswith(("haccess_", "dslite_")) for key in found) else "gw6c"
    values: dict[str, Any] = {key: default for key, (_check, default) in KEYS.items()}
    places = {}
    for key, (place, value) in found.items():
        if value == "":
            continue
        places[key] = place
        try:
            values[key] = KEYS[key][0](value)
        except ValueError as exc:
            what = "cannot be used" if key in SECRET else f"is {value!r}"
            wrong.append(f"{place}: {key} {what}; {str(exc).rstrip('.')}")
    devices = DEVICES.get(re.sub(r"[0-9.]+\Z", "", platform), DEVICES["linux"])
    for mode, device in zip(("v6v4", "v6udpv4", "v4v6"), devices):
        values[f"if_tunnel_{mode}"] = values[f"if_tunnel_{mode}"] or device
    values["log_filename"] = values["log_filename"] or f"{kind}.log"
    conf = OldConf(path, kind, values, places, tuple(warnings))
    wrong += _contradictions(conf)
    if wrong:
        raise LocalError("config_invalid", f"{path}: {'; '.join(wrong)}.", "Correct it; nothing was done.")
    return conf


def _lines(text: str, warnings: list[str]) -> dict[str, tuple[str, str]]:
    """Key -> (place, text)."""
    found: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(text.lstrip("\ufeff").split("\n"), 1):
        place = f"line {number}"
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        # No text of the line stands in these: it may be the half of a password.
        if len(line) > LONGEST_LINE:
            warnings.append(f"{place} is longer than {LONGEST_LINE} characters; the old clients did not read such a line, nor do we.")
        elif not equals:
            warnings.append(f"{place} has no =, and was passed over.")
        elif name not in KEYS:
            shown = repr(name) if re.match(r"[A-Za-z0-9_]{1,40}\Z", name) else "a name"
            warnings.append(f"{place}: {shown} is not known to any client; the line was passed over.")
        else:
            if name in found:
                warnings.append(f"{place}: {name} stands in {found[name][0]} as well; the last one counts.")
            found[name] = (place, value)
    return found


def _contradictions(conf: OldConf) -> list[str]:
    """What the old clients refused as well."""
    wrong = []
    if not conf["server"] and "server" not in conf.places:
        wrong.append("server is missing: the broker's name or address")
    if conf["auth_method"] != "anonymous":
        wrong += [f"{key} is missing, which auth_method={conf['auth_method']} needs"
                  for key in ("userid", "passwd") if not conf[key] and key not in conf.places]
    if conf["host_type"] == "router" and not conf["if_prefix"] and "if_prefix" not in conf.places:
        wrong.append("if_prefix is missing, which host_type=router needs: the interface of the LAN")
    if conf["keepalive"] and conf["keepalive_interval"] == 0:
        wrong.append(f"{conf.where('keepalive_interval')} is 0; with keepalive=yes it can be a number from 1")
    if conf["proxy_client"] and conf["tunnel_mode"] == "v6udpv4":
        wrong.append(f"{conf.where('proxy_client')} is yes, which tunnel_mode=v6udpv4 cannot have; it can be no")
    return wrong
