"""Building firmware: what comes out is what was predicted, to the byte of the linker's map."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kilofed.boards import Board, Image, build, catalogue, fit, load, predict
from kilofed.boards.build import TOOLS
from kilofed.boards.build import link as link_image
from kilofed.boards.share import MODEL, Share, of_modules
from kilofed.errors import BuildError, FitError, ToolMissingError
from kilofed_tools.adapt import adapt
from kilofed_tools.errors import ModelError
from kilofed_tools.tflite import read_model

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits" / "digits.tflite"
FOREIGN = ROOT / "tests" / "data" / "foreign" / "plain.tflite"
OPERATORS = ROOT / "firmware" / "src" / "nn" / "ops.def"
IMAGES = [(board.name, way) for board in catalogue.all() for way in board.links]
MEMORY = (".vectors", ".header", ".text", ".data", ".bss", ".pool", ".model")

missing = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models that have nothing in common: the digits, and somebody's small one brought into form."""
    foreign = tmp_path_factory.mktemp("models") / "foreign.tflite"
    foreign.write_bytes(adapt(FOREIGN.read_bytes()).model)
    return {"digits": DIGITS, "foreign": foreign}


def sections(linker_map: str) -> dict[str, tuple[int, int, int]]:
    """Section -> (address, bytes, load address), of the output sections in GNU ld's map."""
    body = linker_map.split("Linker script and memory map")[1]
    pattern = re.compile(
        r"^(\.\w+)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)(?:\s+load address 0x([0-9a-f]+))?$", re.MULTILINE
    )
    found = {}
    for name, address, size, load_address in pattern.findall(body):
        found[name] = (int(address, 16), int(size, 16), int(load_address or address, 16))
    return {name: found[name] for name in MEMORY if name in found}


@pytest.mark.parametrize(("name", "link"), IMAGES)
@pytest.mark.parametrize("model", ["digits", "foreign"])
def test_a_prediction_equals_the_linker_map(
    name: str, link: str, model: str, models: dict[str, Path]
) -> None:
    board = load(name, link=link)
    data = models[model].read_bytes()
    predicted = predict(board, data)
    image = build(board, models[model])

    found = sections(Path(f"{image.elf}.map").read_text())
    in_flash = [found[s] for s in (".vectors", ".header", ".text", ".model")]
    flash_end = max(load_address + size for _, size, load_address in [*in_flash, found[".data"]])
    pool_address, pool_size, _ = found[".pool"]
    assert predicted.flash_bytes == flash_end - board.flash.origin == image.flash_bytes
    assert predicted.ram_bytes == pool_address + pool_size - board.ram.origin + board.stack_bytes
    assert predicted.ram_bytes == image.ram_bytes
    assert predicted.pool_bytes == pool_size == image.pool_bytes
    assert predicted.model_bytes == found[".model"][1] == len(data) == image.model_bytes
    assert found[".model"][0] % 16 == 0
    assert found[".model"][0] + found[".model"][1] == flash_end, "the model is last"
    assert image.model == data
    predicted.check()


@pytest.mark.parametrize("every", [False, True])
def test_an_image_computes_what_its_model_uses(every: bool) -> None:
    """Its operators and no others, or all of them when asked; the prediction knows of both."""
    board = load("microbit")
    image = build(board, DIGITS, all_operators=every)
    symbols = subprocess.run(["arm-none-eabi-nm", image.elf], check=True, capture_output=True, text=True)
    linked = set(re.findall(r" kf_op_(\w+)$", symbols.stdout, re.MULTILINE)) - {"find", "work"}
    named = dict(re.findall(r"^KF_OP\((\w+), (\w+),", OPERATORS.read_text(), re.MULTILINE))
    wanted = named.keys() if every else {op.name for op in read_model(DIGITS.read_bytes()).operators}
    assert linked == {named[name] for name in wanted}
    assert predict(board, DIGITS.read_bytes(), all_operators=every).flash_bytes == image.flash_bytes


@pytest.mark.parametrize(("name", "link"), IMAGES)
def test_an_image_has_no_floating_point_no_heap_and_a_known_stack(name: str, link: str) -> None:
    board = load(name, link=link)
    image = build(board, DIGITS)
    symbols = subprocess.run(
        ["arm-none-eabi-nm", image.elf], check=True, capture_output=True, text=True
    ).stdout.split()
    soft_float = re.compile(r"__aeabi_[fd]|__\w+[sd]f[23x]|(malloc|free|_sbrk|printf)$")
    assert [symbol for symbol in symbols if soft_float.match(symbol)] == []
    assert image.stack is not None
    assert image.stack.unresolved == ()
    assert 0 < image.stack.interrupt < image.stack.bytes <= board.stack_bytes
    assert image.stack.chain[0][0] == "kf_reset"
    assert sum(frame for _, frame in image.stack.chain) + image.stack.interrupt == image.stack.bytes


def test_the_small_board_keeps_two_kilobytes_free() -> None:
    board = load("microbit")
    taken = predict(board, DIGITS.read_bytes())
    assert board.ram.size - taken.ram_bytes >= 2048
    assert taken.ram_limit == board.ram.size - 2048


@pytest.mark.parametrize(("name", "link"), IMAGES)
def test_each_byte_is_a_modules(name: str, link: str) -> None:
    image = build(load(name, link=link), DIGITS)
    modules = of_modules(image)
    assert modules[MODEL] == Share(len(DIGITS.read_bytes()), 0)
    assert {"device", "link", "model", "monocypher", "nn", "port", "train", "zcbor"} <= set(modules)
    flash, ram = (sum(part) for part in zip(*((m.flash, m.ram) for m in modules.values()), strict=True))
    aligned = 512  # a word at most between sections, and there are hundreds
    assert image.flash_bytes - aligned < flash <= image.flash_bytes
    used = image.ram_bytes - image.pool_bytes - image.stack_bytes
    assert used - aligned < ram <= used


def test_what_is_lwips_is_told() -> None:
    image = build(load("mps2-an386", link="ethernet"), DIGITS)
    without = build("mps2-an386", DIGITS)
    modules, before = of_modules(image), of_modules(without)
    lwip = modules["lwip"]
    assert "lwip" not in before
    assert 0 < modules["device"].flash - before["device"].flash < 200, "the reader of the network block"
    # The rest is the driver, the pipe, and what is aligned; the pipe's ring is in place of the UART's.
    assert lwip.flash < image.flash_bytes - without.flash_bytes < lwip.flash + 4096
    assert lwip.ram < image.ram_bytes - without.ram_bytes < lwip.ram + 512
    assert lwip.flash < 22_000
    assert lwip.ram < 10_000


def test_the_same_model_is_not_built_twice() -> None:
    first = build("microbit", DIGITS)
    before = first.elf.stat().st_mtime_ns
    again = build("microbit", DIGITS)
    assert again == first
    assert again.elf.stat().st_mtime_ns == before


def test_two_models_do_not_disturb_each_other(tmp_path: Path, models: dict[str, Path]) -> None:
    moved = tmp_path / "moved, with a comma.tflite"
    shutil.copy(models["foreign"], moved)
    foreign = build("microbit", moved)
    moved.unlink()
    digits = build("microbit", DIGITS)
    assert foreign.elf != digits.elf
    assert foreign.elf.is_file()
    assert (foreign.model, digits.model) == (models["foreign"].read_bytes(), DIGITS.read_bytes())


def small(board: Board, *, ram: int = 0, flash: int = 0) -> Board:
    """The board with less memory."""
    return replace(
        board,
        ram=replace(board.ram, size=ram or board.ram.size),
        samples=replace(board.samples, origin=flash or board.samples.origin),
    )


@pytest.mark.parametrize(("memory", "short"), [("ram", 1), ("flash", 1), ("ram", 5000), ("flash", 5000)])
def test_a_model_too_big_is_refused_with_the_numbers(memory: str, short: int) -> None:
    board = load("microbit")
    bare = build(board)
    data = DIGITS.read_bytes()
    taken = fit.from_bare(board, bare, data)
    exact = small(board, ram=taken.ram_bytes + board.reserve_bytes, flash=taken.flash_bytes)
    fit.from_bare(exact, bare, data).check()

    limit = {"ram": taken.ram_bytes + board.reserve_bytes - short, "flash": taken.flash_bytes - short}[memory]
    tight = fit.from_bare(small(board, **{memory: limit}), bare, data)
    assert not tight.fits
    with pytest.raises(FitError) as error:
        tight.check()
    needed = {"ram": taken.ram_bytes, "flash": taken.flash_bytes}[memory]
    assert (error.value.memory, error.value.needed, error.value.available) == (memory, needed, needed - short)
    assert str(needed) in str(error.value)
    assert str(needed - short) in str(error.value)


def test_a_model_too_big_is_refused_before_it_is_linked(tmp_path: Path) -> None:
    """The data file's ring is part of the need: a board with a huge one has no room for any model."""
    board = replace(load("microbit"), ring_slots=65535)
    with pytest.raises(FitError, match=r"bytes of RAM, microbit has 14336 beside 2048 kept free"):
        build(board, DIGITS)


def test_the_linker_refuses_what_python_did_not(tmp_path: Path) -> None:
    """Built by hand with a pool that leaves no stack: the linker script says no."""
    with pytest.raises(BuildError, match="does not build") as error:
        link_image(load("microbit"), DIGITS.read_bytes(), pool_bytes=15000)
    assert "leave less than the board's stack_bytes" in error.value.log


def test_presets_build_by_hand(tmp_path: Path) -> None:
    """The way that CMakeLists.txt describes, without Python's help."""
    model = DIGITS
    pool = fit.pool_bytes(load("microbit"), model.read_bytes())
    subprocess.run(
        ["cmake", "--preset", "microbit", "-B", tmp_path, f"-DKF_MODEL={model}", f"-DKF_POOL_BYTES={pool}"],
        cwd=ROOT / "firmware",
        check=True,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run(["cmake", "--build", tmp_path], check=True, stdout=subprocess.DEVNULL)
    by_hand = (tmp_path / "image.elf.map").read_text()
    ours = Path(f"{build('microbit', model, all_operators=True).elf}.map").read_text()
    assert sections(by_hand) == sections(ours)


def test_what_is_no_model_is_refused_as_that(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.tflite"
    wrong.write_bytes(b"not a model at all, but long enough to look at")
    with pytest.raises(ModelError):
        build("microbit", wrong)
    with pytest.raises(ModelError, match=r"absent.tflite cannot be read: No such file"):
        build("microbit", tmp_path / "absent.tflite")


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "ninja" else f"/usr/bin/{tool}")
    with pytest.raises(
        ToolMissingError, match="ninja is not installed: install it: apt-get install ninja-build"
    ):
        build("microbit")


def test_a_compiler_error_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("microbit")  # so that the sources of others are there
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "firmware", copy / "firmware", ignore=shutil.ignore_patterns("pi"))
    (copy / "build").mkdir()
    (copy / "build" / "deps").symlink_to(ROOT / "build" / "deps")
    crc = copy / "firmware" / "src" / "link" / "crc32.c"
    crc.write_text(crc.read_text() + "\nint unused(void) { int wrong = 1u << 31; return 0; }\n")
    monkeypatch.setattr(catalogue, "repository", lambda: copy)
    with pytest.raises(BuildError, match=r"microbit does not build: .*crc32\.c:\d+:\d+: error: ") as error:
        build("microbit")
    assert "wrong" in error.value.log


def test_an_installed_package_has_no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    board = load("microbit")
    monkeypatch.setattr(catalogue, "repository", lambda: None)
    with pytest.raises(BuildError, match="no firmware sources: clone the repository"):
        build(board)


def test_images_are_equal_when_they_are() -> None:
    image: Image = build("mps2-an385")
    assert image.model == b""
    assert image.model_bytes == image.pool_bytes == 0
    assert image == build("mps2-an385")
    # The place of a model is aligned; how much code stands before it decides whether that is still inside.
    behind = replace(image.header, model_start=0x1000_0000, model_end=0x1000_0000)
    assert replace(image, header=behind).model == b""
