# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of apply_config: renders templates, names files of the controller by their checksum, and copies those that the
host lacks.

Where a change is to be confirmed, it comes back over a new connection to do so: the old one may live on without a way for a new one.
"""

from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.ansible_release import __version__
from ansible.plugins.action import ActionBase
from ansible.plugins.connection import ConnectionBase
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plain import plain
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import failure, refusal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError

MODULE = "tunnelbroker.tsp.apply_config"
AGAIN = 1.0
"""Seconds between two attempts to come back."""
OTHER_CONTENT = {"content", "src", "checksum", "edit"}
"""What cannot go with secret_content, as the module says."""
UNPROVED = {"proved": False, "target": None, "rtt_ms": None, "sent": 0, "received": 0}


class ActionModule(ActionBase):
    """See plugins/modules/apply_config.py for the documentation."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = dict(self._task.args)
        facts, proof_fact = args.pop("facts", None) or {}, args.pop("proof_fact", None)
        refused = plain(args.pop("refused", None))
        if refused:
            return {**result, **refusal(refused)}
        try:
            args["files"] = self._rendered(args, task_vars or {})
            files, sources = self._files(args)
        except LocalError as exc:
            return {**result, **failure(exc)}
        if sources:
            args["files"] = files
        settled = {**args, "files": files} if sources else args
        timeout = 0.0 if self._task.check_mode else _seconds(args.get("confirm_timeout"))
        args["confirm_token"] = settled["confirm_token"] = uuid4().hex
        try:
            answer = self._ask(args, task_vars)
            need = answer.pop("need", [])
            if need and not answer.get("failed"):
                args["files"] = self._copy(files, {path: sources[path] for path in need if path in sources})
                answer = self._ask(args, task_vars)
                answer.pop("need", None)
            if answer.pop("unconfirmed", None) and not answer.get("failed"):
                answer = self._confirm(answer, settled, timeout, task_vars)
        except AnsibleConnectionFailure as exc:
            # The change may have cut this connection off, but not the way for another one.
            if not timeout:
                raise
            answer = self._confirm({"changed": True}, settled, timeout, task_vars)
            if (answer.get("error") or {}).get("code") == "not_confirmed":
                raise AnsibleConnectionFailure(f"{exc} {answer['msg']}") from None
        if not answer.get("failed"):
            proof = {str(proof_fact): answer.get("proof") or dict(UNPROVED)} if proof_fact else {}
            if facts or proof:
                answer["ansible_facts"] = {**plain(facts), **proof}
        result.update(answer)
        return result

    def _rendered(self, args: dict[str, Any], task_vars: dict[str, Any]) -> Any:
        """The option files with each template replaced by the text that ansible.builtin.template makes of it. Raises LocalError."""
        given = args.get("files") or []
        if not isinstance(given, list):
            return given
        out = []
        for item in given:
            if isinstance(item, dict) and item.get("template"):
                name, path = str(plain(item["template"])), str(plain(item.get("path")))
                more = {**(item.get("vars") or {}), "template_destpath": path}
                item = {key: value for key, value in item.items() if key not in ("template", "vars")}
                if args.get("state", "present") != "absent":
                    item["content"] = self._text(name, more, task_vars)
            out.append(item)
        return out

    def _text(self, name: str, more: dict[str, Any], task_vars: dict[str, Any]) -> str:
        lookup = self._shared_loader_obj.lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        # Up to ansible-core 2.18 a text that looks like data comes back as data unless told otherwise.
        options = {"convert_data": False} if [int(word) for word in __version__.split(".")[:2]] < [2, 19] else {}
        try:
            return str(plain(lookup.run([self._find_needle("templates", name)], variables=task_vars, template_vars=more, **options)[0]))
        except AnsibleError as exc:
            raise LocalError("template_failed", f"The template {name} cannot be rendered: {plain(str(exc))}",
                             "Look at the variables that it uses.") from None

    def _ask(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=_secrets_apart(args),
                                                      task_vars=task_vars)
        return answer

    def _confirm(self, answer: dict[str, Any], args: dict[str, Any], seconds: float, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """The answer of the run, confirmed; or the failed result when nobody could in time."""
        end = time.monotonic() + seconds - min(5.0, seconds / 10)
        said = "there was no time for it"
        while time.monotonic() < end:
            try:
                self._reset()
                found = self._ask({**args, "confirm_phase": "confirm"}, task_vars)
            except AnsibleError as exc:
                said = plain(str(exc))
            else:
                if found.get("confirmed"):
                    return {**found, **answer, "confirmed": True}
                if (found.get("error") or {}).get("code") not in (None, "busy"):
                    return found
                said = plain(str(found.get("msg") or "the module gave no answer"))
            time.sleep(min(AGAIN, max(end - time.monotonic(), 0)))
        return failure(ApplyError(
            "not_confirmed", f"Since the change this host could not be reached over a new connection within {seconds:g} seconds "
            f"({said.strip().rstrip('.')}). By itself it puts back what was changed.",
            "Find out what of the change cuts the way off; or raise confirm_timeout, if it only takes longer."))

    def cleanup(self, force: bool = False) -> None:
        try:
            super().cleanup(force)
        except AnsibleConnectionFailure:
            self._display.vvv("The temporary folder stays on the host, which cannot be reached.")

    def _reset(self) -> None:
        """Close the connection, a persistent one too, so that the next call opens another."""
        if type(self._connection).reset is not ConnectionBase.reset:
            self._connection.reset()
        else:
            self._connection.close()

    def _files(self, args: dict[str, Any]) -> tuple[list[Any], dict[str, Path]]:
        """The option files with each src replaced by its checksum; and path on the host -> file here. Raises LocalError."""
        files: list[Any] = []
        sources: dict[str, Path] = {}
        given = args.get("files") or []
        for item in given if isinstance(given, list) else []:
            if isinstance(item, dict) and item.get("src") and args.get("state", "present") != "absent":
                src, path = str(plain(item["src"])), str(plain(item.get("path")))
                try:
                    local = Path(self._loader.get_real_file(self._find_needle("files", src)))
                    checksum = sha256(local.read_bytes()).hexdigest()
                except (AnsibleError, OSError) as exc:
                    raise LocalError("src_unreadable", f"src {src} cannot be read: {plain(str(exc))}",
                                     "Name a file on the controller.") from None
                sources[path] = local
                item = {**{key: value for key, value in item.items() if key != "src"}, "checksum": checksum}
            files.append(item)
        return files, sources

    def _copy(self, files: list[Any], sources: dict[str, Path]) -> list[Any]:
        """Copy these to the temporary folder of the connection; the option files saying where they are."""
        folder = self._connection._shell.tmpdir or self._make_tmp_path()
        there: dict[str, str] = {}
        for number, (path, local) in enumerate(sources.items()):
            remote = self._connection._shell.join_path(folder, f"file-{number}")
            self._transfer_file(str(local), remote)
            there[path] = remote
        self._fixup_perms2([folder, *there.values()])
        return [{**item, "src": there[str(item["path"])]} if isinstance(item, dict) and str(item.get("path")) in there else item
                for item in files]


def _secrets_apart(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments with secret_content in an option of its own. A host's log gets the arguments of each module that runs there, less the
    options that are secret as a whole; of the others it gets a form in which a secret inside is no longer recognized."""
    given = args.get("files")
    if not isinstance(given, list):
        return args
    files, secrets = list(given), {}
    for number, item in enumerate(files):
        if isinstance(item, dict) and item.get("secret_content") is not None and not OTHER_CONTENT & set(item):
            secrets[str(number)] = item["secret_content"]
            files[number] = {key: value for key, value in item.items() if key != "secret_content"}
    return {**args, "files": files, "secrets": secrets} if secrets else args


def _seconds(given: Any) -> float:
    """What is no number is refused by the module."""
    try:
        return max(float(str(plain(given))), 0.0)
    except ValueError:
        return 0.0
