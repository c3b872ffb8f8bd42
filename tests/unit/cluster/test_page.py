"""The page kit: nothing that is given to it as text comes out as markup, and the page needs nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunefleet.cluster.markup import element, escaped
from tunefleet.cluster.page import Figure, code, facts, figures, fold, notice, page, section, table, texts, verdict

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> & </style></pre> javascript:alert(3)"


class _Reader(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    return reader


def _everything(text: str) -> str:
    parts = [notice(text, detail=text), table([text, text], [[text, text]], title=text), facts([(text, text)]), texts([(text, text)], above=(text, text))]
    lead = [verdict(text, why=text), figures([Figure(text, text, text, text)])]
    return page(text, kind="run report", about=text, lead=lead, sections=[section(text, *parts, about=text), section("b", fold(text, code(text)))], foot=text)


def test_text_stays_text_in_every_piece() -> None:
    reader = _read(_everything(EVIL))
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in reader.tags}
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on") or name == "style"]
    assert sum(EVIL in words for words in reader.words) >= 20


@given(st.text())
def test_what_is_escaped_reads_as_it_was_but_for_what_cannot_be_shown(text: str) -> None:
    shown = "".join(_read(f"<p>{escaped(text)}</p>").words)
    shown.encode()  # raises where a lone surrogate is left
    if re.fullmatch(r"[ -~\n]*", text):
        assert shown == text


def test_signs_that_turn_the_direction_are_named_instead() -> None:
    assert escaped("a\u202eb\x00") == "a⟨U+202E⟩b␀"


def test_the_policy_forbids_all_but_this_very_style() -> None:
    html = _everything("x")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    style = re.search(r"<style>(.*?)</style>", html, re.S)
    assert policy is not None
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1] == f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_navigation_leads_to_every_section() -> None:
    reader = _read(_everything("A name"))
    links = {attributes["href"] for tag, attributes in reader.tags if tag == "a"}
    assert links == {f"#{attributes['id']}" for tag, attributes in reader.tags if tag == "section"}


def test_a_link_to_elsewhere_or_a_handler_cannot_be_made() -> None:
    with pytest.raises(AssertionError):
        element("a", "x", href="https://example.com")
    with pytest.raises(AssertionError):
        element("p", onclick="x()")
    with pytest.raises(AssertionError):
        element("p", style="color: red")
