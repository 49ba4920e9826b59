# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The emulator inside a test: a server in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

from .device import Device
from .server import Server


class EmulatorThread:
    """`with EmulatorThread(Device("R1")) as emulator:` runs the device's SSH server on a free loopback port."""

    def __init__(self, device: Device, host: str = "127.0.0.1") -> None:
        self.device = device
        self.server = Server(device, host=host)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._failed: BaseException | None = None

    @property
    def port(self) -> int:
        return self.server.port

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self.server.start())
        except BaseException as exc:
            self._failed = exc
            return
        finally:
            self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self.server.stop())
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    def __enter__(self) -> EmulatorThread:
        self._thread.start()
        self._started.wait(30)
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
