# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Cisco IOS command line that keeps its state, over SSH: for tests, the lab and the demo.

What it is: modes and prompts, abbreviations, `no` forms, IOS's own complaints with the caret under the offending word, a
running and a startup configuration, defaults that are not shown, paging, questions that want an answer, and a real data plane
for `ping` through a tunnel (`dataplane.py`).

What it is not: proof that IOS accepts a line. Its grammar (`grammar_*.py`) comes from Cisco's public command references and
from memory, and nothing of it was compared with real equipment. It shows transport, order, idempotence and undo.

    python -m ios_emulator --port 0 --state FILE --hostname R1       (with tests/lab on PYTHONPATH)

The files, each of which knows one thing: `words` kinds of words, `grammar` the matcher, `grammar_*` the tables, `config` what is
configured, `checks` what is refused for its meaning, `show` and `ping` what is printed, `routes` where a packet goes, `packets`
bytes, `dataplane` raw sockets, `session` one command line, `server` SSH, `faults` bad days, `threaded` for tests.
"""
