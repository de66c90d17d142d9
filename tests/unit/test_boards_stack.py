"""The worst-case stack, on graphs small enough to add up by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kilofed.boards import stack
from kilofed.boards.stack import Stack

GCC = "arm-none-eabi-gcc"
pytestmark = pytest.mark.skipif(shutil.which(GCC) is None, reason=f"not installed: {GCC}")

PRELUDE = """
#define FRAME(words) volatile int room[words]; room[0] = 1
#define APART __attribute__((noinline, noclone))
extern volatile int sink;
volatile int sink;
"""


def analysed(
    tmp_path: Path, code: str, indirect: dict[str, list[str]] | None = None, *, cpu: str = "cortex-m0"
) -> Stack:
    """What is found in C code whose execution starts at kf_reset and in any *_irq."""
    source = tmp_path / "code.c"
    source.write_text(PRELUDE + code)
    subprocess.run(
        [GCC, f"-mcpu={cpu}", "-mthumb", "-Os", "-ffreestanding", "-fcallgraph-info=su", "-c", source],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    subprocess.run(
        [GCC, f"-mcpu={cpu}", "-mthumb", "-nostartfiles", "-Wl,-ekf_reset", "code.o", "-o", "code.elf"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    return stack.analyse(tmp_path / "code.elf", tmp_path.glob("*.ci"), indirect or {})


def names(found: Stack) -> list[str]:
    return [name for name, _ in found.chain]


CHAIN = """
APART void deep(void) { FRAME(50); }
APART void shallow(void) { FRAME(2); }
APART void middle(void) { FRAME(10); deep(); sink++; shallow(); sink++; }
void kf_reset(void) { shallow(); middle(); sink++; }
"""


@pytest.mark.parametrize("cpu", ["cortex-m0", "cortex-m4"])
def test_the_deepest_chain_is_found(tmp_path: Path, cpu: str) -> None:
    found = analysed(tmp_path, CHAIN, cpu=cpu)
    assert names(found) == ["kf_reset", "middle", "deep"]
    frames = dict(found.chain)
    assert 200 <= frames["deep"] <= 216
    assert 40 <= frames["middle"] <= 56
    assert found.interrupt == stack.ENTRY_BYTES
    assert found.bytes == sum(frames.values()) + found.interrupt
    assert found.unresolved == ()


def test_an_interrupt_comes_on_top(tmp_path: Path) -> None:
    quiet = analysed(tmp_path, CHAIN)
    busy = analysed(tmp_path, CHAIN + "APART void uart_irq(void) { FRAME(30); deep(); sink++; }")
    assert busy.chain == quiet.chain
    assert busy.bytes - quiet.bytes == busy.interrupt - quiet.interrupt >= 120 + 200


POINTER = """
APART int deep(int x) { FRAME(40); return x; }
APART int other(int x) { FRAME(100); return x + 1; }
APART int call(int (*f)(int)) { return f(3) + sink; }
int (*const table[2])(int) = {other, deep};
void kf_reset(void) { sink = call(table[sink]) + call(other); }
"""


def test_a_call_through_a_pointer_must_be_listed(tmp_path: Path) -> None:
    found = analysed(tmp_path, POINTER)
    assert found.unresolved == ("call calls through a pointer",)
    assert names(found)[-1] == "call"

    listed = analysed(tmp_path, POINTER, {"call": ["deep"]})
    assert listed.unresolved == ()
    assert names(listed)[-2:] == ["call", "deep"]

    every = analysed(tmp_path, POINTER, {"call": ["table table 0", "table table 1"]})
    assert names(every)[-2:] == ["call", "other"]
    assert every.bytes > listed.bytes


def test_a_list_may_name_what_only_some_images_have(tmp_path: Path) -> None:
    found = analysed(tmp_path, POINTER, {"call": ["deep if linked", "left_out if linked"]})
    assert found.unresolved == () and names(found)[-2:] == ["call", "deep"]
    none = analysed(tmp_path, POINTER, {"call": ["left_out if linked"]})
    assert none.unresolved == ("call reaches nothing of what is listed for it",)


def test_a_list_that_means_nothing_is_noticed(tmp_path: Path) -> None:
    found = analysed(tmp_path, POINTER, {"call": ["renamed_since"]})
    assert found.unresolved == ("call reaches nothing of what is listed for it",)


def test_recursion_is_noticed(tmp_path: Path) -> None:
    code = """
    int other(int n);
    APART int one(int n) { FRAME(4); return n ? other(n - 1) + sink : 0; }
    APART int other(int n) { FRAME(4); return n ? one(n - 1) + sink : 1; }
    void kf_reset(void) { sink = one(sink); }
    """
    found = analysed(tmp_path, code)
    assert found.unresolved == ("recursion: one -> other -> one",)


def test_functions_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Two files may each have a static `work`; the frame of one is not that of the other."""
    (tmp_path / "b.c").write_text(
        PRELUDE.replace("\nvolatile int sink;", "")
        + "static APART void work(void) { FRAME(90); }\nvoid b(void) { work(); sink++; }\n"
    )
    (tmp_path / "a.c").write_text(
        PRELUDE + "static APART void work(void) { FRAME(3); }\nvoid kf_reset(void) { work(); sink++; }\n"
    )
    subprocess.run(
        [GCC, "-mcpu=cortex-m0", "-mthumb", "-Os", "-ffreestanding", "-fcallgraph-info=su", "-nostartfiles",
         "-Wl,-ekf_reset", "-g", "-save-temps=obj", "a.c", "b.c", "-Wl,-ub", "-o", "both.elf"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    found = stack.analyse(tmp_path / "both.elf", tmp_path.glob("*.ci"), {})
    assert names(found) == ["kf_reset", "work"]
    assert dict(found.chain)["work"] < 40


def test_library_code_counts_by_its_instructions(tmp_path: Path) -> None:
    """libgcc's 64-bit division was not compiled here: no call graph tells of it."""
    code = "void kf_reset(void) { volatile unsigned long long a = 5, b = 3; a = a / b; }"
    found = analysed(tmp_path, code)
    assert found.unresolved == ()
    assert names(found)[:2] == ["kf_reset", "__aeabi_uldivmod"]
    assert found.bytes - found.interrupt > dict(found.chain)["kf_reset"] + 40


def test_a_frame_of_unknown_size_is_noticed(tmp_path: Path) -> None:
    code = """
    APART void fill(char *p, int n) { while (n--) p[n] = (char)sink; }
    APART void varies(int n) { char room[n]; fill(room, n); sink += room[0]; }
    void kf_reset(void) { varies(sink); }
    """
    found = analysed(tmp_path, code)
    assert found.unresolved == ("varies has a frame of unknown size",)
