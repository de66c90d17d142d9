"""C libraries of others: what is fetched is what was pinned; what cannot be had is said with a next step."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "firmware" / "cmake" / "fetch_sources.py"


@pytest.fixture
def fetching(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with nothing to download by."""
    spec = importlib.util.spec_from_file_location("fetch_sources", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_sources", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(shutil, "which", lambda *words, **more: None)
    return module


def packed(*files: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


GOOD = packed(
    ("lwip-2.1.3/COPYING", b"free"),
    ("lwip-2.1.3/src/core/tcp.c", b"int tcp;"),
    ("lwip-2.1.3/src/core/ipv4/ip4.c", b"int ip4;"),
    ("lwip-2.1.3/src/core/notes.txt", b"not C"),
    ("lwip-2.1.3/src/core/../../../../escaped.c", b"int outside;"),
    ("lwip-2.1.3/src/apps/http.c", b"int http;"),
    ("lwip-2.1.3/src/netif/ethernet.c", b"int ethernet;"),
    ("lwip-2.1.3/src/include/lwip/tcp.h", b"extern int tcp;"),
    ("lwip-2.1.3/src/include/netif/ethernet.h", b"extern int ethernet;"),
)


def pin(fetching: ModuleType, monkeypatch: pytest.MonkeyPatch, archive: bytes) -> str:
    """Takes `archive` for lwIP's; the name it must have."""
    (lwip,) = (source for source in fetching.SOURCES if source.folder == "lwip")
    lwip = replace(lwip, sha256=hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(fetching, "SOURCES", (lwip,))
    return str(lwip.archive)


def test_an_archive_put_there_by_hand_is_taken(
    fetching: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = pin(fetching, monkeypatch, GOOD)
    assert name == "lwip_2.1.3+dfsg1.orig.tar.xz"
    deps = tmp_path / "deps"
    deps.mkdir()
    (deps / name).write_bytes(GOOD)
    fetching.fetch(deps, ["lwip"])
    found = {str(p.relative_to(deps / "lwip")) for p in (deps / "lwip").rglob("*") if p.is_file()}
    assert found == {
        ".stamp", "COPYING", "src/core/tcp.c", "src/core/ipv4/ip4.c", "src/netif/ethernet.c",
        "src/include/lwip/tcp.h", "src/include/netif/ethernet.h",
    }  # fmt: skip
    assert not list(tmp_path.rglob("escaped.c"))
    (deps / name).unlink()
    fetching.fetch(deps, ["lwip"])  # it is there: nothing is needed


def test_another_archive_is_refused_and_removed(
    fetching: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = pin(fetching, monkeypatch, GOOD)
    (tmp_path / name).write_bytes(GOOD + b"\0")
    with pytest.raises(ValueError, match="it was removed: build again"):
        fetching.fetch(tmp_path, ["lwip"])
    assert not (tmp_path / name).exists()
    assert not (tmp_path / "lwip").exists()


def test_an_archive_without_the_files_is_refused(
    fetching: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = packed(("lwip-2.1.3/COPYING", b"free"))
    name = pin(fetching, monkeypatch, few)
    (tmp_path / name).write_bytes(few)
    with pytest.raises(ValueError, match="has no src/core/"):
        fetching.fetch(tmp_path, ["lwip"])


def test_without_apt_the_way_by_hand_is_said(
    fetching: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch_sources.py", str(tmp_path), "lwip"])
    assert fetching.main() == 1
    said = capsys.readouterr().err
    assert "apt is not here" in said
    assert f"or put lwip_2.1.3+dfsg1.orig.tar.xz into {tmp_path}" in said


def test_what_is_no_library_is_refused() -> None:
    for words in ([], ["deps", "openssl"]):
        done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "of zcbor, monocypher, lwip" in done.stderr
