# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import yaml
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.blockyaml import to_yaml
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(alphabet=st.characters(codec="utf-8"))
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXT,
                      lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_a_yaml_reader_gets_is_what_went_in(value):
    assert yaml.safe_load(to_yaml(value)) == value


def test_it_reads_like_yaml_written_by_hand():
    assert to_yaml({"schema": 1, "client": {"ipv4": "192.0.2.1", "ipv6": None}, "names": ["a", "no"], "empty": [], "on": True}) == (
        'schema: 1\nclient:\n  ipv4: "192.0.2.1"\n  ipv6: null\nnames:\n  - "a"\n  - "no"\nempty: []\n"on": true\n')
    assert to_yaml({}) == "{}\n"


def test_lists_of_lists_and_of_dicts_keep_their_shape():
    value = {"a": [[1, [2]], {"b": [{}]}, []]}
    assert yaml.safe_load(to_yaml(value)) == value


def test_a_key_of_any_length_is_read_back():
    value = {"x" * 5000: {"a b" * 2000: ["é" * 3000, {"ü" * 2000: None}]}, "short": {"k" * 1025: {}}}
    assert yaml.safe_load(to_yaml(value)) == value
