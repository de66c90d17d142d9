"""`learning.digits.*`: accuracy on 1000 test images: each device alone, federated, all data together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kilofed.baselines import compute_baselines
from kilofed.demo import CONFIG, make_fleet
from kilofed.samples import digits_pool, digits_test
from kilofed_tools import evaluate, heads
from kilofed_tools.updates import Codec

from . import federation
from .figure import Figure

COMMAND = "python -m tests.bench --only learning"

#: name -> codec of the updates; the demo's has the plain name.
FEDERATED = {"federated": Codec.INT8, "federated_ternary": Codec.TERNARY}


def figures(root: Path) -> Iterator[Figure]:
    """The demo's partition, settings and number of rounds; the exported int8 head is what is measured."""
    model = (root / "models" / "digits" / "digits.tflite").read_bytes()
    test = digits_test()
    shards = {place.name: place.samples for place in make_fleet(digits_pool(), native=True, seed=CONFIG.seed)}
    baselines = compute_baselines(model, shards, CONFIG, test=test)
    spec = heads.find_head(model)
    rows = evaluate.features(model, test.inputs)
    fleet = federation.places(model)
    scores = {"alone": baselines.alone.test, "central": baselines.central.test}
    for name, codec in FEDERATED.items():
        *_, last = federation.run(model, fleet, codec)
        scores[name] = evaluate.head_accuracy(last.after, rows, test.labels, spec)
    for name, score in scores.items():
        yield Figure(
            f"learning.digits.{name}", None if score is None else round(score, 4), "fraction", COMMAND
        )
