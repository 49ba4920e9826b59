# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.options import without_secrets


@pytest.mark.parametrize("line", [
    " ppp chap password 7 c4nary", " ip ospf authentication-key c4nary", " ip ospf message-digest-key 1 md5 7 c4nary",
    " standby 1 authentication md5 key-string 7 c4nary timeout 30", " ip nhrp authentication c4nary", "enable secret 5 c4nary",
    "username lab privilege 15 secret 0 c4nary", "snmp-server community c4nary RO", " pre-shared-key c4nary",
    " standby authentication c4nary", " vrrp 1 authentication text c4nary", " glbp 10 authentication text c4nary",
    " key 7 c4nary", " key c4nary",
    "radius-server host 192.0.2.1 auth-port 1812 key c4nary", "tacacs-server key 7 c4nary", "crypto isakmp key c4nary address 192.0.2.1",
    "snmp-server host 192.0.2.1 version 2c c4nary"])
def test_secrets_of_the_device_are_not_shown(line: str) -> None:
    shown = without_secrets(f"interface Dialer0\n{line}\n ipv6 enable\n")
    assert "c4nary" not in shown and shown.startswith("interface Dialer0\n") and shown.endswith(" ********\n ipv6 enable\n")


def test_the_rest_of_a_configuration_is_shown_as_it_is() -> None:
    text = "interface Tunnel0\n description key to the password\n tunnel key 5\n keepalive 10 3\n service password-encryption\n"
    text += "key chain ours\n key 1\n  accept-lifetime 00:00:00 1 Jan 2026 infinite\n"
    assert without_secrets(text).replace("********", "") == text
