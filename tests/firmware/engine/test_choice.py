"""An engine with a part of the operators, and one with an operator more: the one that PORTING.md shows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import engine_models
import numpy as np
import pytest
from engine_models import INT8
from engine_runner import BUILD, ERR_UNSUPPORTED, OK, ROOT, Engine, build, operators, oracle

FAULT_OPERATOR = 6
TABLE = (ROOT / "firmware" / "src" / "nn" / "ops.def").read_text()
CHOSEN = {"CONV_2D", "RELU", "CONCATENATION"}


def table(name: str, lines: list[str]) -> str:
    """A compiler flag for a table of these lines, in a file that changes only when they do."""
    path = BUILD / f"{name}.def"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return f'-DKF_OPS_FILE="{path}"'


@pytest.fixture(scope="module")
def part() -> Iterator[Engine]:
    lines = [line for line in TABLE.splitlines() if line[6:].split(",")[0] in CHOSEN]
    assert len(lines) == len(CHOSEN)
    runner = Engine(build("runner-part", flags=["-O1", table("part", lines)]))
    yield runner
    runner.close()


@pytest.mark.parametrize("seed", range(30))
def test_what_is_left_out_is_refused_by_place(part: Engine, seed: int) -> None:
    """The first operator that is not linked is named, with the fault of one that nobody ever wrote."""
    model = engine_models.random_model(seed)
    unpacked = engine_models.unpack(model)
    names = {getattr(engine_models.schema.BuiltinOperator, name): name for name in operators()}
    used = [
        names[unpacked.operatorCodes[op.opcodeIndex].builtinCode] for op in unpacked.subgraphs[0].operators
    ]
    opened = part.open(model)
    missing = [i for i, name in enumerate(used) if name not in CHOSEN]
    if missing:
        found = (opened.status, opened.fault, opened.error_op)
        assert found == (ERR_UNSUPPORTED, FAULT_OPERATOR, missing[0])
    else:
        assert opened.status == OK


@pytest.mark.parametrize("kind", ["conv", "residual", "concatenation", "relu"])
def test_the_rest_computes_as_before(part: Engine, kind: str) -> None:
    done = 0
    for seed in range(20):
        model = engine_models.one_op(kind, seed)
        if part.open(model).status == OK:
            inputs = engine_models.random_inputs(model, seed, 1)
            assert part.run(inputs[0].tobytes())[1] == oracle(model, inputs)[0], f"{kind} {seed}"
            done += 1
    assert done or kind == "residual", "a model of these operators alone was never drawn"


def abs_model(seed: int) -> bytes:
    """ABS within one quantization, and between two."""
    rng = np.random.default_rng(seed)
    net = engine_models.Net(rng, [1, int(rng.integers(1, 9)), 7, 3])
    scale, zero_point = net.quantization()
    other = float(np.float32(scale * np.exp(rng.uniform(-1, 1)))), int(rng.integers(-128, 128))
    scale, zero_point = (scale, zero_point) if seed % 3 == 0 else other
    y = net.tensor(net.shape(), INT8, ([scale], [zero_point]))
    net.operator(engine_models.schema.BuiltinOperator.ABS, [net.last], y)
    return net.finish()


def test_the_operator_of_the_guide(engine: Engine) -> None:
    """PORTING.md's example, as one C file and the line that it names: computes what the reference does."""
    guide = (ROOT / "firmware" / "PORTING.md").read_text()
    code = re.search(r"```c\n(.*?)```", guide, re.DOTALL)
    line = re.search(r"`(KF_OP\(ABS, [^`]*\))`", guide)
    assert code is not None and line is not None
    assert engine.open(abs_model(0)).fault == FAULT_OPERATOR
    changing = hashlib.sha256((code[1] + line[1] + TABLE).encode()).hexdigest()[:12]
    folder = BUILD / f"guide-{changing}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "abs.c").write_text(code[1])
    (folder / "declared.h").write_text('#include "nn/op.h"\nextern const kf_op_t kf_op_abs;\n')
    flags = ["-O1", f"-I{ROOT / 'firmware' / 'src' / 'nn'}", table(f"{folder.name}/ops", [TABLE, line[1]])]
    flags += ["-include", str(folder / "declared.h"), str(folder / "abs.c")]
    runner = Engine(build(f"runner-{folder.name}", flags=flags))
    try:
        for seed in range(60):
            model = abs_model(seed)
            inputs = engine_models.random_inputs(model, seed, 2)
            assert runner.open(model).status == OK
            assert [runner.run(x.tobytes())[1] for x in inputs] == oracle(model, inputs), seed
    finally:
        runner.close()
