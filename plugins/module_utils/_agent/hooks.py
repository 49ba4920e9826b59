# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The user's own programs: what they are told (tsp-protocol.md section 9), and how they are run.

A script gets the old client's TSP_* variables and nothing on standard input. A lease program gets the lease as JSON on standard input,
the same variables beside it. Neither is ever part of a command line for a shell: an old template is the argument of /bin/sh, as it was
with the old client, so it needs no x bit and no `#!` line.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from ipaddress import IPv6Network
from typing import IO, TYPE_CHECKING, Any

from .._tsp.errors import ApplyError
from .._tsp.lease import Address, Lease
from . import platforms
from .linkplan import KINDS
from .settings import CREATION, AgentConfig

if TYPE_CHECKING:
    import logging

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VERBOSE = "3"
"""What the old client always said, whatever its configuration."""
GRACE = 2.0
"""Seconds between asking a program to end and ending it."""
MOST_OUTPUT = 1 << 20
"""Bytes that a program may write before it is taken for one that never ends."""
LAST_WORDS = 400
"""Characters of its output that stand in the error."""


def variables(lease: Lease, config: AgentConfig, operation: str, platform: str = sys.platform) -> dict[str, str]:
    """The environment of a script, without PATH: names and values of tsp-protocol.md section 9.

    operation: TSP_TUNNEL_CREATION or TSP_TUNNEL_TEARDOWN. Values are in lower case, IPv6 addresses have all their eight groups, as
    the brokers of that time wrote them. TSP_PREFIX is the prefix cut after ceil(length / 16) groups, so that `$TSP_PREFIX::1` is an
    address; an IPv4 prefix is whole. The variables of the prefix exist only with one, as the client's name does. The device has the name
    that it has on this system. Raises LocalError `bad_device` where it can have none.
    """
    grant = lease.grant
    lan = config.link.lan_interfaces
    home = (lan[0].get("name", "") if isinstance(lan[0], dict) else lan[0]) if lan else ""
    values = {
        "TSP_OPERATION": operation,
        "TSP_VERBOSE": VERBOSE,
        "TSP_HOME_DIR": config.hooks.home_dir,
        "TSP_TUNNEL_MODE": grant.mode,
        "TSP_HOST_TYPE": config.request.host_type,
        "TSP_TUNNEL_INTERFACE": platforms.device_name(config.device_of(grant.mode), KINDS[grant.mode][0], platform),
        "TSP_HOME_INTERFACE": str(home),
        "TSP_CLIENT_ADDRESS_IPV4": _text(grant.client.ipv4),
        "TSP_CLIENT_ADDRESS_IPV6": _text(grant.client.ipv6),
        "TSP_SERVER_ADDRESS_IPV4": _text(grant.server.ipv4),
        "TSP_SERVER_ADDRESS_IPV6": _text(grant.server.ipv6),
        "TSP_TUNNEL_PREFIXLEN": "32" if grant.mode == "v4v6" else "128"}
    if grant.client.dns_name is not None:
        values["TSP_CLIENT_DNS_NAME"] = grant.client.dns_name
    prefix = grant.prefix
    if prefix is not None:
        text = str(prefix.network_address)
        if isinstance(prefix, IPv6Network):
            text = ":".join(prefix.network_address.exploded.split(":")[:-(-prefix.prefixlen // 16)])
        values["TSP_PREFIX"] = text
        values["TSP_PREFIXLEN"] = str(prefix.prefixlen)
    return values


def _text(address: Address | None) -> str:
    return "" if address is None else address.exploded


def run(config: AgentConfig, lease: Lease, operation: str, log: logging.Logger) -> None:
    """Call the user's programs: the script first, the lease program after it; the other way round before the tunnel goes. Blocks.

    Each gets PATH and the TSP_* variables, nothing else; its folder is `/`. What it writes goes to the log at debug level. A program that
    it leaves in the background lives on, unless the time is over: then all of its process group is killed.

    Raises ApplyError `hook_failed` (with the program's own last words), `hook_unsafe` (others than root or we could have written it).
    """
    hooks = config.hooks
    environment = {"PATH": PATH, **variables(lease, config, operation)}
    calls = [(path, kind) for path, kind in ((hooks.script, "script"), (hooks.lease, "lease")) if path]
    for path, kind in calls if operation == CREATION else reversed(calls):
        check(path)
        text = json.dumps(lease.to_dict()) + "\n" if kind == "lease" else None
        output = _call(_command(path, as_template=hooks.script_sets_up and kind == "script"), environment, text, hooks.timeout)
        for line in output.splitlines():
            log.debug("%s: %s", path, line)


def check(path: str) -> None:
    """Refuse a program that others can put in our place. Raises ApplyError `hook_unsafe`, `hook_failed` (it is not there)."""
    try:
        whole = os.path.realpath(path)
        found = os.stat(whole)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        ours = (0, os.geteuid())
        bad = whole if found.st_uid not in ours or found.st_mode & 0o022 else ""
        folder = whole
        while not bad and folder != "/":
            folder = os.path.dirname(folder)
            found = os.stat(folder)
            # A group may write to a folder: /usr/local is the group staff's on some systems.
            if found.st_uid not in ours or found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX:
                bad = folder
    except OSError as exc:
        raise ApplyError("hook_failed", f"{path} cannot be run: {exc.strerror}.", "Check the path and the rights.") from None
    if bad:
        raise ApplyError("hook_unsafe", f"{path} is not run: others than its owner can change {bad}, or root does not own it.",
                         f"chown root {bad} && chmod go-w {bad}, after a look at what the program does.")


def _command(path: str, as_template: bool) -> list[str]:
    """A template is sh's, as it always was; any other program runs itself where it can."""
    if not as_template and os.access(path, os.X_OK):
        with open(path, "rb") as file:
            begin = file.read(4)
        if begin.startswith(b"#!") or begin == b"\x7fELF":
            return [path]
    return ["/bin/sh", path]


def _memory() -> IO[bytes]:
    """A file without a name. Not a pipe: what a script leaves in the background would be killed by the next line that it writes."""
    if hasattr(os, "memfd_create"):
        try:
            return os.fdopen(os.memfd_create("hook"), "w+b")
        except OSError:
            pass  # an old kernel, or a filter of system calls
    import tempfile

    return tempfile.TemporaryFile()


def _call(argv: list[str], environment: dict[str, str], text: str | None, timeout: float) -> str:
    """Run it to its end; what it wrote. Raises ApplyError `hook_failed`."""
    import subprocess  # costly, and most tunnels have no hooks

    with _memory() as output, _memory() as given:
        if text is not None:
            given.write(text.encode())
            given.seek(0)
        try:
            # Where the agent runs there is no AnsibleModule.
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                argv, stdin=subprocess.DEVNULL if text is None else given, stdout=output, stderr=subprocess.STDOUT,
                env=environment, cwd="/", close_fds=True, start_new_session=True, umask=0o022)
        except OSError as exc:
            raise ApplyError("hook_failed", f"{argv[-1]} cannot be run: {exc.strerror}.",
                             "Check its first line, its rights and that nothing forbids programs to run there.") from None
        end = _wait(process, output, timeout)
        output.seek(max(0, os.fstat(output.fileno()).st_size - MOST_OUTPUT))
        said = output.read(MOST_OUTPUT).decode("utf-8", "replace")
    if end:
        words = " ".join("".join(c if c.isprintable() else " " for c in said).split())[-LAST_WORDS:]
        raise ApplyError("hook_failed", f"{argv[-1]} {end}" + (f"; its last words: {words}" if words else "") + ".",
                         "Run it by hand with the TSP_* variables set, or leave it out of the configuration.")
    return said


def _wait(process: Any, output: IO[bytes], timeout: float) -> str:
    """Until it ends, or the time does. An empty text when all went well, else what happened."""
    import subprocess
    import time

    deadline = time.monotonic() + timeout
    why = f"was ended after {timeout:g} s"
    while True:
        try:
            code = process.wait(max(0.0, min(0.25, deadline - time.monotonic())))
            break
        except subprocess.TimeoutExpired:
            if os.fstat(output.fileno()).st_size > MOST_OUTPUT:
                why = "was ended: it writes without an end"
            elif time.monotonic() < deadline:
                continue
        _kill(process)
        return why
    if code == 0:
        return ""
    return f"ended with code {code}" if code > 0 else f"was killed by signal {-code}"


def _kill(process: Any) -> None:
    """All of its process group, politely first."""
    import signal
    import subprocess

    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        if number == signal.SIGTERM:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                pass
    process.wait()
