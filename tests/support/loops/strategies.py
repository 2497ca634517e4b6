"""Random programs: phrases that people write, in any order, with clears and frozen turns in any place."""

from __future__ import annotations

from hypothesis import strategies as st

from support.loops.nets import BLOCKS
from support.loops.program import (
    CLEARS,
    CLIPS,
    COMBINED,
    PENALTIES,
    PUT_BACK,
    Backward,
    Clear,
    Forward,
    Freeze,
    Functional,
    PerTask,
    Perturb,
    Program,
    Step,
    Take,
)

TERMS = st.sampled_from([(0, 1), (0,), (1,)])
PARTS = st.sampled_from(["all", "all", "trunk", "heads", "head a"])
KINDS = st.sampled_from(["SGD", "Adam", "momentum", "foreach"])
NUMBER = st.integers(0, 1)
RARELY = st.sampled_from([False, False, False, True])
SLOT = st.sampled_from([0, 0, 0, 1, 2])

clears = st.builds(Clear, st.sampled_from(CLEARS), NUMBER, PARTS)
usual_clears = st.builds(Clear, st.sampled_from(CLEARS[:4]), NUMBER)


def forwards(models):
    chains = [(0,)] if models == 1 else [(0,), (1,), (0, 1), (1, 0)]
    return st.builds(
        Forward,
        st.sampled_from(chains),
        st.sampled_from([None, None, 0, 1]),
        st.booleans(),
        st.sampled_from([None, None, None, True, False]),
        RARELY,
    )


def looks(models):
    """Forward passes that nothing is trained by."""
    chains = [(i,) for i in range(models)]
    return st.builds(Forward, st.sampled_from(chains), mode=st.sampled_from(["eval", "no_grad"]))


backwards = st.builds(
    Backward,
    SLOT,
    st.sampled_from([None, None, None, 1]),
    TERMS,
    st.sampled_from([None] * 7 + list(PENALTIES)),
    st.booleans(),
    NUMBER,
    st.sampled_from([None] * 8 + [0, 1]),
    st.sampled_from(["loss.backward", "loss.backward", "autograd.backward", "with gradient"]),
    st.sampled_from([False] * 19 + [True]),
)
takes = st.builds(
    Take, SLOT, TERMS, NUMBER, st.sampled_from(["looked at", "looked at", "set", "added", "copied"]), st.booleans()
)
tasks = st.builds(
    PerTask,
    SLOT,
    NUMBER,
    st.sampled_from(["backward", "backward", "autograd.grad"]),
    st.sampled_from(COMBINED),
    st.sampled_from(PUT_BACK),
    st.sampled_from([means for means in CLEARS if not means.startswith("model")]),
    NUMBER,
    st.sampled_from([None, None, None, 1]),
)
steps = st.builds(
    Step, NUMBER, st.sampled_from([None] * 5 + list(CLIPS)), st.booleans(), st.sampled_from([False] * 6 + [True])
)


@st.composite
def frozen_turns(draw, inner):
    target, part = draw(NUMBER), draw(PARTS)
    return [Freeze(target, False, part), *draw(inner), Freeze(target, True, part)]


@st.composite
def phrases(draw, models):
    """What belongs together in a loop."""
    one = forwards(models)
    plain = st.tuples(one, backwards)
    choices = [
        plain,
        plain,
        st.tuples(one, backwards, backwards),
        st.tuples(one, takes, backwards),
        st.tuples(one, tasks),
        st.tuples(one, takes),
        st.tuples(one),
        st.tuples(looks(models)),
        frozen_turns(plain),
        frozen_turns(st.tuples(one, backwards, steps)),
        sharpness_aware(one),
        st.builds(Functional, NUMBER, TERMS).map(lambda op: [op]),
        st.tuples(clears),
        st.tuples(usual_clears),
        st.tuples(steps),
        st.tuples(backwards),
        turns_of(one),
    ]
    return list(draw(st.one_of(choices)))


@st.composite
def turns_of(draw, forward):
    """A clear, a pass and a step of one optimizer, as everybody writes them."""
    target = draw(NUMBER)
    means = draw(st.sampled_from(CLEARS))
    return [Clear(means, target), draw(forward), draw(backwards), Step(target)]


@st.composite
def sharpness_aware(draw, forward):
    target, means = draw(NUMBER), draw(st.sampled_from(CLEARS))
    first, second = draw(st.tuples(forward, backwards)), draw(st.tuples(forward, backwards))
    return [*first, Perturb(target), Clear(means, target), *second, Perturb(target, back=True)]


@st.composite
def optimizers(draw, models):
    if models == 2:
        return tuple((draw(KINDS), i, "all") for i in range(2))
    held = draw(st.sampled_from([("all",), ("all",), ("trunk", "heads"), ("trunk",), ("heads",)]))
    kinds = st.one_of(KINDS, KINDS, KINDS, st.just("LBFGS")) if len(held) == 1 else KINDS
    return tuple((draw(kinds), 0, part) for part in held)


@st.composite
def programs(draw):
    models = draw(st.sampled_from([1, 1, 2]))
    nets = tuple(
        tuple(draw(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=0, max_size=3))) for _ in range(models)
    )
    held = draw(optimizers(models))
    parts = draw(st.lists(phrases(models), min_size=0, max_size=4))
    if draw(st.sampled_from([True, True, True, False])):  # most loops train something
        passes = [Forward((i,)) for i in range(models)]
        trained = [op for one in passes for op in (one, draw(backwards))]
        parts.insert(draw(st.integers(0, len(parts))), trained)
    body = [(op, draw(st.sampled_from([1, 1, 1, 1, 1, 1, 2]))) for part in parts for op in part]
    if draw(st.booleans()):
        body = [(Clear(draw(st.sampled_from(CLEARS)), i), 1) for i in range(len(held))] + body
    # a loop that never steps has nothing to record
    stepping = [i for i in range(len(held)) if draw(st.sampled_from([True] * 5 + [False]))]
    body += [(Step(i, unscale=draw(RARELY)), 1) for i in stepping]
    scalers = draw(st.sampled_from([(), (), (1024.0,), (1024.0, 16.0)]))
    return Program(
        nets,
        held,
        tuple(body),
        scalers,
        bool(scalers) and draw(st.booleans()),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from(["all", "all", "mean"])),
        draw(st.integers(0, 50)),
    )
