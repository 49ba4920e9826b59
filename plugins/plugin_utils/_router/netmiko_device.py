# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The port to a router over SSH: netmiko opens the session, enables and turns paging off; reading and entering are ours.

Ours because netmiko waits out its timeout when a session dies, and does not tell which line was refused. No session log is kept and
the libraries' own logging is cut off: what a configuration holds stays out of files.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, NetworkError, TspError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.device import Lost, Refused

try:
    import netmiko
    from netmiko.exceptions import NetmikoAuthenticationException, NetmikoBaseException
    from paramiko.ssh_exception import SSHException
except ImportError as exc:
    MISSING: ImportError | None = exc
else:
    MISSING = None
    for _name in ("netmiko", "paramiko"):
        logging.getLogger(_name).addHandler(logging.NullHandler())
        logging.getLogger(_name).propagate = False

PLATFORMS = ("cisco_ios", "cisco_xe")
_CONFIG_PROMPT = re.compile(r"(?:^|\n)\S{1,63}\(config[^()\s]*\)#\s?\Z")
_QUESTION = re.compile(r"(?:\[confirm\]|\[yes/no\]:?|\[[^\]\n]*\]\?)\s?\Z")
_HARMLESS = re.compile(r"%\s?(?:Warning|Note|NOTE|Info|Generating|SYS-|\S+-[0-7]-)")
_COMPLAINT = re.compile(r"%|Bad mask|Command rejected|ERROR\b|Error:|Invalid ")
_SAVE_TIMEOUT = 100.0


@dataclass(frozen=True)
class Login:
    """Where and as whom. secret: what `enable` asks for. known_hosts: a file besides the user's own; timeout: seconds for
    connecting and for each answer."""

    host: str
    port: int = 22
    username: str = ""
    password: str | None = field(default=None, repr=False)
    key_file: str | None = None
    secret: str | None = field(default=None, repr=False)
    platform: str = "cisco_ios"
    check_host_key: bool = True
    known_hosts: str | None = None
    timeout: float = 30.0

    @property
    def where(self) -> str:
        return self.host if self.port == 22 else f"{self.host} port {self.port}"


class NetmikoDevice:
    """A session to a router. Raises NetworkError and LocalError when it cannot be opened."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._session = _connect(login)
        self._prompt = self._exec_prompt()
        try:
            self._enable()
        except BaseException:
            self.close()
            raise

    def running(self) -> str:
        return self.ask("show running-config", max(self._login.timeout, 60.0))

    def startup(self) -> str:
        text = self.ask("show startup-config", max(self._login.timeout, 60.0))
        return "" if re.match(r"\s*(?:startup-config is not present|%)", text) else text

    def ask(self, command: str, timeout: float) -> str:
        return self._talk(command, self._prompt, timeout)

    def configure(self, lines: Sequence[str]) -> None:
        acknowledged: list[str] = []
        pending = ""
        try:
            self._talk("configure terminal", _CONFIG_PROMPT, self._login.timeout)
            for index, line in enumerate(lines):
                pending = line
                answer = self._talk(line.strip(), _CONFIG_PROMPT, self._login.timeout, questions=True)
                words = complaint(answer)
                if words:
                    self._leave()
                    raise Refused(index, line.strip(), words)
                acknowledged.append(line)
            pending = ""
            self._leave()
        except Lost as exc:
            raise Lost(exc.reason, acknowledged, pending) from None

    def save(self) -> None:
        answer = self._talk("write memory", self._prompt, _SAVE_TIMEOUT, questions=True, agree=True)
        if "[OK]" not in answer:
            raise Refused(0, "write memory", complaint(answer) or " ".join(answer.split()) or "no [OK]")

    def close(self) -> None:
        # netmiko's own farewell looks for a prompt first, which a session that broke or hangs at a question does not have.
        self._session.cleanup = lambda *_command: None
        try:
            self._session.write_channel("exit\n")
        except (OSError, NetmikoBaseException, SSHException):
            pass  # nobody is there to say it to
        try:
            self._session.disconnect()
        except (OSError, NetmikoBaseException, SSHException):
            pass  # it is over either way

    def _enable(self) -> None:
        """Raise the privileges where the login did not. The secret is sent once: a wrong one is not repeated."""
        name = re.escape(self._session.base_prompt)
        prompt = re.compile(rf"(?:^|\n){name}\S*[#>]\s?\Z")
        asked_or_prompt = re.compile(rf"(?:^|\n)(?:[Pp]assword: ?|{name}\S*[#>]\s?)\Z")
        try:
            if self._talk("", prompt, self._login.timeout, keep_prompt=True).rstrip().endswith("#"):
                return
            answer = self._talk("enable", asked_or_prompt, self._login.timeout, keep_prompt=True)
            if answer.rstrip().endswith(":"):
                self._session.write_channel((self._login.secret or "") + "\n")
                answer = self._talk(None, asked_or_prompt, self._login.timeout, keep_prompt=True)
        except Lost as exc:
            raise NetworkError("session_lost", f"The session to the device broke ({exc.reason}). Nothing had been entered.",
                               "Run the play again.") from None
        if not answer.rstrip().endswith("#"):
            raise LocalError("enable_failed", f"{self._login.where} did not let us enable.",
                             "Set ansible_become_password to its enable secret.")

    def _exec_prompt(self) -> re.Pattern[str]:
        return re.compile(rf"(?:^|\n){re.escape(self._session.base_prompt)}\S*#\s?\Z")

    def _leave(self) -> None:
        """Back to exec mode, whose prompt may have changed (`hostname`)."""
        answer = self._talk("end", re.compile(r"(?:^|\n)[^\s()#]+#\s?\Z"), self._login.timeout, keep_prompt=True)
        self._session.base_prompt = answer.split("\n")[-1].strip().rstrip("#")[:16]
        self._prompt = self._exec_prompt()

    def _talk(self, line: str | None, until: re.Pattern[str], timeout: float, *, questions: bool = False, agree: bool = False,
              keep_prompt: bool = False) -> str:
        """Send a line (None: only listen) and read up to the prompt. Returns what came between the line's echo and the prompt.

        A question of the device (`[confirm]`) is answered with Enter if we `agree`, else with no, and is part of the answer.
        """
        try:
            if line is not None:
                self._session.write_channel(line + "\n")
            seen, answered, deadline = "", 0, time.monotonic() + timeout
            while True:
                seen += self._session.read_channel()
                text = seen.replace("\r\n", "\n").replace("\r", "")
                if line and line not in text:
                    pass  # the echo of our own line is still on its way
                elif until.search(text.partition(line)[2] if line else text):
                    break
                elif questions and _QUESTION.search(text, answered):
                    self._session.write_channel("\n" if agree else "n\n")
                    seen, answered = text, len(text)
                if self._is_closed():
                    raise Lost("the device closed it")
                if time.monotonic() > deadline:
                    raise Lost(f"no answer to {line!r} within {timeout:g} s")
                time.sleep(0.01)
        except (OSError, EOFError, SSHException, NetmikoBaseException) as exc:
            raise Lost(" ".join(str(exc).split()) or type(exc).__name__) from None
        answer = text.partition(line)[2] if line else text
        return answer if keep_prompt else until.sub("", answer)

    def _is_closed(self) -> bool:
        channel = self._session.remote_conn
        if channel is None:
            return True
        transport = channel.get_transport()
        return bool((channel.closed or channel.eof_received or not transport.is_active()) and not channel.recv_ready())


def complaint(answer: str) -> str:
    """The device's own words if `answer` is a refusal, else nothing. Unknown remarks that start with % count as refusals."""
    found = [line.strip() for line in answer.split("\n") if _COMPLAINT.match(line.strip()) and not _HARMLESS.match(line.strip())]
    if not found and _QUESTION.search(answer):
        found = [line.strip() for line in answer.split("\n") if line.strip()]
    return " ".join(found).rstrip(".")


def _connect(login: Login) -> Any:
    arguments: dict[str, Any] = {
        "device_type": login.platform, "host": login.host, "port": login.port, "username": login.username, "password": login.password,
        "conn_timeout": login.timeout, "auth_timeout": login.timeout, "banner_timeout": login.timeout,
        "ssh_strict": login.check_host_key, "system_host_keys": login.check_host_key,
    }
    if login.key_file:
        arguments.update(use_keys=True, key_file=login.key_file)
    if login.check_host_key and login.known_hosts:
        path = Path(login.known_hosts).expanduser()
        if not path.is_file():
            raise LocalError("known_hosts_missing", f"The known_hosts file {login.known_hosts} is not there.", "Name an existing file.")
        arguments.update(alt_host_keys=True, alt_key_file=str(path))
    try:
        return netmiko.ConnectHandler(**arguments)
    except (OSError, ValueError, EOFError, SSHException, NetmikoBaseException) as exc:
        raise _failure(exc, login) from None


def _failure(exc: Exception, login: Login) -> TspError:
    said = " ".join(str(exc).split())
    if isinstance(exc, NetmikoAuthenticationException):
        return LocalError("login_refused", f"{login.where} refused the login of {login.username!r}.",
                          "Check ansible_user and ansible_password, or the private key.")
    if "No authentication methods available" in said:
        return LocalError("login_incomplete", f"There is neither a password nor a key to log in to {login.where}.",
                          "Set ansible_password, or ansible_ssh_private_key_file.")
    if "not found in known_hosts" in said:
        return NetworkError("host_key_unknown", f"The SSH host key of {login.where} is not known.",
                            "Verify it and add it to known_hosts (ssh-keyscan), or name the file in known_hosts.")
    if "does not match" in said and "Host key" in said:
        return NetworkError("host_key_changed", f"The SSH host key of {login.where} is not the one in known_hosts.",
                            "If the device was replaced, remove the old key (ssh-keygen -R) and verify the new one. "
                            "If not, somebody is in between.")
    if "DNS failure" in said or "not resolvable" in said:
        return NetworkError("device_unreachable", f"The name {login.host} cannot be resolved.", "Set ansible_host to an address.")
    return NetworkError("device_unreachable", f"No session to {login.where}: {_first_sentence(said) or type(exc).__name__}",
                        "Check ansible_host, ansible_port and that SSH is enabled on the device.")


def _first_sentence(text: str) -> str:
    """What a library says, without its advice."""
    return re.split(r"(?<=\.)\s|Common causes|Device settings", text, maxsplit=1)[0].strip()
