# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of apply_config: names files of the controller by their checksum, and copies those that the host lacks.

Where a change is to be confirmed, it comes back over a new connection to do so: the old one may live on without a way for a new one.
"""

from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.connection import ConnectionBase
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plain import plain
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import failure
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError

MODULE = "tunnelbroker.tsp.apply_config"
AGAIN = 1.0
"""Seconds between two attempts to come back."""


class ActionModule(ActionBase):
    """See plugins/modules/apply_config.py for the documentation."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = dict(self._task.args)
        try:
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
        result.update(answer)
        return result

    def _ask(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars)
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


def _seconds(given: Any) -> float:
    """What is no number is refused by the module."""
    try:
        return max(float(str(plain(given))), 0.0)
    except ValueError:
        return 0.0
