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
from tunefleet.cluster.pagestyle import STYLE

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


def _luminance(colour: str) -> float:
    """Relative luminance of #rrggbb. Source: WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_can_be_told_from_its_ground(scheme: int) -> None:
    blocks = STYLE.split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[scheme]))
    for ground in ("paper", "card", "wash"):
        for text in ("ink", "soft", "faint"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for tone in ("good", "bad", "warn"):
        assert _contrast(colours[tone], colours["paper"]) >= 4.5
        assert _contrast(colours["soft"], colours[f"{tone}-wash"]) >= 4.5
    for series in ("s0", "s1", "s2", "s3", "s4", "s5", "base"):
        assert _contrast(colours[series], colours["paper"]) >= 3, series
