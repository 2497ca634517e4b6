"""A zoo of awkward models and training loops, and an independent record of their gradients.

Nothing of gradprobe is in here. A case builds a model and trains it for three iterations or more the way such
models are trained. One whose point is the model is `plain`; the others are functions of a `Loop`, and those that
write it out say ``record.read()`` where every gradient stands as the optimizer is about to use it.
"""

# ruff: noqa: F401  (each module of cases adds its own to CASES)
from support.cases import in_place, layer_kinds, optimizers, ownership, precision, reached, training_loops
from support.cases.loop import CASES, Loop, data, mlp, run, sgd, squared, threads
from support.cases.recorder import MEASURES, Bare, Recorder, bits
