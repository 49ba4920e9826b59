# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The sections of the agent's JSON configuration: each takes its values out of a Reader, and is a part of `settings`."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from .logplaces import FACILITIES
from .reader import Reader
from .settings import METRIC, HooksConfig, KeepaliveConfig, LinkConfig, LogConfig, MetricsConfig, RetryConfig
from .tun import DEVICE_NAME

DEFAULT_ROUTES = ("none", "metric", "source", "replace")
DATA_PLANES = ("auto", "fou", "tun")
LOG_LEVELS = (0, 1, 2, 3)
ROTATION_SIZES = (16, 32, 128, 1024)
DAY = 86400
LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,5})\Z")


def link(reader: Reader) -> LinkConfig:
    made = LinkConfig(
        mtu=reader.size("mtu"), link_mtu=reader.size("link_mtu"), lan_interfaces=reader.list("lan_interfaces"),
        default_route=reader.text("default_route", "metric", DEFAULT_ROUTES), metric=reader.count("metric", METRIC, 1, 2 ** 31),
        forwarding=reader.flag("forwarding", None), data_plane=reader.text("data_plane", "auto", DATA_PLANES))
    for item in made.lan_interfaces:
        interface = item.get("name") if isinstance(item, dict) else item
        if not isinstance(interface, str) or not DEVICE_NAME.match(interface):
            reader.refuse("lan_interfaces", f"holds {interface!r}, which cannot be the name of an interface")
    return made


def keepalive(reader: Reader) -> KeepaliveConfig:
    return KeepaliveConfig(longest_interval=reader.number("longest_interval", None, 1, DAY),
                           misses=reader.count("misses", KeepaliveConfig.misses, 1, 100),
                           probe_nat=reader.yes("probe_nat", False))


def retry(reader: Reader) -> RetryConfig:
    made = RetryConfig(
        first_delay=float(reader.number("first_delay", RetryConfig.first_delay, 0.5, 3600)),
        longest_delay=float(reader.number("longest_delay", RetryConfig.longest_delay, 1, DAY)),
        auth_tries=reader.count("auth_tries", RetryConfig.auth_tries, 1, 1000), reconnect=reader.yes("reconnect", True))
    if made.longest_delay < made.first_delay:
        reader.refuse("longest_delay", f"is {made.longest_delay:g}, less than first_delay")
    return made


def hooks(reader: Reader) -> HooksConfig:
    made = HooksConfig(
        script=reader.path("script", ""), script_sets_up=reader.yes("script_sets_up", False), lease=reader.path("lease", ""),
        home_dir=reader.path("home_dir", ""), timeout=float(reader.number("timeout", HooksConfig.timeout, 1, 3600)))
    if made.script_sets_up and not made.script:
        reader.refuse("script_sets_up", "is true, but there is no script")
    return made


def log(reader: Reader) -> LogConfig:
    made = LogConfig(
        stderr=reader.count("stderr", None, 0, 3), console=reader.whole("console", 0, LOG_LEVELS),
        file=reader.whole("file", 0, LOG_LEVELS), syslog=reader.whole("syslog", 0, LOG_LEVELS), filename=reader.path("filename", ""),
        rotation=reader.yes("rotation", True), rotation_size=reader.whole("rotation_size", LogConfig.rotation_size, ROTATION_SIZES),
        rotation_delete=reader.yes("rotation_delete", False),
        syslog_facility=reader.text("syslog_facility", LogConfig.syslog_facility, tuple(FACILITIES)))
    if made.file and not made.filename:
        reader.refuse("file", f"is {made.file}, but there is no filename")
    return made


def metrics(reader: Reader) -> MetricsConfig:
    made = MetricsConfig(textfile=reader.path("textfile", ""), listen=reader.text("listen", ""))
    if made.textfile and not made.textfile.endswith(".prom"):
        reader.refuse("textfile", f"is {made.textfile!r}; node_exporter reads *.prom only")
    if made.listen and not _is_loopback(made.listen):
        reader.refuse("listen", f"is {made.listen!r}; it must be a loopback address and a port, as 127.0.0.1:9653 or [::1]:9653")
    return made


def _is_loopback(text: str) -> bool:
    found = LISTEN.match(text)
    try:
        return found is not None and ip_address(found[1] or found[2]).is_loopback and 1 <= int(found[3]) <= 65535
    except ValueError:
        return False


ALL: dict[str, Callable[[Reader], Any]] = {
    "link": link, "keepalive": keepalive, "retry": retry, "hooks": hooks, "log": log, "metrics": metrics}
"""By the name of the field in AgentConfig, which is the key in the file."""
