# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What an exchange takes from the world around it, in one place, so that tests can give it another world."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Callable

from .._tsp.rudp import RudpConfig
from .resolve import Lookup, system_lookup


@dataclass(frozen=True)
class Runtime:
    """wall(): seconds since 1970, may jump. sleep(seconds). lookup: see resolve.py. rng(n): n random bytes. jitter(): 0 <= x < 1.

    rudp: retransmission over UDP. connect_timeout, reply_timeout, echo_timeout: seconds for TCP's handshake, for one whole answer over
    TCP, and for all echo requests together. echo_grace: for the echo requests that are left once one was answered.
    """

    wall: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    lookup: Lookup = system_lookup
    rng: Callable[[int], bytes] = os.urandom
    jitter: Callable[[], float] = random.random
    rudp: RudpConfig = field(default_factory=RudpConfig)
    connect_timeout: float = 10.0
    reply_timeout: float = 15.0
    echo_timeout: float = 3.0
    echo_grace: float = 1.5
