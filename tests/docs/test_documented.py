"""Every public function of the Python packages and every entry of the C headers says what it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from tests.docs.conftest import ROOT

PACKAGES = ("tools/kilofed_tools", "host/kilofed", "firmware/pi/kilofed_pi")
HEADERS = sorted((ROOT / "firmware" / "include" / "kilofed").glob("*.h"))


def undocumented(tree: ast.Module) -> list[str]:
    """Names of public functions, classes and methods without a docstring; the module's own first.

    The methods of a class with a base, a Protocol's among them, may leave the word to others, and so may
    those of a class that calls itself "A `Name`".
    """
    found = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if node.name.startswith("_"):
            continue
        says = ast.get_docstring(node)
        if not says:
            found.append(node.name)
        if isinstance(node, ast.ClassDef) and not node.bases and not re.match(r"A `\w+`", says or ""):
            found += [f"{node.name}.{method.name}" for method in _silent_methods(node)]
    return found


def _silent_methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public methods without a docstring; a setter has the words of its getter."""
    return [
        method
        for method in node.body
        if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))
        and not method.name.startswith("_")
        and not ast.get_docstring(method)
        and not any(ast.unparse(d).endswith((".setter", "overload")) for d in method.decorator_list)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_documented(package: str) -> None:
    silent = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        names = undocumented(ast.parse(path.read_text(encoding="utf-8")))
        if names:
            silent[str(path.relative_to(ROOT))] = names
    assert silent == {}


def test_a_silent_function_is_found() -> None:
    code = '''
"""M."""
def f(): ...
def _g(): ...
class A:
    """An A."""
    def m(self): ...
    def _n(self): ...
class B(A):
    def m(self): ...
class C:
    """A `Thing`."""
    def m(self): ...
'''
    assert undocumented(ast.parse(code)) == ["f", "A.m", "B"]


# ---- headers ---------------------------------------------------------------------------------------

_COMMENT = re.compile(r"/\*.*?\*/", re.S)
_ENTRY = re.compile(r"^(?:KF_\w+ )?[\w ]+[ *](kf_\w+)\([^;{]*\)[^;{]*;", re.M)
_TYPE = re.compile(r"^typedef (?:struct|enum|union)?[^;{]*(?:\{.*?^\}\s*)?(kf_\w+_t)\s*;", re.M | re.S)


def silent_entries(text: str) -> list[str]:
    """Functions and types of a header that no comment stands before, nor within.

    A comment goes for entries that follow each other without a blank line.
    """
    silent = []
    for match in [*_ENTRY.finditer(text), *_TYPE.finditer(text)]:
        before = text[: match.start()].rstrip(" \t")
        paragraph = before.rpartition("\n\n")[2]
        inside = _COMMENT.search(match[0])
        if "*/" not in paragraph and inside is None:
            silent.append(match[1])
    return silent


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_every_entry_of_a_header_is_documented(header: Path) -> None:
    assert silent_entries(header.read_text(encoding="utf-8")) == []


def test_headers_have_entries() -> None:
    count = sum(len(_ENTRY.findall(path.read_text(encoding="utf-8"))) for path in HEADERS)
    assert count > 30, f"{count}: the pattern has gone blind"


def test_a_silent_entry_is_found() -> None:
    text = "/* Says. */\nint kf_a(int x);\nint kf_b(void);\n\nint kf_c(void);\n\n"
    text += "typedef struct {\n    int a;\n} kf_d_t;\n"
    assert silent_entries(text) == ["kf_c", "kf_d_t"]
