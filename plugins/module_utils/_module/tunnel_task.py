# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The task `tunnel`: ask for a tunnel unless the stored lease still answers, or give it back.

The same function runs in the module on the target and in the action plugin on the controller. It raises TspError; results are plain
dicts. The order of a grant: room for the lease is reserved on disk, the broker is asked, the lease is stored, and only then are
facts returned. A lease that could not be stored after all is given back to the broker.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Callable, Protocol

from .._exchange import negotiate as _negotiate
from .._exchange.memory import forget as forget_memory
from .._exchange.negotiate import ExchangeResult
from .._exchange.options import Address, ExchangeOptions, parse_broker
from .._exchange.source import Source, is_own, own_address
from .._tsp.errors import LocalError, NetworkError, RemoteError, TspError
from .._tsp.grant_check import check_grant
from .._tsp.lease import Lease
from .._tsp.request import TunnelRequest
from . import copyfile
from .ask import Place, checked_name, options_of, request_of
from .blockyaml import to_yaml
from .leasestore import Reservation, lease_text, load, remove
from .pathmtu import Measure, measured

KEPT_BY_BROKER = ("auth_failed", "no_common_mechanism", "server_key_unknown", "server_key_changed", "server_not_authentic",
                  "known_keys_invalid")
"""Failures of a delete that mean that the tunnel is still there and that somebody here can do something about it."""

NEAR_END = 60.0
"""Seconds (but at most a tenth of its lifetime) before the end of a lease in which it is as good as ended."""


class Exchange(Protocol):
    """The port to the broker; `_exchange.negotiate` is the real one, tests bring a fake."""

    def negotiate_sync(self, request: TunnelRequest, options: ExchangeOptions) -> ExchangeResult:
        """Ask for a tunnel. Raises TspError."""

    def delete_sync(self, lease_or_request: Lease | TunnelRequest, options: ExchangeOptions) -> list[dict[str, Any]]:
        """Give a tunnel back. Raises TspError."""


def utc_now() -> datetime:
    """The time, aware."""
    return datetime.now(timezone.utc)


def run(params: dict[str, Any], place: Place, *, check_mode: bool = False, exchange: Exchange = _negotiate,
        now: Callable[[], datetime] = utc_now, measure: Measure | None = None) -> dict[str, Any]:
    """Do the task; the result has changed, lease, ansible_facts, lease_file, reason, warnings, attempts and diff.

    params: as the argument spec `TUNNEL_SPEC` leaves them. measure: tells the MTU of the path to the broker's end (pathmtu.path_mtu), where
    the tunnel ends at the machine that asks. Raises TspError.
    """
    checked_name(params)
    copyfile.check_place(params, place.lease_file)
    if params["state"] == "absent":
        result = _absent(params, place, check_mode, exchange, now)
    else:
        result = _present(params, place, check_mode, exchange, now, measure)
    result["warnings"] = place.warnings + result["warnings"]
    return result


def _present(params: dict[str, Any], place: Place, check_mode: bool, exchange: Exchange, now: Callable[[], datetime],
             measure: Measure | None) -> dict[str, Any]:
    request = request_of(params, place)
    options = options_of(params, place)
    if not options.brokers:
        raise LocalError("invalid_option", "broker is empty.", "Name at least one broker.")
    old = _stored(params, place)
    why = "The exchange was asked for by renew." if params["renew"] else why_ask(old, request, options, now())
    if why is None and old is not None:
        until = "it has no end" if old.expires_at is None else f"it ends at {_time(old.expires_at)}"
        changed = copyfile.update(params, old, check_mode)
        reason = f"The stored lease from {old.broker} still answers the request; {until}."
        return _result(params, place, changed, reason, old, old)
    reason = str(why)
    options.check_credentials()
    if check_mode:
        return _result(params, place, True, reason + " Check mode: the broker was not asked.", old, None, asked=request)
    with Reservation(place.lease_file, None if place.keep_mode else 0o600) as room:
        copyfile.check(params)
        outcome = exchange.negotiate_sync(request, options)
        lease = measured(outcome.lease, Source.of(options), measure)
        try:
            room.commit(lease_text(lease))
        except LocalError as exc:
            raise _give_back(exc, lease, old, options, exchange) from None
    warnings = list(lease.warnings) + outcome.warnings
    copyfile.update(params, lease, False)
    return _result(params, place, True, reason, old, lease, warnings, outcome.attempts)


def why_ask(lease: Lease | None, request: TunnelRequest, options: ExchangeOptions, now: datetime) -> str | None:
    """Why the broker must be asked, as a sentence; None when `lease` still answers the question that the task asks."""
    if lease is None:
        return "There is no lease yet."
    if lease.expired(now):
        return f"The lease ended at {_time(lease.expires_at or now)}."
    if lease.expired(now, min(NEAR_END, (lease.grant.lifetime or 0) / 10)):
        return f"The lease ends at {_time(lease.expires_at or now)}, before anybody could make use of it."
    if lease.username != options.username:
        return "The lease was given to another user."
    was, wanted = lease.request.to_dict(), request.to_dict()
    was["prefix_length"] = lease.request.wanted_prefix_length
    wanted["prefix_length"] = request.wanted_prefix_length
    other = sorted(name for name in wanted if was[name] != wanted[name] and (name != "keepalive_interval" or request.keepalive))
    if other:
        return f"The lease answers another request: {', '.join(other)} changed."
    if not options.always_use_same_server and not _from_one_of(lease, options):
        return f"The lease is from {lease.via or lease.broker}, which is not among the brokers any more."
    if options.strict:
        try:
            check_grant(lease.grant, request, transport=lease.transport, peer_is_loopback=True, strict=True)
        except RemoteError:
            return "The lease has another prefix than asked, or one that holds the broker's end of the tunnel, and strict is set."
    port = lease.grant.client.udp_port
    if lease.grant.mode == "v6udpv4" and options.source_port not in (None, port):
        return f"The tunnel uses UDP port {port}, and source_port is {options.source_port} now."
    moved = _moved_to(lease, options)
    return None if moved is None else f"The lease is for {lease.local_address}, and this host is now at {moved}."


def _moved_to(lease: Lease, options: ExchangeOptions) -> Address | None:
    """The address of this host, where the tunnel ends at an address that was this host's own when it asked, and is not any more.

    Not with v6udpv4: the broker follows its client, or a NAT stands between. Nor where a NAT stood between the ends of another tunnel,
    or where the task names the address or asks by proxy: then the lease's end was never what the kernel chose.
    """
    grant = lease.grant
    client, server = grant.outer_address(grant.client), grant.outer_address(grant.server)
    named = lease.request.client_ipv6 if grant.mode == "v4v6" else lease.request.client_ipv4
    if client is None or grant.mode == "v6udpv4" or lease.request.proxy or named is not None or lease.local_address != client:
        return None
    peer = server
    if is_own(client) and options.source_address is None:
        # One of several now. What would be asked with is known only towards the broker itself, which may be elsewhere than its end of
        # the tunnel; and IPv6 hosts change their temporary addresses by themselves, keeping the old ones for what was begun with them.
        peer = _literal(lease.broker) if client.version == 4 else None
    now = None if peer is None or peer.version != client.version else own_address(peer, Source.of(options))
    return None if now == client else now


def _literal(broker: str) -> Address | None:
    """The address in the name of a broker; None where it has a real name: looking that up would send packets."""
    try:
        return parse_broker(broker).address
    except LocalError:
        return None


def _from_one_of(lease: Lease, options: ExchangeOptions) -> bool:
    """Whether a configured broker gave the lease, itself or by redirection."""
    for text in (lease.broker, lease.via):
        try:
            if text is not None and parse_broker(text) in options.broker_list:
                return True
        except LocalError:
            continue
    return False


def _give_back(cause: LocalError, lease: Lease, old: Lease | None, options: ExchangeOptions, exchange: Exchange) -> LocalError:
    """The error for a lease that was granted and cannot be stored. What nobody knows of must not stay at the broker."""
    granted = f"The broker {lease.broker} granted a tunnel, but {cause.message}"
    if old is not None and _same_tunnel(old, lease):
        what = "It is the tunnel of the lease that is still stored, so it was kept."
    else:
        try:
            exchange.delete_sync(lease, options)
            what = "The tunnel was given back."
        except TspError as exc:
            what = f"The tunnel could not be given back ({exc.code}): the broker may hold it until it ends."
    return LocalError(cause.code, f"{granted} {what}", cause.hint)


def _same_tunnel(old: Lease, new: Lease) -> bool:
    """Whether the broker gave what it had given before (the UDP port of our end is another each time)."""
    return old.username == new.username and old.grant.prefix == new.grant.prefix and (
        old.grant.inner_address(old.grant.client) == new.grant.inner_address(new.grant.client))


def _absent(params: dict[str, Any], place: Place, check_mode: bool, exchange: Exchange, now: Callable[[], datetime]) -> dict[str, Any]:
    old = _stored(params, place)
    if old is None:
        changed = copyfile.forget(params, check_mode)
        return _result(params, place, changed, "There is no lease.", None, None)
    if check_mode:
        reason = f"The tunnel from {old.broker} would be given back and its lease forgotten. Check mode: the broker was not asked."
        return {**_result(params, place, True, reason, old, None), **_in_force(params, old)}
    warnings: list[str] = []
    attempts: list[dict[str, Any]] = []
    if old.expired(now()):
        reason = f"The lease from {old.broker} had ended; it was forgotten."
    else:
        reason = f"The tunnel was given back to {old.broker}; its lease was forgotten."
        try:
            attempts = exchange.delete_sync(old, _delete_options(params, place, old))
        except TspError as exc:
            attempts = exc.attempts
            if not _may_forget(exc, params):
                raise
            reason = f"The lease from {old.broker} was forgotten."
            warnings.append(f"The tunnel was not deleted at {old.broker}: {exc.message} It may stay there until it ends.")
    remove(place.lease_file)
    copyfile.forget(params, False)
    forget_memory(old, _options_of_lease(params, place, old))
    return _result(params, place, True, reason, old, None, warnings, attempts)


def _delete_options(params: dict[str, Any], place: Place, lease: Lease) -> ExchangeOptions:
    """Options to delete `lease` with. Raises LocalError without what is needed to log in."""
    options = _options_of_lease(params, place, lease)
    options.check_credentials()
    return options


def _options_of_lease(params: dict[str, Any], place: Place, lease: Lease) -> ExchangeOptions:
    """Its own broker, and its own way to log in where the task names none."""
    given = dict(params)
    if lease.username is None:
        given["auth_method"] = "anonymous"
    elif given.get("username") is None:
        given["username"] = lease.username
    return options_of(given, place, brokers=())


def _may_forget(error: TspError, params: dict[str, Any]) -> bool:
    """Whether a failed delete lets the lease be forgotten all the same (with a warning).

    A broker that does not know how to delete will never do it; an unreachable one must not keep a host from being cleaned up, unless
    the play is strict about it. A refused password or key is for somebody here to correct.
    """
    if error.code in KEPT_BY_BROKER:
        return False
    if isinstance(error, RemoteError) and error.status is not None:
        return True
    return not params["strict"] and (isinstance(error, (NetworkError, RemoteError)) or error.code == "credentials_missing")


def _stored(params: dict[str, Any], place: Place) -> Lease | None:
    """The lease on disk. A file that holds no lease is nobody's to overwrite or delete, unless renew says so."""
    try:
        return load(place.lease_file)
    except LocalError as exc:
        if exc.code != "lease_invalid" or (params["renew"] and params["state"] == "present"):
            if exc.code == "lease_invalid":
                return None
            raise
        if params["state"] == "absent":
            raise LocalError(exc.code, exc.message, "Look at the file, and delete it by hand if it is of no use.") from None
        raise


def _result(params: dict[str, Any], place: Place, changed: bool, reason: str, old: Lease | None, new: Lease | None,
            warnings: list[str] | None = None, attempts: list[dict[str, Any]] | None = None,
            asked: TunnelRequest | None = None) -> dict[str, Any]:
    after = "" if new is None else lease_text(new)
    if asked is not None:  # check mode: what will be granted is the broker's to say
        after = "# to be asked for\n" + to_yaml(asked.to_dict())
    return {
        "changed": changed,
        "reason": reason,
        **_in_force(params, old if asked is not None else new),
        "lease_file": place.lease_file,
        "warnings": warnings or [],
        "attempts": attempts or [],
        "diff": {"before_header": place.lease_file, "after_header": place.lease_file,
                 "before": "" if old is None else lease_text(old), "after": after},
    }


def _in_force(params: dict[str, Any], lease: Lease | None) -> dict[str, Any]:
    """The lease that holds after this task, as result and as facts; in check mode that is the one before it."""
    value = {} if lease is None else lease.to_dict()
    return {"lease": value, "ansible_facts": {params["name"]: value}}


def _time(value: datetime) -> str:
    return value.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
