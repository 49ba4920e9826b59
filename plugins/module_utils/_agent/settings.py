# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What an agent can be told, as plain values. `config` reads them out of JSON, `oldconf` out of a gw6c.conf or gogoc.conf."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from .._exchange.options import ExchangeOptions
from .._tsp.request import TunnelRequest

CREATION, TEARDOWN = "TSP_TUNNEL_CREATION", "TSP_TUNNEL_TEARDOWN"
"""What a hook is told has happened to the tunnel, as the old client's templates were (tsp-protocol.md section 9)."""
METRIC = 2048
"""Metric of our default route: worse than what router advertisements (1024) or DHCP give, so a native one stays in use."""


@dataclass(frozen=True)
class LinkConfig:
    """How the tunnel is set up on this host.

    mtu: "auto" (link_mtu less the headers) or bytes. link_mtu: "auto" (what the lease says of the path, else 1500) or bytes.
    lan_interfaces: as tunnel_plan takes them. default_route: none | metric (worse than a native one) | source (for packets from our
    addresses only) | replace (better than any native one). forwarding: None means as soon as there are LAN interfaces.
    data_plane: who carries v6udpv4: fou (the kernel) | tun (the agent) | auto (the kernel where it can).
    """

    mtu: Any = "auto"
    link_mtu: Any = "auto"
    lan_interfaces: tuple[Any, ...] = ()
    default_route: str = "metric"
    metric: int = METRIC
    forwarding: bool | None = None
    data_plane: str = "auto"


@dataclass(frozen=True)
class KeepaliveConfig:
    """longest_interval: seconds, the user's own cap on the broker's interval. misses: pings in a row without an answer that make a
    loss. probe_nat: find out how long the NAT remembers an idle flow, and ping as seldom as that allows."""

    longest_interval: float | None = None
    misses: int = 3
    probe_nat: bool = False


@dataclass(frozen=True)
class RetryConfig:
    """first_delay, longest_delay: seconds before the broker is asked again after a failure, doubled each time, with jitter.

    auth_tries: refusals of who we are (password, key, mechanism) in a row after which we stop asking until told (SIGHUP) or until the
    configuration changes. reconnect: whether a tunnel that is lost is asked for again at all (the old client's auto_retry_connect).
    """

    first_delay: float = 1.0
    longest_delay: float = 300.0
    auth_tries: int = 3
    reconnect: bool = True


@dataclass(frozen=True)
class HooksConfig:
    """The user's own programs (absolute paths, no shell), called when a tunnel came up, when its lease changed and before it goes.

    script: gets the old client's TSP_* variables. script_sets_up: it makes the device, the addresses and the routes in our place, as the
    old client's template did. lease: gets the lease as JSON on standard input. home_dir: TSP_HOME_DIR. timeout: seconds for each.
    """

    script: str = ""
    script_sets_up: bool = False
    lease: str = ""
    home_dir: str = ""
    timeout: float = 60.0


@dataclass(frozen=True)
class LogConfig:
    """Levels 0 (nothing) to 3 (the exchange itself, without secrets) for each place; None: by log_level, where nothing else is set.

    file: level for filename. rotation: the file is moved to a name with the time before it passes rotation_size KiB (16, 32, 128, 1024);
    rotation_delete: it is deleted instead. syslog_facility: USER, LOCAL0 to LOCAL7. console: /dev/console.
    """

    stderr: int | None = None
    console: int = 0
    file: int = 0
    syslog: int = 0
    filename: str = ""
    rotation: bool = True
    rotation_size: int = 32
    rotation_delete: bool = False
    syslog_facility: str = "USER"


@dataclass(frozen=True)
class MetricsConfig:
    """Prometheus: textfile (an absolute path, *.prom, for node_exporter's textfile collector), listen (`127.0.0.1:9653`: loopback only)."""

    textfile: str = ""
    listen: str = ""


@dataclass(frozen=True)
class AgentConfig:
    """All of it, for one tunnel. options holds the credentials; its repr does not.

    roaming: watch this host's addresses and default route, and ask the broker again when they change. renew_at: the share of the
    lifetime after which the lease is renewed. preferred: the broker to go back to, looked for every return_after seconds (0: only when
    told by SIGHUP). user: whom the part that reads the network becomes, started as root ("root" keeps all in one process). radvd: None, or
    who advertises the delegated prefix on the LAN, see `advertise`. devices: the name of the device for some modes, in place of device
    (an old file has one for each). warnings: what the file said and we do not do, each with its reason.
    """

    name: str
    device: str
    request: TunnelRequest
    options: ExchangeOptions
    link: LinkConfig = field(default_factory=LinkConfig)
    keepalive: KeepaliveConfig = field(default_factory=KeepaliveConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    hooks: HooksConfig = field(default_factory=HooksConfig)
    log: LogConfig = field(default_factory=LogConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    roaming: bool = True
    renew_at: float = 0.8
    preferred: str = ""
    return_after: float = 0.0
    user: str = "nobody"
    radvd: dict[str, Any] | None = None
    lease_file: str = ""
    state_dir: str = "/var/lib/tsp"
    runtime_dir: str = "/run/tsp"
    log_level: str = "info"
    devices: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def device_of(self, mode: str) -> str:
        """The name of the tunnel's device when the broker grants this mode (v6v4, v6udpv4, v4v6)."""
        return dict(self.devices).get(mode, self.device)

    def runtime_file(self, suffix: str) -> str:
        """A file of the part that reads the network, below runtime_dir: pid, status.json, log, apply (a socket)."""
        return os.path.join(self.runtime_dir, f"{self.name}.{suffix}")

    def private_file(self, suffix: str) -> str:
        """A file of the part that changes the host, in a folder that is root's alone: undo.json, lock."""
        return os.path.join(f"{self.runtime_dir}-apply", f"{self.name}.{suffix}")
