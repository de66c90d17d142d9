"""Links in the documents lead somewhere, to the heading too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.conftest import ROOT, documents

_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.M | re.S)
_CODE = re.compile(r"`[^`\n]*`")


def anchors(text: str) -> set[str]:
    """The anchors a Markdown reader makes of headings: lower case, no punctuation, dashes for spaces."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+\s+(.*)$", _FENCED.sub("", text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        count = found.get(slug, 0)
        names.add(f"{slug}-{count}" if count else slug)
        found[slug] = count + 1
    return names


def dangling(path: Path, text: str) -> list[str]:
    """The links of a document that lead nowhere."""
    wrong = []
    for match in _LINK.finditer(_CODE.sub("", _FENCED.sub("", text))):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        if not target.exists() or ROOT not in [target.resolve(), *target.resolve().parents]:
            wrong.append(link)
        elif anchor and target.suffix == ".md":
            there = text if target == path else target.read_text(encoding="utf-8")
            if anchor not in anchors(there):
                wrong.append(link)
    return wrong


@pytest.mark.parametrize("document", [str(p.relative_to(ROOT)) for p in documents()])
def test_no_link_dangles(document: str) -> None:
    path = ROOT / document
    assert dangling(path, path.read_text(encoding="utf-8")) == []


def test_a_dangling_link_is_found() -> None:
    text = "# A (b)\n[x](#a-b) [y](#nothing) [z](LICENSE) [w](NOWHERE.md) [v](../other) `[u](no)`"
    assert dangling(ROOT / "README.md", text) == ["#nothing", "NOWHERE.md", "../other"]


def test_anchors_are_those_of_headings() -> None:
    text = "# One, `two`!\n## One two\n```\n# not a heading\n```\n## A [b](c) d-e"
    assert anchors(text) == {"one-two", "one-two-1", "a-b-d-e"}
