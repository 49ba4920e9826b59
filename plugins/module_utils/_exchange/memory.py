# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Take a lease out of the memory of a state folder, so that a host which gives its tunnel back is left as it was found."""

from __future__ import annotations

import contextlib
import os
import time

from .._tsp.errors import LocalError
from .._tsp.lease import Lease
from .backoff import Backoff, who_asks
from .options import ExchangeOptions, parse_broker
from .saved import SavedBrokers


def forget(lease: Lease, options: ExchangeOptions) -> None:
    """Remove what options.state_dir holds about the broker of `lease`, and the folder when nothing else is in it.

    Keys of brokers and the memory of failures stay. What cannot be removed stays, too: it does no harm.
    """
    if options.state_dir is None:
        return

    def ignore(_sentence: str) -> None:
        pass

    backoff = Backoff(options.state_dir, who_asks(lease.request, options), min_interval=0.0, wall=time.time, jitter=lambda: 0.0,
                      warn=ignore)
    saved = SavedBrokers.of(options, ignore)
    for name in (lease.broker, lease.via):
        with contextlib.suppress(LocalError):  # an edited lease may name anything
            if name is not None:
                broker = parse_broker(name)
                backoff.forget(broker)
                saved.forget(broker)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.realpath(options.state_dir))
        if os.path.islink(options.state_dir):  # where an agent of systemd's has it in a folder of its own
            os.unlink(options.state_dir)
