"""Drop what nothing in a model uses any more, after operators were cut off or replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilofed_tools import metadata
from kilofed_tools.flat import Table


def prune(tree: Table) -> Table:
    """Drop what nothing uses: tensors, operator codes and buffers, renumbering the rest in order. Changes
    `tree`.

    Signatures follow the graph's inputs and outputs by position; one that cannot follow is dropped. A memory
    plan counts tensors, so it is dropped as well.
    """
    graph = tree.tables("subgraphs")[0]
    tensors, operators = graph.tables("tensors"), graph.tables("operators")
    ends = (graph.numbers("inputs"), graph.numbers("outputs"))
    used = {int(i) for end in ends for i in end}
    for op in operators:
        for name in ("inputs", "outputs", "intermediates"):
            used.update(int(i) for i in op.numbers(name) if i >= 0)
    order = sorted(used)
    renumber = {old: new for new, old in enumerate(order)} | {-1: -1}

    def mapped(values: NDArray[Any]) -> NDArray[np.int32]:
        return np.array([renumber[int(i)] for i in values], np.int32)

    graph.values["tensors"] = [tensors[i] for i in order]
    for op in operators:
        for name in ("inputs", "outputs", "intermediates"):
            if name in op.values:
                op.values[name] = mapped(op.numbers(name))
    graph.values["inputs"], graph.values["outputs"] = mapped(ends[0]), mapped(ends[1])
    _follow_signatures(tree, graph)
    codes = tree.tables("operator_codes")
    used_codes = sorted({op.number("opcode_index") for op in operators})
    tree.values["operator_codes"] = [codes[i] for i in used_codes]
    for op in operators:
        op.values["opcode_index"] = used_codes.index(op.number("opcode_index"))
    entries = [entry for entry in tree.tables("metadata") if entry.text("name") not in metadata.PLANS]
    tree.values["metadata"] = entries
    tree.values.pop("metadata_buffer", None)  # superseded by `metadata`, and by number
    holders = [*graph.tables("tensors"), *entries]
    buffers = tree.tables("buffers")
    full = [len(buffer.numbers("data")) > 0 for buffer in buffers]
    used_buffers = sorted({holder.number("buffer") for holder in holders if full[holder.number("buffer")]})
    # Number 0 is empty by convention; activations need no empty buffers of their own.
    tree.values["buffers"] = [Table("Buffer"), *(buffers[i] for i in used_buffers)]
    for holder in holders:
        old = holder.number("buffer")
        holder.values["buffer"] = 1 + used_buffers.index(old) if full[old] else 0
    return tree


def _follow_signatures(tree: Table, graph: Table) -> None:
    kept = []
    for signature in tree.tables("signature_defs"):
        pairs = [(signature.tables(end), graph.numbers(end)) for end in ("inputs", "outputs")]
        if all(len(maps) == len(ends) for maps, ends in pairs) and all(len(ends) == 1 for _, ends in pairs):
            for maps, ends in pairs:
                maps[0].values["tensor_index"] = int(ends[0])
            kept.append(signature)
    tree.values["signature_defs"] = kept
