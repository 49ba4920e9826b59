# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Options shared by the modules that speak to a broker."""

    # How to reach brokers.
    DOCUMENTATION = r"""
options:
  broker:
    description:
      - The tunnel brokers to ask, in this order, until one answers.
      - Each is a name or an address, with a port where it is not 3653. An IPv6 address with a port needs brackets.
    type: list
    elements: str
  transport:
    description:
      - What carries the exchange. V(auto) is reliable UDP, then TCP. A C(v6udpv4) tunnel can only be asked for over UDP.
    type: str
    choices: [auto, udp, tcp]
    default: auto
  source_address:
    description: Local address from which the broker is asked, on a machine with several uplinks.
    type: str
  source_interface:
    description: Local interface from which the broker is asked. Needs root.
    type: str
  deadline:
    description: Seconds for the whole exchange, with names, redirections, retransmissions and all brokers.
    type: float
    default: 60.0
  run_on:
    description:
      - Where the exchange runs.
      - V(target) runs it on the host of the task, which needs Python 3.9 or newer.
      - V(controller) runs it in the Ansible process itself; nothing is copied to the host, and no connection to it is made.
      - V(auto) is V(controller) where the tunnel is asked for by proxy, where the connection is C(network_cli), C(netconf), C(httpapi),
        C(winrm) or C(psrp), or where C(ansible_network_os) is set. Otherwise it is V(target).
    type: str
    choices: [auto, target, controller]
    default: auto
"""

    # Who asks.
    LOGIN = r"""
options:
  auth_method:
    description:
      - How to authenticate. V(any) takes the strongest method that the broker offers, and never V(anonymous).
      - V(any) takes V(plain), which shows the password to everybody on the way, only with O(allow_plaintext=true).
      - V(passdss-3des-1) needs the Python package C(cryptography) where the exchange runs.
    type: str
    choices: [any, anonymous, plain, digest-md5, passdss-3des-1]
    default: any
  username:
    description: The user name at the broker.
    type: str
  password:
    description: The password at the broker. It is never stored, shown or returned.
    type: str
  password_file:
    description:
      - A file whose first line is the password, on the machine where the exchange runs.
      - Mutually exclusive with O(password).
    type: path
  allow_plaintext:
    description: Allow O(auth_method=any) to send the password readable, where the broker offers nothing better.
    type: bool
    default: false
  server_key:
    description:
      - The one key of the broker that is accepted, as Base64, for V(passdss-3des-1).
      - Without it the key is looked up in O(known_keys_file).
    type: str
  server_key_policy:
    description:
      - What to do with a broker key that is neither given nor known. V(accept_new) takes it and remembers it in O(known_keys_file).
      - A key that differs from the known one is always refused.
    type: str
    choices: [reject, accept_new]
    default: reject
  known_keys_file:
    description:
      - File of known broker keys, one per line with the broker, C(ssh-dss) and the key as Base64, as the gogoCLIENT keeps it.
      - The default is C(tsp-known-keys.txt) in O(state_dir).
    type: path
"""

    # What is asked for.
    REQUEST = r"""
options:
  mode:
    description:
      - The tunnel mode to ask for.
      - V(v6v4) is IPv6 in IPv4 (protocol 41) and does not pass NAT. V(v6udpv4) is IPv6 in UDP, for clients behind NAT.
      - V(v6anyv4) lets the broker choose between the two. V(v4v6) is IPv4 in IPv6.
    type: str
    choices: [v6anyv4, v6v4, v6udpv4, v4v6]
    default: v6anyv4
  host_type:
    description: A V(router) gets a prefix delegated for the networks behind it, a V(host) an address for itself.
    type: str
    choices: [host, router]
    default: host
  prefix_length:
    description:
      - Length of the prefix to ask for, in bits. Only with O(host_type=router).
      - The default is 48, or 24 with O(mode=v4v6).
    type: int
  dns_servers:
    description:
      - Names of the DNS servers that the reverse zone of the prefix shall be delegated to. Only with O(host_type=router).
    type: list
    elements: str
    default: []
  client_ipv4:
    description:
      - IPv4 address of our end of the tunnel. V(auto) is the address from which the broker is asked.
      - Needed when asking by proxy.
    type: str
    default: auto
  client_ipv6:
    description: IPv6 address of our end of the tunnel with O(mode=v4v6). V(auto) is the address from which the broker is asked.
    type: str
    default: auto
  proxy:
    description:
      - Whether the tunnel ends at another device than the one that asks. Impossible with O(mode=v6udpv4).
      - The default is V(true) where the exchange runs on the controller for another device, else V(false).
    type: bool
  keepalive:
    description: Whether to ask the broker for keepalives.
    type: bool
    default: true
  keepalive_interval:
    description: Seconds between keepalives to ask for. The broker decides.
    type: int
    default: 30
"""
