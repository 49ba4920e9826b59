# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible's results as data, for tests that compare them: one line of JSON for each task that ran on a host."""

from __future__ import annotations

import json

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: lab_results
type: notification
short_description: Write the results of tasks to a file
description:
  - For the tests of this collection only.
author:
  - The tunnelbroker.tsp authors
options:
  path:
    description: The file that lines are added to.
    type: path
    required: true
    env:
      - name: LAB_RESULTS
"""


class CallbackModule(CallbackBase):
    """{action, result} for each result, also of what failed."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "lab_results"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result):
        self._add(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._add(result)

    def _add(self, result):
        # The names with an underscore are those of ansible-core up to 2.18.
        found = result.result if hasattr(result, "result") else result._result
        task = result.task if hasattr(result, "task") else result._task
        with open(self.get_option("path"), "a", encoding="utf-8") as file:
            json.dump({"action": task.action, "result": found}, file, default=str)
            file.write("\n")
