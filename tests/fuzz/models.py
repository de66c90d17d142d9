"""Fuzz target: the Python tools on a .tflite that came from anywhere. The input is the file.

Promised, and checked: nothing but a KilofedError comes out, with a next step and in one line; what is read is
written back to the same bytes' meaning; a head that is read and written again changes nothing; what adapt()
makes anew is a device model that runs, and is left alone by a second adapt().
"""

from __future__ import annotations

import numpy as np

from kilofed_tools import heads, metadata
from kilofed_tools.adapt import adapt
from kilofed_tools.errors import KilofedError, ModelError
from kilofed_tools.evaluate import features
from kilofed_tools.operators import check_operators
from kilofed_tools.plan import device_plan, plan_model
from kilofed_tools.tflite import read_model

VALUES_MOST = 1 << 16  # of one tensor: what is larger is slow, and shows nothing new


def one_input(data: bytes) -> None:
    """One run."""
    try:
        model = read_model(data)
    except KilofedError as error:
        check_error(error)
        return
    if any(tensor.elements > VALUES_MOST for tensor in model.tensors):
        return
    for name in (metadata.HEAD, metadata.LABELS, *metadata.PLANS):
        metadata.read_metadata(model, name)
    try:
        check_operators(model)
        device_plan(model)
        plan_model(model)
    except KilofedError as error:
        check_error(error)
    try:
        _as_device_model(data)
    except KilofedError as error:
        check_error(error)
    try:
        adapted = adapt(data).model
    except KilofedError as error:
        check_error(error)
        return
    if adapted != data:  # else it was looked at above, and a runtime may refuse it: with a sentence
        _as_device_model(adapted)
    assert adapt(adapted).model == adapted


def _as_device_model(data: bytes) -> None:
    """Everything a run does with its model; raises the ModelError of one that is none."""
    spec = heads.find_head(data)
    head = heads.read_head(data)
    assert head.weights.shape == (spec.classes, spec.features)
    written = heads.write_head(data, head)
    assert len(written) == len(data)
    assert heads.encode_head(heads.read_head(written)) == heads.encode_head(head)
    assert heads.backbone_hash(written) == heads.backbone_hash(data)
    model = read_model(data)
    inputs = np.zeros((1, *model.tensors[model.inputs[0]].shape[1:]), np.int8)
    try:
        assert features(data, inputs).shape == (1, spec.features)
    except ModelError as error:  # an operator version of 2^29: what a runtime knows is its own to say
        check_error(error)


def check_error(error: KilofedError) -> None:
    """What a person is shown: two lines that say something."""
    for text in (error.what, error.next_step):
        assert text.strip() == text
        assert text
        assert "\n" not in text
        assert text.isprintable(), repr(text)
