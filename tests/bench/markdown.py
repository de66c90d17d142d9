"""The tables of README.md, made of figures: what `python -m tests.bench --markdown` prints.

A table has a row a model or board and a column a core or quantity; a figure that is not there is a dash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .figure import Figure

CORES = ("m0", "m3", "m4f", "m7", "m33", "m55")
MODELS = {
    "digits": "digits",
    "kws": "KWS",
    "ic": "IC",
    "ad": "AD",
    "vww": "VWW",
    "ad_alike": "like AD",
    "vww_alike": "like VWW",
    "mnist_alike": "like the MNIST CNN",
}
ROWS = (
    ("instructions", "million instructions"),
    ("ratio_to_cmsis_nn", "by CMSIS-NN's"),
    ("cycles_model", "million modelled cycles"),
    ("cycles_ratio_to_cmsis_nn", "by CMSIS-NN's"),
    ("cycles_ratio_to_record", "by the record's"),
)
BYTES = (
    ("arena", "RAM"),
    ("arena_ratio_to_cmsis_nn", "by CMSIS-NN's"),
    ("flash", "flash"),
    ("flash_ratio_to_cmsis_nn", "by CMSIS-NN's"),
)


def tables(figures: Sequence[Figure]) -> Iterator[str]:
    """Each table of which any figure is there, as lines of Markdown."""
    values = {figure.name: figure.value for figure in figures}
    made = (_boards(values), _infer(values, ROWS), _infer(values, BYTES), _train(values))
    yield from (table for table in made if table)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _boards(values: Mapping[str, float | int | None]) -> str:
    names = sorted({name.split(".")[1] for name in values if name.startswith("board.")})
    parts = ("flash", "ram", "stack")
    rows = [[name, *(_number(values.get(f"board.{name}.{part}")) for part in parts)] for name in names]
    return _table(["board", "flash", "RAM", "stack"], rows)


def _infer(values: Mapping[str, float | int | None], wanted: Sequence[tuple[str, str]]) -> str:
    rows = []
    for model, title in MODELS.items():
        for figure, what in wanted:
            found = [values.get(f"infer.{model}.{core}.{figure}") for core in CORES]
            if any(value is not None for value in found):
                said = _millions if what.startswith("million") else _number
                rows.append([f"{title}: {what}" if figure == wanted[0][0] else what, *map(said, found)])
    return _table(["", *(core.upper() for core in CORES)], rows)


def _train(values: Mapping[str, float | int | None]) -> str:
    rows = []
    for what, title in (("", "32 features"), ("_of_64_features", "64 features")):
        found = [values.get(f"train.{core}.instructions_per_mac{what}") for core in CORES]
        if any(value is not None for value in found):
            rows.append([title, *map(_number, found)])
    return _table(["", *(core.upper() for core in CORES)], rows)


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:,}".replace(",", " ")


def _millions(value: float | int | None) -> str:
    """Three digits or more."""
    if value is None:
        return "-"
    return f"{value / 1e6:.2f}" if value >= 10e6 else f"{value / 1e6:.3f}"
