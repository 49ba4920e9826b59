# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Run a coroutine from code without an event loop, wherever that code runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Callable, TypeVar

T = TypeVar("T")


def run_sync(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `make()` to its end on an event loop of its own, and return or raise what it does.

    Not asyncio.run: that touches the thread's current loop and its signal handlers, which in an Ansible worker belong to somebody
    else, and it waits for executor threads. Where a loop already runs in this thread, another thread does the work.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(make)
    result: list[T] = []
    error: list[BaseException] = []

    def work() -> None:
        try:
            result.append(_run(make))
        except BaseException as exc:  # handed to the caller's thread
            error.append(exc)

    thread = threading.Thread(target=work, name="tsp-exchange")
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return result[0]


def _run(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    loop = asyncio.new_event_loop()
    task: asyncio.Task[T] | None = None
    try:
        task = loop.create_task(make())
        return loop.run_until_complete(task)
    finally:
        try:
            left = [other for other in asyncio.all_tasks(loop) if not other.done()]
            for other in left:
                other.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            loop.close()
