# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel in memory behind `ip`, as far as `_apply.kernel` and `_apply.change` use it: it refuses what Linux refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner

Answer = tuple[int, str, str]
PER_INTERFACE = {"forwarding": "0", "accept_ra": "1"}


class KernelHost(FakeRunner):
    """A host with lo, eth0 (uplink, a default route out of router advertisements) and eth1 (LAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, dict[str, Any]] = {}
        self.routes: list[dict[str, Any]] = []
        self.rules: list[dict[str, Any]] = []
        self.fou: dict[int, int] = {}
        self.handlers["ip"] = self._ip
        self.directories["/sys/module/fou"] = 0o755
        for name, value in PER_INTERFACE.items():
            self.sysctls[f"net/ipv6/conf/all/{name}"] = self.sysctls[f"net/ipv6/conf/default/{name}"] = value
        for name in ("lo", "eth0", "eth1"):
            self._add_link(name, {"ifname": name, "flags": ["UP", "LOWER_UP"], "mtu": 1500, "addr_info": []})
        self.links["eth0"]["addr_info"].append({"family": "inet", "local": "192.0.2.7", "prefixlen": 24, "scope": "global"})
        self.routes.append({"family": 6, "type": "unicast", "dst": "default", "gateway": "fe80::1", "dev": "eth0", "table": "main",
                            "protocol": "ra", "metric": 1024, "flags": [], "expires": 1700, "pref": "medium"})

    def set_sysctl(self, name: str, value: str) -> None:
        super().set_sysctl(name, value)
        if name == "net/ipv6/conf/all/forwarding":
            for other in self.sysctls:
                if other.startswith("net/ipv6/conf/") and other.endswith("/forwarding"):
                    self.sysctls[other] = value
            if value == "1":
                self.routes = [route for route in self.routes if route.get("protocol") != "ra"
                               or self.sysctls[f"net/ipv6/conf/{route['dev']}/accept_ra"] == "2"]

    def snapshot(self) -> dict[str, Any]:
        def text(things: Any) -> list[str]:
            return sorted(json.dumps(thing, sort_keys=True) for thing in things)
        return {**super().snapshot(), "links": text(self.links.values()), "routes": text(self.routes), "rules": text(self.rules),
                "fou": dict(self.fou), "sysctls": dict(self.sysctls)}

    def _add_link(self, name: str, link: dict[str, Any]) -> None:
        self.links[name] = link
        for sysctl in PER_INTERFACE:
            self.sysctls[f"net/ipv6/conf/{name}/{sysctl}"] = self.sysctls[f"net/ipv6/conf/default/{sysctl}"]

    def del_link(self, name: str) -> None:
        del self.links[name]
        self.routes = [route for route in self.routes if route.get("dev") != name]
        self.sysctls = {key: value for key, value in self.sysctls.items() if f"/conf/{name}/" not in key}

    def _ip(self, argv: Sequence[str]) -> Answer:
        words = [word for word in argv[1:] if word not in ("-j", "-d")]
        family = 6
        if words[0] in ("-6", "-4"):
            family = int(words.pop(0)[1:])
        what, verb, rest = words[0], words[1], words[2:]
        if verb == "show":
            return 0, json.dumps(self._show(what, family)), ""
        answer = getattr(self, f"_{what}_{verb}")(rest, family)
        return (2, "", f"RTNETLINK answers: {answer}") if answer else (0, "", "")

    def _show(self, what: str, family: int) -> list[dict[str, Any]]:
        if what == "addr":
            return list(self.links.values())
        if what == "fou":
            return [{"port": port, "ipproto": protocol} for port, protocol in self.fou.items()]
        things = self.routes if what == "route" else self.rules
        return [{key: value for key, value in thing.items() if key != "family"} for thing in things if thing["family"] == family]

    def _link_add(self, words: list[str], family: int) -> str:
        options = _pairs([word for word in words if not word.startswith(("encap-csum", "noencap-csum"))])
        name = options["name"]
        if name in self.links:
            return "File exists"
        data = {"local": options["local"], "remote": options["remote"], "ttl": int(options.get("ttl", 64))}
        if "encap" in options:
            data["encap"] = {"type": "fou", "sport": int(options["encap-sport"]), "dport": int(options["encap-dport"]), "csum": True}
        for other in self.links.values():
            taken = other.get("linkinfo", {}).get("info_data") or {}
            if (taken.get("local"), taken.get("remote")) == (data["local"], data["remote"]):
                return "File exists"
        self._add_link(name, {"ifname": name, "flags": [], "mtu": 1480, "addr_info": [],
                              "linkinfo": {"info_kind": options["type"], "info_data": data}})
        return ""

    def _link_set(self, words: list[str], family: int) -> str:
        up = [word for word in words if word in ("up", "down")]
        options = _pairs([word for word in words if word not in ("up", "down")])
        link = self.links.get(options["dev"])
        if link is None:
            return "Cannot find device"
        link["mtu"] = int(options.get("mtu", link["mtu"]))
        if "alias" in options:
            link["ifalias"] = options["alias"]
        if up:
            link["flags"] = ["UP", "LOWER_UP"] if up == ["up"] else []
        return ""

    def _link_del(self, words: list[str], family: int) -> str:
        if words[1] not in self.links:
            return "Cannot find device"
        self.del_link(words[1])
        return ""

    def _addr_add(self, words: list[str], family: int) -> str:
        local, length = words[0].split("/")
        link = self.links.get(words[words.index("dev") + 1])
        if link is None:
            return "Cannot find device"
        if any(address["local"] == local for address in link["addr_info"]):
            return "File exists"
        link["addr_info"].append({"family": "inet6" if family == 6 else "inet", "local": local, "prefixlen": int(length),
                                  "scope": "global"})
        return ""

    def _addr_replace(self, words: list[str], family: int) -> str:
        return self._addr_add(words, family).replace("File exists", "")

    def _addr_del(self, words: list[str], family: int) -> str:
        link = self.links[words[words.index("dev") + 1]]
        left = [address for address in link["addr_info"] if f"{address['local']}/{address['prefixlen']}" != words[0]]
        if len(left) == len(link["addr_info"]):
            return "Cannot assign requested address"
        link["addr_info"] = left
        return ""

    def _route(self, words: list[str], family: int) -> dict[str, Any]:
        kind = words.pop(0) if words[0] == "unreachable" else "unicast"
        destination = words.pop(0)
        options = _pairs([word for word in words if word != "onlink"])
        default = str(ip_network(destination)) in ("::/0", "0.0.0.0/0")
        route = {"family": family, "type": kind, "dst": "default" if default else destination, "dev": options.get("dev", "lo"),
                 "table": options.get("table", "main"), "protocol": options.get("proto", "boot"), "metric": int(options["metric"]),
                 "flags": []}
        for word, name in (("via", "gateway"), ("from", "from"), ("pref", "pref")):
            if word in options:
                route[name] = options[word]
        if "expires" in options:
            route["expires"] = int(options["expires"])
        return route

    def _route_add(self, words: list[str], family: int) -> str:
        route = self._route(words, family)
        if route["dev"] not in self.links:
            return "Cannot find device"
        if "UP" not in self.links[route["dev"]]["flags"]:
            return "Network is down"
        if any(_same(route, other) for other in self.routes):
            return "File exists"
        self.routes.append(route)
        return ""

    def _route_del(self, words: list[str], family: int) -> str:
        route = self._route(words, family)
        left = [other for other in self.routes if not _same(route, other)]
        if len(left) == len(self.routes):
            return "No such process"
        self.routes = left
        return ""

    def _rule_add(self, words: list[str], family: int) -> str:
        self.rules.append(_rule(words, family))
        return ""

    def _rule_del(self, words: list[str], family: int) -> str:
        try:
            self.rules.remove(_rule(words, family))
        except ValueError:
            return "No such file or directory"
        return ""

    def _fou_add(self, words: list[str], family: int) -> str:
        if int(words[1]) in self.fou:
            return "Address already in use"
        self.fou[int(words[1])] = int(words[3])
        return ""

    def _fou_del(self, words: list[str], family: int) -> str:
        return "" if self.fou.pop(int(words[1]), None) else "No such process"


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2]))


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("family", "dst", "dev", "table", "metric", "from", "gateway", "type"))


def _rule(words: Sequence[str], family: int) -> dict[str, Any]:
    options = _pairs(words)
    source, _slash, length = options["from"].partition("/")
    rule: dict[str, Any] = {"family": family, "priority": int(options["priority"]), "src": source, "table": options["table"]}
    if int(length) != (128 if family == 6 else 32):
        rule["srclen"] = int(length)
    if "suppress_prefixlength" in options:
        rule["suppress_prefixlen"] = int(options["suppress_prefixlength"])
    return rule
