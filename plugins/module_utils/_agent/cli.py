# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the command line asks for, as a value. It reads the configurations, and does nothing else.

    tsp-agent --config FILE [--config FILE ...] [--foreground] [--once-check]
    tsp-agent status [--json] [--config FILE ... | --runtime-dir DIR]
    tsp-agent -f gw6c.conf [-vvv] [-i NAME] ...          the old clients' command line, see `oldargs`

Old and new options may be mixed: the old ones are single letters. Called by the name gw6c or gogoc (a link), the program looks for the
configuration where those did. No option takes a secret.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .._tsp.errors import LocalError, TspError
from . import config as configuration
from . import oldargs
from .settings import AgentConfig

PROGRAM = "tsp-agent"
INVALID = "config_invalid"
USAGE = f"""usage: {PROGRAM} --config FILE [--config FILE ...] [--foreground] [--once-check]
       {PROGRAM} status [--json] [--config FILE ... | --runtime-dir DIR]
       {PROGRAM} -f gw6c.conf [old options]

Keep this host's tunnels to tunnel brokers (RFC 5572).

  --config FILE       a tunnel: JSON, or an old gw6c.conf or gogoc.conf as it stands; a folder means all its *.json; may be repeated
  --foreground        stay in the foreground and log to stderr (for systemd)
  --apply             be the part that changes the host, for an agent that was started without rights (for systemd)
  --once-check        check the configuration, the stored lease and what this host offers; print it as JSON; change nothing
  status              show the tunnels that run; --json as data

For an old file, which cannot say them:
  --name NAME         name of the tunnel (the file's name); --lease-file, --state-dir, --runtime-dir: where its files go
  --user NAME         whom the part that reads the network becomes (nobody); root keeps all in one process

Old options:
{oldargs.USAGE}
SIGTERM ends it and takes the tunnels away; SIGHUP asks the brokers again.
"""
FLAGS = {"--foreground": "foreground", "--apply": "apply", "--once-check": "check", "--json": "json", "--help": "help"}
VALUES = ("--config", "--runtime-dir", "--state-dir", "--lease-file", "--name", "--user")
RUNTIME_DIRS = ("/run/tsp", "/run/tsp-*", "/var/run/tsp", "/var/run/tsp-*")


@dataclass(frozen=True)
class Command:
    """action: run | apply | check (--once-check) | status | help | error (text says what is wrong).

    configs: a tunnel each, for run and check. paths: the status files that were asked for, for status. text: what to print, with
    help on stdout, with error on stderr. code: the exit code for help (0) and error: 1 it is explained, 2 wrong usage.
    """

    action: str
    configs: tuple[AgentConfig, ...] = ()
    foreground: bool = False
    as_json: bool = False
    paths: tuple[str, ...] = ()
    text: str = ""
    code: int = 0


@dataclass
class _Asked:
    """The command line, taken apart."""

    flags: set[str] = field(default_factory=set)
    values: dict[str, list[str]] = field(default_factory=dict)
    old: oldargs.OldArgs = field(default_factory=oldargs.OldArgs)
    status: bool = False


class _Usage(Exception):
    """Wrong usage, as a sentence."""


def parse(argv: Sequence[str], environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> Command:
    """argv: as sys.argv has it, the program's name first. environ: for CREDENTIALS_DIRECTORY. Raises nothing."""
    try:
        asked = _take_apart(argv[1:])
        if "help" in asked.flags or asked.old.help:
            return Command("help", text=USAGE)
        called = oldargs.called_as(argv[0] if argv else "")
        files = [*asked.values.get("--config", ()), *([asked.old.file] if asked.old.file else [])]
        if asked.status:
            return _status(asked, files)
        if not files and called:
            files = [oldargs.default_file(called)]
        if not files:
            raise _Usage("--config is missing.")
        if "json" in asked.flags:
            raise _Usage("--json belongs to status.")
        if "apply" in asked.flags:
            return Command("apply", load(files, asked.old, asked.values, {}, platform, secret=False))
        found = load(files, asked.old, asked.values, os.environ if environ is None else environ, platform)
        return Command("check" if "check" in asked.flags else "run", found, foreground="foreground" in asked.flags or asked.old.foreground)
    except _Usage as exc:
        return Command("error", text=f"{PROGRAM}: {exc}\nTry {PROGRAM} --help.", code=2)
    except TspError as exc:
        return Command("error", text=f"{PROGRAM}: {exc}", code=1)


def _take_apart(arguments: Sequence[str]) -> _Asked:
    asked = _Asked()
    rest = list(arguments)
    if rest[:1] == ["status"]:
        asked.status = True
        rest.pop(0)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in FLAGS:
            asked.flags.add(FLAGS[word])
        elif name in VALUES:
            if not equals:
                if not rest:
                    raise _Usage(f"{name} needs a value.")
                value = rest.pop(0)
            if not value:
                raise _Usage(f"{name} is empty.")
            if name != "--config" and name in asked.values:
                raise _Usage(f"{name} stands twice.")
            asked.values.setdefault(name, []).append(value)
        elif word in oldargs.WINDOWS_ONLY:
            raise _Usage(oldargs.WINDOWS_ONLY[word])
        elif word.startswith("-") and not word.startswith("--") and len(word) > 1:
            try:
                asked.old.take(word, rest)
            except ValueError as exc:
                raise _Usage(str(exc)) from None
        else:
            raise _Usage(f"{word!r} is not known.")
    return asked


def _status(asked: _Asked, files: Sequence[str]) -> Command:
    """Without a password: whoever may read the status need not be able to read the configuration's secrets."""
    folders = asked.values.get("--runtime-dir", ())
    if files and folders:
        raise _Usage("status takes --config or --runtime-dir, not both.")
    if files:
        paths = [config.runtime_file("status.json") for config in load(files, asked.old, asked.values, {}, secret=False)]
    elif folders:
        paths = _found(f"{glob.escape(folder)}/*.status.json" for folder in folders)
    else:
        paths = _found(f"{folder}/*.status.json" for folder in RUNTIME_DIRS)
    return Command("status", as_json="json" in asked.flags, paths=tuple(paths))


def _found(patterns: Iterable[str]) -> list[str]:
    """Each file once, also where /var/run is a link to /run."""
    found: dict[str, str] = {}
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def load(files: Sequence[str], old: oldargs.OldArgs, values: Mapping[str, Sequence[str]], environ: Mapping[str, str],
         platform: str = sys.platform, secret: bool = True) -> tuple[AgentConfig, ...]:
    """A configuration for each file; a folder stands for its *.json. secret: read passwords, too. Raises LocalError."""
    paths: list[str] = []
    for name in files:
        path = os.path.abspath(name)
        if os.path.isdir(path):
            inside = sorted(glob.glob(f"{glob.escape(path)}/*.json"))
            if not inside:
                raise LocalError("config_unreadable", f"{path} holds no *.json.", "Name a file, or a folder with configurations.")
            paths.extend(inside)
        else:
            paths.append(path)
    configs = []
    for path in dict.fromkeys(paths):
        text = configuration.read_file(path)
        if configuration.is_json(text):
            if old.changes or any(name not in ("--config", "--runtime-dir") for name in values):
                raise _mixed(f"{path} is JSON, and says itself what else stands on the command line.",
                             "Write it into the file; those options are for an old gw6c.conf or gogoc.conf.")
            config = configuration.parse_text(text, path, environ, secret)
            configs.append(replace(config, log=replace(config.log, stderr=min(old.verbose, 3))) if old.verbose else config)
        else:
            from . import oldagent  # few have such a file

            given = {name[2:].replace("-", "_"): value[0] for name, value in values.items() if name != "--config"}
            configs.append(oldagent.load(text, path, old, platform, given))
    return _beside(configs)


def _mixed(message: str, hint: str) -> LocalError:
    """Each of them would do by itself."""
    return LocalError(INVALID, message, hint)


def _beside(configs: Sequence[AgentConfig]) -> tuple[AgentConfig, ...]:
    """Several tunnels in one process: each has its own name, device, lease file and metric of a default route, in the order of the files,
    and the log and the metrics are the first one's. Raises LocalError `config_invalid`.
    """
    for what in ("name", "device", "lease_file"):
        seen: set[str] = set()
        for config in configs:
            names = {config.device, *(device for _mode, device in config.devices)} if what == "device" else {getattr(config, what)}
            if names & seen:
                raise _mixed(f"Two tunnels have the {what} {', '.join(sorted(names & seen))}.", "Give each its own.")
            seen |= names
    if sum(config.link.default_route == "replace" for config in configs) > 1:
        raise _mixed("Two tunnels are to replace the default route.", "Let one of them have default_route: metric.")
    out = list(configs[:1])
    for config in configs[1:]:
        metric, taken = config.link.metric, [other.link.metric for other in out if other.link.default_route == "metric"]
        while config.link.default_route == "metric" and metric in taken:
            metric += 1
        if metric != config.link.metric:
            said = f"link.metric: the default route has {metric}, since {config.link.metric} is another tunnel's."
            config = replace(config, link=replace(config.link, metric=metric), warnings=(*config.warnings, said))
        differs = [section for section in ("log", "log_level", "metrics") if getattr(config, section) != getattr(out[0], section)]
        if differs:
            said = f"{', '.join(differs)}: one process has one; that of {out[0].name} counts."
            config = replace(config, warnings=(*config.warnings, said))
        config = replace(config, warnings=(*config.warnings, *_shared_account(config, out)))
        out.append(config)
    return tuple(out)


def _shared_account(config: AgentConfig, others: Sequence[AgentConfig]) -> list[str]:
    """A broker gives the same user the same tunnel again, wherever the last one is."""
    asked, user = set(config.options.broker_list), config.options.username
    return [f"broker.username: {user} asks {', '.join(sorted(map(str, both)))} for tunnel {other.name} as well. Most brokers give a user "
            "one tunnel, which the two take from each other; give each an account of its own."
            for other in others if user and other.options.username == user and (both := asked & set(other.options.broker_list))]
