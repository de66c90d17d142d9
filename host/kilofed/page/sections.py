"""The page, section by section. Every plot has its figures in a table beside it."""

from __future__ import annotations

import math
import shlex
from datetime import datetime, timezone
from importlib import resources

from kilofed.page import bars, charts, grids
from kilofed.page.facts import Facts, MemoryFacts
from kilofed.page.markup import Child, Element, el, table
from kilofed.page.scales import percent, seconds, size
from kilofed.rounds.records import Kind, RoundRecord

# Looks of the series, the same in every plot.
GLOBAL, PERSONAL, CENTRAL, ALONE = 0, 1, 2, 3

_SAYS = {
    "accuracy_test": "accuracy on the test set",
    "accuracy_own": "accuracy on the devices' own held-out samples",
}


def page(facts: Facts) -> str:
    """The whole page, as text."""
    style = resources.files("kilofed.page").joinpath("page.css").read_text(encoding="utf-8")
    title = f"kilofed run {facts.name}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        # Nothing may be loaded and nothing may run, whatever a device is called.
        el(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        _style(style),
    )
    body = el(
        "body",
        el(
            "main",
            _opening(facts, title),
            learnt(facts),
            devices(facts),
            confusion(facts),
            lost(facts),
            memory(facts),
            again(facts),
        ),
    )
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en', xmlns='http://www.w3.org/1999/xhtml')}\n"


def _style(text: str) -> Element:
    """The style sheet as an element.

    An HTML parser takes its content as it is, an XML parser does not, so it must not have what is escaped.
    """
    clean = text.replace('"', "").replace("'", "")
    # Quotes are only around names of fonts, which need none; comments may have any.
    if any(c in clean for c in "&<>"):
        raise ValueError("page.css must do without &, < and >")
    return el("style", clean)


def figure(drawing: Element | None, caption: str, details: Element | None = None) -> Element | None:
    """A drawing with its caption and, folded up, its table."""
    if drawing is None:
        return None
    folded = el("details", el("summary", "as a table"), details) if details is not None else None
    return el("figure", el("div", drawing, class_="canvas"), el("figcaption", caption), folded)


def _section(name: str, title: str, *children: Child) -> Element:
    heading = el("h2", title, id=f"{name}-title")
    return el("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


# ---- the beginning -------------------------------------------------------------------------------


def _opening(facts: Facts, title: str) -> Element:
    report, accuracy = facts.report, facts.report["accuracy"]
    begun = datetime.fromtimestamp(report["created"], timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    done, wanted = len(facts.rounds), facts.config.rounds
    state = {
        "finished": f"Finished: {_count(done, 'round')}",
        "going on": f"Going on: {done} of {_count(wanted, 'round')} so far",
        "stopped": f"Stopped after {done} of {_count(wanted, 'round')}",
    }[facts.state]
    line = f"{state} with {_count(report['devices'], 'device')}, begun {begun}."
    traffic = report["bytes_per_device_round"]
    tiles = [
        ("federated, on the test set", percent(accuracy["federated"])),
        ("each device alone, on average", percent(accuracy["alone"])),
        ("all data in one place", percent(accuracy["central"])),
        ("personal heads, on held-out samples", percent(accuracy["personal"])),
        ("up and down, a device and round", _both(traffic["up"], traffic["down"])),
        ("all rounds together", seconds(report["seconds"])),
    ]
    shown = [
        el("div", el("dt", name), el("dd", value), class_="tile") for name, value in tiles if value != "–"
    ]
    return el("header", el("h1", title), el("p", line, class_="soft"), el("dl", *shown, class_="tiles"))


def _both(up: float | None, down: float | None) -> str:
    return "–" if up is None else f"{size(up)} + {size(down)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# ---- what was learnt -----------------------------------------------------------------------------


def learnt(facts: Facts) -> Element:
    """Curves of accuracy, on the test set and on the devices' own samples."""
    if not facts.rounds:
        return _section("learnt", "What was learnt", el("p", "No round has ended yet."))
    accuracy, held_out = facts.report["accuracy"], facts.report["held_out"]
    on_test = charts.accuracy_curves(
        _SAYS["accuracy_test"],
        [charts.Curve("global", GLOBAL, tuple((r.number, r.accuracy) for r in facts.rounds))],
        _references(accuracy["alone"], accuracy["central"]),
    )
    own = charts.accuracy_curves(
        _SAYS["accuracy_own"],
        [
            charts.Curve("global", GLOBAL, _global_on_own(facts)),
            charts.Curve("personal", PERSONAL, tuple((r.number, r.own_accuracy) for r in facts.rounds)),
        ],
        _references(held_out["alone"], held_out["central"]),
    )
    plots = [
        figure(
            on_test,
            "The global head after each round. Alone: each device trained by itself, the mean of all;"
            " central: all data trained in one place; both as long as the run.",
        ),
        figure(
            own,
            "Pooled over the devices. Global: the head a round made, measured when the next began; personal:"
            " the heads the devices trained in the round.",
        ),
    ]
    missing = None
    if on_test is None:
        missing = el(
            "p",
            "There is no test set: this host has no samples of its own, so the curves are what the devices"
            " report of their held-out samples.",
            class_="note",
        )
    return _section(
        "learnt",
        "What was learnt",
        missing,
        el("div", *plots, class_="plots"),
        _exported(facts),
        el("details", el("summary", "every round as a table"), _rounds_table(facts)),
    )


def _references(alone: float | None, central: float | None) -> list[charts.Reference]:
    lines = [("central", CENTRAL, central), ("alone", ALONE, alone)]
    return [charts.Reference(name, look, value) for name, look, value in lines if value is not None]


def _global_on_own(facts: Facts) -> tuple[tuple[int, float | None], ...]:
    """The global head after round n is measured on the devices when round n + 1 begins."""
    points = [(r.number - 1, r.base_accuracy) for r in facts.rounds]
    if facts.personal is not None:
        points.append((facts.personal.number, facts.personal.base_accuracy))
    return tuple(p for p in points if p[0] > 0)


def _exported(facts: Facts) -> Element | None:
    exported = facts.report["accuracy"]["exported"]
    if exported is None:
        return None
    return el(
        "p",
        f"The exported file, run whole by a TFLite runtime: {percent(exported)} on the test set.",
        class_="note",
    )


def _rounds_table(facts: Facts) -> Element:
    records = [*facts.rounds, *([facts.personal] if facts.personal else [])]
    return table(
        "Rounds. Accuracies: test set, of the head that came out; received and trained, of the heads the"
        " devices began with and made of them, on their own held-out samples. Bytes: mean a device.",
        (
            "round",
            "test set",
            "received",
            "trained",
            "loss",
            "taken",
            "samples",
            "seconds",
            "up",
            "down",
            "ended",
        ),
        [_round_row(record) for record in records],
        align="lrrrrrrrrrl",
    )


def _round_row(record: RoundRecord) -> tuple[Child, ...]:
    taken = record.taken
    personal = record.kind is Kind.PERSONAL
    return (
        "personal" if personal else record.number,
        percent(record.accuracy),
        percent(record.base_accuracy),
        percent(record.own_accuracy),
        "–" if record.loss is None else f"{record.loss:.3f}",
        f"{len(taken)}/{len(record.devices)}",
        sum(d.samples for d in taken),
        f"{record.seconds:.2f}",
        size(sum(d.bytes_up for d in taken) / len(taken) if taken else None),
        size(sum(d.bytes_down for d in taken) / len(taken) if taken else None),
        record.ended.value,
    )


# ---- devices -------------------------------------------------------------------------------------


def devices(facts: Facts) -> Element:
    """A bar a device: samples, accuracy, bytes, time."""
    found = facts.devices
    if not found:
        return _section("devices", "Devices", el("p", "No device has come yet."))
    known = all(d.placed is not None for d in found)
    plots = [
        figure(
            _samples(facts, known),
            "Samples a device holds, those it keeps for measuring included; each part is a class."
            if known
            else "Samples a device says it holds: those it trains on, and, paler, those it keeps for"
            " measuring. Of which class they are is known to the device alone.",
            _classes_table(facts) if known else None,
        ),
        figure(
            bars.points(
                _SAYS["accuracy_own"].replace("the devices' own", "its own"),
                [("alone", ALONE), ("global", GLOBAL), ("personal", PERSONAL)],
                [(d.name, [d.alone, d.federated, d.personal]) for d in found],
                "Accuracy of each device's held-out samples: alone, with the global head and with its"
                " personal head. The table of devices has the figures.",
                unit="accuracy",
            ),
            "After the last round. Alone: trained by itself; global: the head all devices made; personal:"
            " that head, trained on by the device.",
        )
        if any(v is not None for d in found for v in (d.alone, d.federated, d.personal))
        else None,
        figure(
            bars.grouped(
                "bytes on the wire",
                ["up", "down"],
                [(d.name, [d.up, d.down]) for d in found],
                size,
                "Mean bytes a round, up and down, of each device. The table of devices has the figures.",
                unit="bytes, mean of a device's rounds",
            ),
            "Everything counts: updates or heads, frames and checks, acknowledgements, progress.",
        ),
        figure(
            bars.grouped(
                "time to train",
                ["time"],
                [(d.name, [d.seconds]) for d in found],
                seconds,
                "Mean seconds a round from order to result, by each device's own clock. The table of devices"
                " has the figures.",
                unit="seconds from order to result, mean of a device's rounds",
            ),
            "By the device's own clock. An emulated board's clock is not that of the board.",
        ),
    ]
    rows: list[tuple[Child, ...]] = [
        (
            d.name,
            d.board,
            d.firmware,
            d.samples,
            d.held_out,
            f"{d.taken}/{d.taken + d.dropped}",
            percent(d.alone),
            percent(d.federated),
            percent(d.personal),
            size(d.up),
            size(d.down),
            seconds(d.seconds),
        )
        for d in found
    ]
    header = (
        "device", "board", "firmware", "trains on", "held out", "rounds", "alone", "global", "personal",
        "up", "down", "time",
    )  # fmt: skip
    return _section(
        "devices",
        "Devices",
        el("div", *plots, class_="plots"),
        table(
            "Devices. Accuracies on its own held-out samples; bytes and time are means a round.",
            header,
            rows,
            align="lllrrrrrrrrr",
        ),
    )


def _samples(facts: Facts, known: bool) -> Element:
    rows = []
    for d in facts.devices:
        if known and d.placed is not None:
            parts = [
                bars.Part(k, n, facts.labels[k], f"{d.name}, class {facts.labels[k]}: {n} samples")
                for k, n in enumerate(d.placed)
            ]
        else:
            parts = [
                bars.Part(0, d.samples, str(d.samples), f"{d.name}: {d.samples} to train on"),
                bars.Part(4, d.held_out, str(d.held_out), f"{d.name}: {d.held_out} held out"),
            ]
        rows.append((d.name, parts))
    title = "samples by class" if known else "samples"
    said = f"{title.capitalize()} of each device. " + (
        "A table of them follows." if known else "The table of devices has the figures."
    )
    return bars.stacked(title, rows, lambda amount: f"{amount:.0f}", said, unit="samples")


def _classes_table(facts: Facts) -> Element:
    rows: list[tuple[Child, ...]] = [
        (d.name, *(n for n in d.placed or ()), sum(d.placed or ())) for d in facts.devices
    ]
    return table("Samples by class.", ("device", *facts.labels, "all"), rows)


# ---- confusion -----------------------------------------------------------------------------------


def confusion(facts: Facts) -> Element:
    """The confusion matrix of the exported model, and each class's figures."""
    counts = facts.confusion
    title = "What the exported model confuses"
    if counts is None:
        why = (
            "It is measured when the run is finished, if there is a test set."
            if facts.state != "finished"
            else "This run has no test set to measure it on. `kilofed eval` measures a model on your samples."
        )
        return _section("confusion", title, el("p", why, class_="note"))
    classes = range(len(counts))
    total, right = sum(map(sum, counts)), sum(counts[i][i] for i in classes)
    rows: list[tuple[Child, ...]] = []
    for i in classes:
        held, named = sum(counts[i]), sum(row[i] for row in counts)
        worst = max((c for c in classes if c != i), key=lambda c: counts[i][c])
        rows.append(
            (
                facts.labels[i],
                held,
                counts[i][i],
                percent(counts[i][i] / held if held else None),
                percent(counts[i][i] / named if named else None),
                f"{facts.labels[worst]} ({counts[i][worst]})" if counts[i][worst] else "–",
            )
        )
    classes_table = table(
        "Classes. Found: share of its samples that the model names so; right when named: share of what the"
        " model names so that is so.",
        ("class", "samples", "right", "found", "right when named", "most often taken for"),
        rows,
        align="lrrrrl",
    )
    whole = table(
        "Counts: a row is what it is, a column what the model says.",
        ("is \\ says", *facts.labels),
        [(facts.labels[r], *row) for r, row in enumerate(counts)],
    )
    matrix = figure(grids.confusion_matrix(counts, facts.labels), f"{total} test samples.", whole)
    return _section(
        "confusion",
        title,
        el("p", f"{right} of {total} test samples are right ({percent(right / total if total else None)})."),
        el("div", matrix, el("div", classes_table), class_="plots"),
        None if matrix is not None else el("details", el("summary", "every count as a table"), whole),
    )


# ---- what did not count --------------------------------------------------------------------------


def lost(facts: Facts) -> Element:
    """Every contribution that did not count, and the run's log."""
    asked = sum(len(r.devices) for r in facts.rounds) + (len(facts.personal.devices) if facts.personal else 0)
    if facts.lost:
        said = f"{len(facts.lost)} of {_count(asked, 'contribution')} asked for did not count."
        content: Element = table(
            "Round, device and reason of each.",
            ("round", "device", "reason"),
            [(entry.round, entry.device, entry.reason) for entry in facts.lost],
            align="lll",
        )
    else:
        said = (
            f"Nothing was dropped: all {asked} contributions asked for counted." if asked else "Nothing yet."
        )
        content = el("p", said)
    log = None
    if facts.log:
        rows: list[tuple[Child, ...]] = [
            (datetime.fromtimestamp(n.at, timezone.utc).strftime("%H:%M:%S"), n.device or "–", n.text)
            for n in facts.log
        ]
        lines = table("The run's log, times in UTC.", ("time", "device", "what"), rows, align="lll")
        log = el("details", el("summary", f"the run's log ({_count(len(rows), 'line')})"), lines)
    return _section("lost", "What was dropped, and why", el("p", said) if facts.lost else None, content, log)


# ---- memory --------------------------------------------------------------------------------------


def memory(facts: Facts) -> Element:
    """The model's memory plan, and each board's memory block."""
    plan = facts.memory
    title = "Where the model's memory goes"
    if isinstance(plan, str):
        return _section("memory", title, el("p", f"There is no plan: {plan}.", class_="note"))
    whose = "the plan in the file" if plan.from_file else "the device's own plan, as the file has none"
    rows: list[tuple[Child, ...]] = [
        (
            area.name,
            area.kind,
            area.offset,
            area.size,
            grids.operator_name(area.first, plan),
            grids.operator_name(area.last, plan),
            area.note(plan.names),
        )
        for area in plan.areas
    ]
    areas = table(
        "Areas of the arena, in bytes; written by, read last by.",
        ("what", "type", "from byte", "bytes", "written by", "last read by", "how it is saved"),
        rows,
        align="llrrlll",
    )
    shown = figure(
        grids.memory_map(plan),
        "Each box is a tensor: as wide as it lives, as high as it is large. Boxes one above the other live at"
        " once; grey ones are an operator's scratch; where columns are shared, an output takes an input's"
        " place. A ring holds some rows of a tensor that never exists whole: its operators run in turns.",
        areas,
    )
    gap = (
        "which no plan can go below"
        if plan.arena_bytes == plan.bound_bytes
        else f"{plan.arena_bytes - plan.bound_bytes} more than no plan can go below"
    )
    return _section(
        "memory",
        title,
        el("p", f"One inference needs an arena of {plan.arena_bytes} bytes, {gap} ({whose})."),
        shown,
        *_blocks(plan),
    )


def _blocks(plan: MemoryFacts) -> list[Element | None]:
    if not plan.blocks:
        return []
    drawn = bars.stacked(
        "memory block by board",
        [
            (
                board,
                [bars.Part(k, n, name, f"{board}, {name}: {n} bytes") for k, (name, n) in enumerate(parts)],
            )
            for board, parts in plan.blocks
        ],
        size,
        "The parts of each board's memory block. A table of them follows.",
        unit="bytes",
    )
    names = [name for name, _ in plan.blocks[0][1]]
    rows: list[tuple[Child, ...]] = [
        (board, *(n for _, n in parts), sum(n for _, n in parts), plan.ram[board])
        for board, parts in plan.blocks
    ]
    parts_table = table("Bytes of each part.", ("board", *names, "block", "RAM of the board"), rows)
    caption = (
        "The one block of RAM that a device takes, arena included. Ring: its samples' features; master, work,"
        " residual: training; base, incoming, personal: heads; receive, send: a frame each."
    )
    return [el("h3", "On a board"), el("div", figure(drawn, caption, parts_table), class_="plots")]


# ---- again ---------------------------------------------------------------------------------------


def again(facts: Facts) -> Element:
    """Settings, and how to have the same again."""
    config = facts.config.as_json()
    deadlines = config.pop("deadlines")
    settings = {**config, **{f"deadline of {name}, s": value for name, value in deadlines.items()}}
    rows: list[tuple[Child, ...]] = [(name, _plain(value)) for name, value in settings.items()]
    run = shlex.quote(facts.report["run"])
    commands = [
        *([facts.command] if facts.command else []),
        f"kilofed report {run} --json",
        f"kilofed export {run} --round {len(facts.rounds)} --out model.tflite",
    ]
    who = f"kilofed {facts.version}" if facts.version else "kilofed"
    model: list[tuple[Child, ...]] = [
        ("model at the start", f"{facts.model_bytes} bytes, hash {facts.model_hash}"),
        ("head of the last round", facts.head_hash or "–"),
        ("newest model", facts.report["model"]),
        ("made by", who),
    ]
    said = (
        f"Everything random in the run comes from seed {facts.config.seed}. The first command runs it again;"
        " add --out for another folder."
        if facts.command
        else f"Everything random in the run comes from seed {facts.config.seed}; the command that started it"
        " is not known."
    )
    return _section(
        "again",
        "Settings, and how to run it again",
        el("p", said),
        el("pre", "\n".join(commands)),
        table("Files.", ("what", "which"), model, align="ll"),
        table("Settings.", ("setting", "value"), rows, align="lr"),
    )


def _plain(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return str(value)
