# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A block of ours in a file of the site: put in, kept, changed, and taken out so that the file is byte for byte the site's."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.edits import EditContext, Edited, edit
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text(st.sampled_from("ab #\n\r\t\u2028é"), max_size=30)


def block(text: str | None, present: bool = True, state: dict[str, Any] | None = None, **options: Any) -> Edited:
    return edit("block", EditContext("/etc/x", text, present, options, "t", state or {}))


@given(st.none() | TEXTS, TEXTS, TEXTS, st.sampled_from(["start", "end"]))
def test_what_is_the_sites_comes_back_byte_for_byte(text: str | None, content: str, other: str, where: str) -> None:
    made = block(text, content=content, where=where)
    assert made.text is not None and content in made.text
    again = block(made.text, state=made.state, content=content, where=where)
    assert again == made, "a second time changes nothing"
    changed = block(made.text, state=made.state, content=other, where=where)
    gone = block(changed.text, False, changed.state)
    assert gone.text == (text or None) and gone.state == {}


def test_what_the_site_adds_later_stays() -> None:
    made = block("one", content="ours")
    assert made.text == "one\n# BEGIN tunnelbroker.tsp t\nours\n# END tunnelbroker.tsp t\n"
    gone = block(f"zero\n{made.text}two\n", False, made.state)
    assert gone.text == "zero\none\ntwo\n"
    assert block("; x\n", content="y", comment=";", marker="other").text == (
        "; x\n; BEGIN tunnelbroker.tsp other\ny\n; END tunnelbroker.tsp other\n")


@pytest.mark.parametrize(("text", "options", "code"), [
    ("# BEGIN tunnelbroker.tsp t\n", {}, "marks_damaged"), ("# END tunnelbroker.tsp t\n# BEGIN tunnelbroker.tsp t\n", {}, "marks_damaged"),
    ("", {"content": "# END tunnelbroker.tsp t\n"}, "invalid_plan"), ("", {"contents": "x"}, "invalid_plan")])
def test_what_cannot_be_done_is_refused(text: str, options: dict[str, Any], code: str) -> None:
    with pytest.raises(LocalError) as caught:
        block(text, **options)
    assert caught.value.code == code


def test_an_unknown_editor_is_named() -> None:
    with pytest.raises(LocalError) as caught:
        edit("vi", EditContext("/etc/x", "", True, {}, "t"))
    assert caught.value.code == "unknown_editor" and "block" in caught.value.hint
