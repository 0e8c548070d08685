"""A test draws the same numbers whatever ran before it: a failure says something about the code, and can be repeated.

Fixtures of a module and child processes seed themselves.

`pytest --hypothesis-profile default` lets Hypothesis look for new examples.
"""

import itertools
import random

import numpy as np
import pytest
import torch
from gymnasium.utils import seeding
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Global generators start anew; environments and spaces that nobody seeds get the seeds 0, 1, 2, ..."""
    for start in (random.seed, np.random.seed, torch.manual_seed):
        start(0)
    seeds, generator = itertools.count(), seeding.np_random
    monkeypatch.setattr(seeding, "np_random", lambda seed=None: generator(next(seeds) if seed is None else seed))
