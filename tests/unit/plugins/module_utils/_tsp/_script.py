# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A broker that is a list of prepared answers, for our client."""

from __future__ import annotations

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import xml_write
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import TspClient
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.quirks import QUIRKS
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import a_grant, client_config

CAPABILITY = b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 AUTH=ANONYMOUS\r\n"
SUCCESS = b"200 Success\r\n"
INFO = xml_write.info(a_grant())
XML = INFO[INFO.index(b"<"):]
LIST = b'<tunnel action="list" type="broker"><broker><address type="ipv4">192.0.2.9</address></broker></tunnel>\r\n'
GOOD = (CAPABILITY, SUCCESS, INFO, b"")


def headed(body, number=None):
    return b"Content-length: %d\r\n" % (len(body) if number is None else number) + body


class Script:
    """Runs a client against prepared answers; None: silence. Time passes only for timers."""

    def __init__(self, answers, *, pieces=0, eof=False, **config):
        self.client = TspClient(client_config(**config))
        self.answers = list(answers)
        self.said = []
        self.events = []
        self.now = 500.0
        self.pieces = pieces
        self.eof = eof
        self.udp = config.get("transport", "udp") == "udp"

    def run(self):
        self.client.connect(self.now)
        for _again in range(500):
            self._exchange()
            at = self.client.next_timer()
            if at is None:
                break
            if self.eof and not self.answers:
                self.client.receive_eof(self.now)
                continue
            self.now = at
            self.client.handle_timer(at)
        while (event := self.client.next_event()) is not None:
            self.events.append(event)
        assert set(self.client.quirks) <= set(QUIRKS)
        return self

    def _exchange(self):
        while sent := self.client.data_to_send(self.now):
            for data in sent:
                self.said.append(data[8:] if self.udp else data)
                answer = self.answers.pop(0) if self.answers else None
                if answer is None:
                    continue
                if self.udp:
                    self.client.receive(data[:8] + answer, self.now)
                else:
                    step = self.pieces or max(1, len(answer))
                    for at in range(0, len(answer), step):
                        self.client.receive(answer[at:at + step], self.now)

    @property
    def last(self):
        return self.events[-1]
