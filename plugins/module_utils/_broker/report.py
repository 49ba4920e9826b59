# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the commands print: the configuration in words, tables of leases and accounts. Text out of data, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from .accounts import Account
from .config import Config
from .store import StoredLease


def describe(config: Config, offered: Iterable[str], warnings: Sequence[str], stored: Sequence[Account]) -> str:
    """What `serve` would do with this configuration."""
    pools, keepalive, anonymous = config.pools, config.keepalive, config.auth.anonymous
    plane = {"auto": "kernel tunnels where the kernel has them, else userspace, else control plane only (decided at start)",
             "kernel": "kernel tunnels (sit, ip6tnl) and a TUN device", "userspace": "one TUN device and raw sockets",
             "none": "control plane only, nothing is carried"}[config.data_plane.kind]
    lines = [
        f"{config.source} is valid.",
        f"listens     {_list(config.listen.addresses)} port {config.listen.port} over {_list(config.listen.transports)}",
        f"name        {config.name}, realm {config.realm}",
        f"modes       {', '.join(config.modes)}",
        f"versions    {', '.join(config.versions)}",
        f"logins      {', '.join(sorted(offered))}",
        f"accounts    {len(config.accounts)} in the configuration, {len(stored)} in the store" + (
            f"; nameless users {'with' if config.anonymous.prefix else 'without'} prefix" if anonymous else ""),
        f"data plane  {config.data_plane.kind}: {plane}",
        f"our ends    {config.addresses.inner_ipv6}" + (f", {config.addresses.inner_ipv4}" if config.addresses.inner_ipv4 else ""),
        f"addresses   {pools.ipv6} ({_amount(pools.ipv6.num_addresses - 2)})" + (
            f", {pools.ipv4} ({_amount(pools.ipv4.num_addresses - 3)})" if pools.ipv4 else ""),
    ]
    for pool in (*pools.prefixes, *pools.ipv4_prefixes):
        room = 1 << (pool.default - pool.network.prefixlen)
        lines.append(f"prefixes    {pool.network} in lengths {_spans(pool.lengths)}, by default /{pool.default} (room for {_amount(room)})")
    if not pools.prefixes:
        lines.append("prefixes    none: routers are refused")
    lines += [
        f"leases      {config.lifetime} s, kept in {config.store}",
        f"keepalive   {keepalive.minimum} to {keepalive.maximum} s; the tunnel end is freed after {keepalive.silence} silent intervals",
    ]
    if config.redirect is not None:
        brokers = [b.address + (f" port {b.port}" if b.port else "") for b in config.redirect.brokers]
        lines.append(f"redirect    at {config.redirect.at} to {_list(brokers)}")
    lines += [f"warning     {warning}" for warning in warnings]
    return "\n".join(lines)


def account_rows(accounts: Iterable[Account], realm: str) -> list[dict[str, Any]]:
    """Accounts as plain data, without anything secret. digest: whether DIGEST-MD5 works for it."""
    return [{"username": a.username, "enabled": a.enabled, "digest": a.ha1(realm) is not None, "tunnels": a.tunnels, "proxy": a.proxy,
             "ipv6": _text(a.ipv6), "prefix": _text(a.prefix), "ipv4": _text(a.ipv4), "origin": a.origin} for a in accounts]


def lease_rows(leases: Iterable[StoredLease], now: float) -> list[dict[str, Any]]:
    """Leases as plain data, JSON types only."""
    rows = []
    for lease in leases:
        v4v6 = lease.mode == "v4v6"
        inside, prefix = (lease.ipv4, lease.prefix4) if v4v6 else (lease.ipv6, lease.prefix6)
        rows.append({
            "id": lease.id, "user": lease.username, "owner": lease.owner, "mode": lease.mode,
            "client": f"{lease.outer}" + (f" port {lease.port}" if lease.port else ""), "broker": _text(lease.local),
            "inside": _text(inside), "prefix": _text(prefix) if lease.router else None,
            "reserved": [str(x) for x in (lease.ipv6, lease.prefix6, lease.ipv4, lease.prefix4) if x is not None],
            "dns_servers": list(lease.dns_servers), "proxy": lease.proxy, "keepalive": lease.keepalive,
            "state": "ending" if lease.released else "up" if lease.up else "silent",
            "created_at": _time(lease.created_at), "renewed_at": _time(lease.renewed_at), "expires_at": _time(lease.expires_at),
            "expires_in": max(0, int(lease.expires_at - now))})
    return rows


def table(rows: Sequence[Mapping[str, Any]], nothing: str) -> str:
    """Rows of the same keys in columns; None is a dash, true and false are yes and no."""
    if not rows:
        return nothing
    cells = [[key.replace("_", " ").upper() for key in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip() for line in cells)


def _list(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _time(unix: int) -> str:
    return datetime.fromtimestamp(unix, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _amount(number: int) -> str:
    return f"{number:,}" if number < 1 << 40 else f"2^{number.bit_length() - 1} or more"


def _spans(lengths: Sequence[int]) -> str:
    spans: list[list[int]] = []
    for length in lengths:
        if spans and spans[-1][1] == length - 1:
            spans[-1][1] = length
        else:
            spans.append([length, length])
    return ", ".join(f"/{a}" if a == b else f"/{a} to /{b}" for a, b in spans)
