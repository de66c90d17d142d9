"""The engine on the smallest core: no floating point, little code, little stack. Compiled with the cross
compiler as it is shipped; skipped where that is not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from engine_runner import ROOT, sources

# Reader, plans and groups, interpreter and the table of all operators, Cortex-M0. The last 46 bytes bought
# 6500 instructions less an operator and inference: each is decoded once, not twice (src/nn/nn.c).
FRAME_BYTES = 9_875
OPERATORS_BYTES = 22_500  # all operators and their kernels
STACK_BYTES = 900  # of any call, without what the caller and interrupts use
TOOL = "arm-none-eabi-"

pytestmark = pytest.mark.skipif(
    shutil.which(TOOL + "gcc") is None, reason="install gcc-arm-none-eabi to compile for a Cortex-M0"
)

# Calls through pointers, which the compiler cannot follow: caller -> the static functions it may reach.
OPERATOR = r"(_(quantize|dequantize|logistic|average|max|mul|prelu))?"
THROUGH_POINTERS = {
    "check_op": "check" + OPERATOR,
    "kf_nn_check_overlay": "check" + OPERATOR,
    "kf_nn_begin": "check" + OPERATOR,
    "kf_model_open": "check" + OPERATOR,
    "kf_op_work": "work" + OPERATOR,
    "run_slices": "run" + OPERATOR,
    "kf_conv_run": "conv_row|depthwise_row",
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One object file a source file, with stack use and calls beside it."""
    folder = tmp_path_factory.mktemp("m0")
    made = []
    for source in sources():
        target = folder / f"{source.parent.name}_{source.stem}.o"
        flags = [
            "-std=c11",
            "-mcpu=cortex-m0",
            "-mthumb",
            "-Os",
            "-ffunction-sections",
            "-fcallgraph-info=su",
        ]
        include = f"-I{ROOT / 'firmware' / 'include'}"
        subprocess.run([TOOL + "gcc", *flags, include, "-c", source, "-o", target], check=True)
        made.append(target)
    return made


def test_no_floating_point(objects: list[Path]) -> None:
    """No helper of the compiler for float or double (__aeabi_f*, __aeabi_d*, conversions) is asked for."""
    symbols = subprocess.run([TOOL + "nm", "-u", *objects], check=True, capture_output=True, text=True).stdout
    asked = sorted(set(re.findall(r"\bU (__\w+)", symbols)))
    assert not [
        name for name in asked if re.match(r"__(aeabi_([fd](?!iv)|[ui]l?2[fd])|\w*[sdt]f\d?$)", name)
    ], asked
    assert "__aeabi_lmul" in asked, "the list of symbols was not read"
    assert not re.search(r"\b(malloc|calloc|free|printf)\b", symbols)


def test_code_size(objects: list[Path]) -> None:
    lines = subprocess.run([TOOL + "size", *objects], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in lines.splitlines()[1:]]
    text = {Path(row[5]).stem: int(row[0]) for row in rows}
    in_frame = [name for name in text if name.startswith("model_") or name in ("nn_nn", "nn_op")]
    frame = sum(text[name] for name in in_frame)
    operators = sum(text.values()) - frame
    print(f"engine, Cortex-M0, -Os: {frame} + {operators} bytes of code and tables")
    assert frame <= FRAME_BYTES
    assert operators <= OPERATORS_BYTES
    assert all(row[1] == row[2] == "0" for row in rows), "no variables: the caller owns all memory"


def read_calls(objects: list[Path]) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Stack of each function, and who calls whom; names carry their file when they are static."""
    stack: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    for target in objects:
        text = target.with_suffix(".ci").read_text()
        for title, used in re.findall(r'node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes', text):
            stack[title] = int(used)
        for source, called in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', text):
            calls.setdefault(source, set()).add(called)
    return stack, calls


def short(title: str) -> str:
    return title.rsplit(":", 1)[-1]


def deepest(
    title: str, stack: dict[str, int], calls: dict[str, set[str]], path: tuple[str, ...] = ()
) -> tuple[int, tuple[str, ...]]:
    """Worst stack below and including a function, and the chain of calls that needs it."""
    assert title not in path, f"recursion: {path}"
    chains = [deepest(called, stack, calls, (*path, title)) for called in calls.get(title, ())]
    below, chain = max(chains, default=(0, ()))
    return stack.get(title, 0) + below, (title, *chain)


def test_stack(objects: list[Path]) -> None:
    """The worst chain of every public call, calls through the operator table included."""
    stack, calls = read_calls(objects)
    for title in list(stack):
        pattern = THROUGH_POINTERS.get(short(title))
        if pattern and "__indirect_call" in calls.get(title, ()):
            calls[title].discard("__indirect_call")
            calls[title] |= {t for t in stack if ":" in t and re.fullmatch(pattern, short(t))}
    left = {title for title, called in calls.items() if "__indirect_call" in called}
    assert not left, f"calls through pointers that THROUGH_POINTERS does not name: {left}"
    worst = {}
    for entry in ("kf_model_open", "kf_nn_begin", "kf_nn_step", "kf_nn_macs", "kf_nn_features"):
        worst[entry], chain = deepest(entry, stack, calls)
        print(f"{entry}: {worst[entry]} bytes: {' > '.join(f'{short(t)} {stack.get(t, 0)}' for t in chain)}")
    assert worst["kf_nn_step"] > stack["kf_nn_step"] + 300, "the operators were not reached"
    assert max(worst.values()) <= STACK_BYTES, worst
