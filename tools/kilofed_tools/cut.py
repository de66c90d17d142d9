"""Cut a model between its backbone and its head, for a device whose backbone another engine runs.

    backbone   int8 features out; for that engine, any that reads .tflite
    head       features in; a device model like any other, a few kilobytes, for kilofed
    join       a head that was trained, back in the whole model

The head keeps its numbers, its labels and what is known of its features, so that what a device learns with it
is, byte for byte, what it would learn with the whole model.
"""

from __future__ import annotations

import numpy as np

from kilofed_tools import flat, heads, metadata
from kilofed_tools.errors import ModelContractError
from kilofed_tools.heads import backbone
from kilofed_tools.plan import with_plan
from kilofed_tools.prune import prune
from kilofed_tools.tflite import read_model

__all__ = ["backbone", "head", "join"]


def head(model: bytes) -> bytes:
    """The head of a device model as a device model: its input are the features, int8 [..., F].

    A model that is nothing but its head comes back with a memory plan, and otherwise as it was.
    ModelError, ModelContractError: it is no device model.
    """
    parsed = read_model(model)
    spec = heads.find_head(parsed)
    meta = heads.read_meta(parsed, spec.features)
    graph = parsed.subgraph
    graph.values["operators"] = [op.table for op in parsed.operators if op.index >= spec.op]
    graph.values["inputs"] = np.array([spec.features_tensor], np.int32)
    cut = flat.write(prune(parsed.tree))
    if meta is not None:
        moved = metadata.HeadMeta(0, meta.ms, meta.calib, meta.lr, meta.batch, meta.epochs)
        cut = metadata.write_metadata(cut, metadata.HEAD, metadata.encode_head_meta(moved))
    return with_plan(cut)


def join(model: bytes, trained: bytes) -> bytes:
    """`model` with the head of `trained`, which was cut from it or from a later round of it; in place.

    HeadError: a head of another shape. ModelContractError: features of another scale, so that the head was
    trained behind another backbone.
    """
    spec, other = heads.find_head(model), heads.find_head(trained)
    if (spec.s_x, spec.zp_x) != (other.s_x, other.zp_x):
        raise ModelContractError(
            "the head was trained on features of another scale than this model's backbone gives",
            "join it with the model that it was cut from",
        )
    return heads.write_head(model, heads.read_head(trained))
