# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The task `tunnel` towards a bad broker, in this process, and what must hold of every failure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import TUNNEL_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.ask import Place
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.leasestore import load, save
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import guarded
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_task import run
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import FakeBroker, Talk
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease

CANARY = "canary-Okapi-4711"
"""The password of alice."""


def talking(**answers: Any) -> Callable[[], FakeBroker]:
    """Makes a broker that knows alice and answers as told; see Talk."""
    return lambda: FakeBroker(Talk(users={"alice": CANARY}, **answers))


@contextlib.contextmanager
def in_thread(make: Callable[[], FakeBroker]) -> Iterator[FakeBroker]:
    """The broker that `make()` builds, in an event loop and a thread of its own."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        async with make() as broker:
            stop = asyncio.Event()
            found.extend((broker, stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait()
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(found[1].set)
        thread.join()
        loop.close()


class Judge:
    """A folder with a lease in force. Called with a broker's name and options it runs the task, with renew, and returns the `error`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "tsp.fact"
        save(str(self.path), lease("v6v4", "2001:db8:a::/48"))
        self.before = self.path.read_bytes()

    def run(self, broker: str, **options: Any) -> dict[str, Any]:
        """The task's result, whatever it is."""
        given = {"broker": [broker], "username": "alice", "password": CANARY, "renew": True, "min_interval": 0.0, "deadline": 20.0,
                 "mode": "v6v4", **options}
        params = {name: given.get(name, option.get("default")) for name, option in TUNNEL_SPEC.items()}
        return guarded(lambda: run(params, Place(str(self.path), str(self.folder / "state"))))

    def __call__(self, broker: FakeBroker | str, **options: Any) -> dict[str, Any]:
        result = self.run(broker if isinstance(broker, str) else broker.name, **options)
        text = json.dumps(result)
        assert result["failed"] is True and result["changed"] is False and "ansible_facts" not in result
        error: dict[str, Any] = result["error"]
        assert set(error) == {"kind", "code", "message", "hint", "status"} and error["hint"]
        assert error["code"] != "internal" and result["attempts"]
        assert result["msg"].startswith(error["message"]) and "Traceback" not in text and len(text) < 20000
        assert all(character.isprintable() for character in result["msg"])
        assert self.path.read_bytes() == self.before and load(str(self.path)) is not None
        assert CANARY not in text
        for file in self.folder.rglob("*"):
            assert not file.is_file() or CANARY not in file.read_text(), file
            assert not file.name.endswith(".tmp"), file
        return error
