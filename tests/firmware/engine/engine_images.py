"""Random image models that a plan can stream: runs of convolutions, poolings and additions of batch 1."""

from __future__ import annotations

import engine_models
import numpy as np
from engine_models import Net, average_pool, conv, depthwise, max_pool, residual

_STEPS = [conv, conv, depthwise, average_pool, max_pool, residual]
_HEIGHTS, _WIDTHS, _CHANNELS = [5, 8, 11, 13, 19, 24], [1, 3, 5, 8], [1, 2, 3, 5, 8]
_ELEMENTS_MOST = 6000


def image_model(seed: int) -> bytes:
    """Three to nine operators, most of which can run row by row; sometimes a MEAN at the end."""
    rng = np.random.default_rng([seed, 1])
    net = Net(rng, [1, int(rng.choice(_HEIGHTS)), int(rng.choice(_WIDTHS)), int(rng.choice(_CHANNELS))])
    for _ in range(int(rng.integers(3, 8))):
        if np.prod(net.shape()) > _ELEMENTS_MOST:
            break
        _STEPS[int(rng.integers(len(_STEPS)))](net)
    if rng.random() < 0.3:
        engine_models.mean(net)
    return net.finish()
