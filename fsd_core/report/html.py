"""The building blocks of all pages. A page is one file that loads nothing from the network and follows the reader's theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from importlib.metadata import version

__all__ = ["MARK", "count", "details", "escaped", "facts", "page", "seconds", "section", "size", "table", "usd"]

MARK = '<meta name="generator" content="fsd '  # marks the pages that fsd made


def seconds(value: float) -> str:
    """Seconds for people."""
    return f"{value:.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def count(value: float) -> str:
    """A count for people."""
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes for people."""
    for unit, whole in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= whole:
            return f"{value / whole:.3g} {unit}"
    return f"{value:.0f} B"


def usd(value: float) -> str:
    """USD for people."""
    return "0" if value == 0 else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def escaped(value: object) -> str:
    """The text of a value, safe in HTML."""
    return escape(str(value))


def section(title: str, body: str) -> str:
    """A section with a title."""
    return f"<section><h2>{escaped(title)}</h2>{body}</section>"


def details(body: str) -> str:
    """A section "The figures" that opens with a click."""
    return f"<details><summary>The figures</summary>{body}</details>"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """A list of names and values."""
    return f"<dl>{''.join(f'<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>' for name, value in pairs)}</dl>"


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column heads its rows. On a phone each row is a block, and its cells show the names of their columns."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in names)
    body = ""
    for first, *rest in rows:
        cells = "".join(f'<td data-label="{escaped(name)}">{escaped(cell)}</td>' for name, cell in zip(names[1:], rest, strict=True))
        body += f'<tr><th scope="row">{escaped(first)}</th>{cells}</tr>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page, which loads nothing from the network."""
    style = (resources.files("fsd_core.report") / "page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'{MARK}{version("fsd-inference")}"><link rel="icon" href="data:,"><title>{escaped(title)}</title><style>{style}</style></head>\n'
        f"<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )
