"""Markup that cannot hold what it was not meant to: every text is escaped on its way in, and only the kit itself makes elements."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

VOID = frozenset({"meta", "link", "br", "hr", "wbr"})
_UNSHOWN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_TURNING = re.compile(r"[\u202a-\u202e\u2066-\u2069\u200e\u200f]")
"""Characters that turn the direction of what follows: a row could rearrange what a reader sees of the page around it."""


@dataclass(frozen=True, slots=True)
class Markup:
    """Finished markup. It comes out of ``element``, ``join`` and what is built on them; a plain ``str`` is always text."""

    text: str


Content = Markup | str | None
"""What a piece of a page may hold: text (escaped), markup, or nothing."""

NOTHING = Markup("")


def escaped(text: str) -> str:
    """Text as it may stand in an element or an attribute. Control characters, lone surrogates and turns of direction are shown, not obeyed."""
    shown = _UNSHOWN.sub(lambda found: _picture(ord(found.group())), text.replace("\r\n", "\n").replace("\r", "\n"))
    return html.escape(_TURNING.sub(lambda found: f"\u27e8U+{ord(found.group()):04X}\u27e9", shown), quote=True)


def element(tag: str, *children: Content, **attributes: str | float | bool | None) -> Markup:
    """One element. Names of attributes: ``class_`` is class, ``aria_label`` is aria-label; None and False leave an attribute out.

    Numbers in attributes are written short. A link may only lead to a place on the page, and nothing may carry a script or a style.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items() if value is not None and value is not False)
    if tag in VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(*children).text}</{tag}>")


def join(*children: Content, between: str = "") -> Markup:
    """Several pieces after each other."""
    return Markup(escaped(between).join(child.text if isinstance(child, Markup) else escaped(child) for child in children if child is not None))


def breakable(address: str) -> Markup:
    """A path or an address that may be broken after its slashes, and only where that does not help within its names."""
    first, *others = address.split("/")
    return join(first, *(piece for other in others for piece in ("/", element("wbr"), other)))


def slug(text: str) -> str:
    """A name as an id that a link on the page can lead to."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"


def _attribute(name: str, value: str | float | bool) -> str:
    name = name.rstrip("_").replace("_", "-")
    assert not name.startswith("on") and name != "style", "the page's policy forbids it"  # noqa: PT018
    if value is True:
        return f" {name}"
    shown = value if isinstance(value, str) else f"{value:.5g}"
    assert name != "href" or shown.startswith(("#", "data:image/svg+xml,")), "a report leads nowhere else"
    return f' {name}="{escaped(shown)}"'


def _picture(code: int) -> str:
    """The picture of a control character where there is one, else the sign for what cannot be shown."""
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"
