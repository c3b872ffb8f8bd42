"""One self-contained HTML page: no network, no script, every text escaped, light and dark, narrow and wide, on screen and on paper.

A report is a list of pieces given to ``page``. Every function here makes one piece; text is passed as plain ``str`` and escaped, a piece is ``Markup``:

    html = page(
        "gsm8k-lora", kind="run report", about="LoRA r=8 on stories260K",
        lead=[verdict("Better than the base", tone="good", why="held-out loss 1.92, was 2.31"), figures([Figure("steps", "250")])],
        sections=[section("Rows", table(["set", "rows"], [["train", number(900)]]), charts.lines(...)), section("Run file", code(text))],
    )
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tunefleet.cluster.markup import Content, Markup, breakable, element, join, slug
from tunefleet.cluster.pagestyle import STYLE

Tone = Literal["plain", "good", "bad", "warn"]
ICON = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M2 3c5 0 4 9 12 10' stroke='%230b5fae' stroke-width='2.5' fill='none'/%3E%3C/svg%3E"  # noqa: E501


@dataclass(frozen=True, slots=True)
class Figure:
    """One lead figure: a short value in large type, what it is above, and where it comes from below."""

    label: str
    value: str
    unit: str = ""
    more: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table that is more than its text."""

    content: Content
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of a page; the navigation leads to it."""

    title: str
    body: Markup


def page(
    title: str, *, kind: str, lead: Sequence[Content], sections: Sequence[Section], about: Content = None, foot: Content = None, again_s: int | None = None
) -> str:
    """The whole document. ``kind`` stands small above the title ("run report"), ``about`` below it, ``lead`` before the first section.

    ``again_s``: seconds after which an open page is read anew, for what is still going.
    """
    names = [slug(part.title) for part in sections]
    assert len(set(names)) == len(names), "two sections of one title"
    links = [element("a", part.title, href=f"#{name}") for part, name in zip(sections, names, strict=True)]
    body = element(
        "body",
        element(
            "header",
            element("p", f"tunefleet {kind}", class_="kind"),
            element("h1", title, dir="auto"),
            element("p", about, class_="lede") if about else None,
            *lead,
            element("nav", *links, aria_label="sections of this page") if len(links) > 1 else None,
        ),
        element("main", *(element("section", element("h2", part.title), part.body, id=name) for part, name in zip(sections, names, strict=True))),
        element("footer", foot) if foot else None,
    )
    return f'<!doctype html>\n<html lang="en">{_head(title, kind, again_s).text}{body.text}</html>\n'


def section(title: str, *parts: Content, about: Content = None) -> Section:
    """A titled part; ``about`` is one sentence below the title."""
    return Section(title, join(element("p", about, class_="about") if about else None, *parts))


def verdict(said: str, *, tone: Tone = "plain", why: Content = None) -> Markup:
    """The one sentence that a reader should take away, and what it rests on."""
    return element("div", element("p", said, class_="said"), element("p", why, class_="why") if why else None, class_=f"verdict {tone}", role="status")


def figures(all_of: Iterable[Figure]) -> Markup:
    """A row of lead figures; four to eight read well."""
    return element("dl", *map(_figure, all_of), class_="figures")


def table(columns: Sequence[str], rows: Iterable[Sequence[Content | Cell]], *, title: str | None = None, numbers: Sequence[int] | None = None) -> Markup:
    """A table. The first cell of a row is its heading. ``numbers``: which columns are set to the right; all but the first when None."""
    right = set(range(1, len(columns)) if numbers is None else numbers)
    head = element("tr", *(element("th", name, scope="col", class_="number" if i in right else None) for i, name in enumerate(columns)))
    body = [element("tr", *(_cell(cell, i, right) for i, cell in enumerate(row))) for row in rows]
    whole = element("table", element("caption", title) if title else None, element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=title or columns[0])


def facts(pairs: Iterable[tuple[str, Content]]) -> Markup:
    """Names and values in two or three columns: settings, versions, counts."""
    said = ((name, breakable(value) if isinstance(value, str) else value) for name, value in pairs)
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in said), class_="facts")


def notice(said: str, *, tone: Tone = "warn", detail: str | None = None) -> Markup:
    """A remark that should not be missed."""
    return element("div", element("p", said), element("p", detail) if detail else None, class_=f"notice {tone}")


def texts(parts: Sequence[tuple[str, str | None]], *, above: tuple[str, str] | None = None, lead: int | None = None) -> Markup:
    """Texts side by side, each under its label, as they are (line ends and spaces kept). ``above``: what they answer; ``lead``: the one to look at.

    None stands for a text that does not exist.
    """
    columns = [element("div", element("h3", breakable(label)), _text(text), class_="lead" if i == lead else None) for i, (label, text) in enumerate(parts)]
    over = element("div", element("h3", above[0]), _text(above[1]), class_="above") if above else None
    return element("div", over, element("div", *columns, class_="texts"))


def code(text: str) -> Markup:
    """A file or an output, as it is."""
    return element("pre", text)


def fold(summary: str, *parts: Content, aside: str = "", is_open: bool = False) -> Markup:
    """Something that is shown when asked for; closed at first."""
    return element("details", element("summary", summary, element("span", aside, class_="aside") if aside else None), *parts, open=is_open)


def grid(*parts: Content, small: bool = False) -> Markup:
    """Pieces beside each other where there is room, below each other where there is none. ``small``: up to three in a row, else two."""
    return element("div", *parts, class_="grid small" if small else "grid")


def paragraph(*parts: Content) -> Markup:
    """Running text."""
    return element("p", *parts)


def aside(text: str) -> Markup:
    """What belongs to a value in a table but matters less: its interval, a count; never broken over two lines."""
    return element("span", text, class_="aside")


def _head(title: str, kind: str, again_s: int | None) -> Markup:
    policy = f"default-src 'none'; style-src 'sha256-{_hash(STYLE)}'; img-src data:; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", http_equiv="refresh", content=str(again_s)) if again_s else None,
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{title}: {kind}"),
        element("link", rel="icon", href=ICON),
        Markup(f"<style>{STYLE}</style>"),
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _figure(figure: Figure) -> Markup:
    unit = element("span", f" {figure.unit}", class_="unit") if figure.unit else None
    value = element("dd", figure.value, unit, class_="value")
    return element("div", element("dt", figure.label), value, element("dd", figure.more, class_="more") if figure.more else None, class_=figure.tone)


def _cell(cell: Content | Cell, column: int, right: set[int]) -> Markup:
    held = cell if isinstance(cell, Cell) else Cell(cell)
    named = " ".join(name for name in ("number" if column in right else "", "" if held.tone == "plain" else held.tone) if name) or None
    return element("th", held.content, scope="row", class_=named) if column == 0 else element("td", held.content, class_=named)


def _text(text: str | None) -> Markup:
    if text is None or not text.strip():
        return element("div", "(nothing)" if text is not None else "-", class_="text none")
    return element("div", text, class_="text", dir="auto", tabindex="0")
