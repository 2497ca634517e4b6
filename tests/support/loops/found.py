"""Random loops that once had a wrong number, or none and no reason: each is the shortest of its kind."""

from __future__ import annotations

from support.loops.program import Backward, Clear, Forward, Freeze, Functional, PerTask, Program, Step, Take


def loop(*operations, nets=((),), held=(("Adam", 0, "all"),), turns=1, window=2, **others):
    body = tuple(one if isinstance(one, tuple) else (one, 1) for one in operations)
    return Program(nets, held, body, turns=turns, window=window, **others)


ALONE, LEAF = Forward((0,)), Forward((0,), leaf=True)
BOTH = (("momentum", 0, "all"), ("momentum", 1, "all"))
APART = (("SGD", 0, "trunk"), ("SGD", 0, "heads"))

FOUND = {
    "several derivatives, and then frozen": loop(
        *(ALONE, Backward(), Step(), ALONE, Take(terms=(1,), retain=False)),
        *(Functional(terms=(0,)), Freeze(0, False), Step()),
        seed=2,
    ),
    "frozen, with what nobody cleared": loop(
        *((Forward((1, 0)), 2), Backward(terms=(0,)), Functional(), Freeze(0, False, "head a"), Step()),
        nets=((), ()),
        held=BOTH,
        turns=2,
        stats="mean",
        seed=23,
    ),
    "frozen, with what was put into zeros": loop(
        *(ALONE, PerTask(how="autograd.grad", put="p.grad.copy_(g)"), Freeze(0, False), Step()),
        *(Freeze(0, True), Clear("p.grad.zero_")),
        held=(("Adam", 0, "heads"),),
        turns=2,
        seed=46,
    ),
    "few elements say something": loop(
        *((Forward((1,)), 2), ALONE, Backward(retain=True), Functional()),
        *(Backward(terms=(0,), penalty="parameter gradient"), Forward((1, 0), 1), Step()),
        nets=(("relu",), ()),
        held=BOTH,
        turns=2,
        stats="mean",
        seed=23,
    ),
    "clipped to one value": loop(
        *(ALONE, Backward(terms=(1,), means="with gradient"), Clear("_foreach_zero_")),
        *(ALONE, Backward(terms=(1,), means="with gradient"), Step(clip="value")),
        nets=(("linear", "relu"),),
        seed=13,
    ),
    "a derivative comes to the weights first": loop(
        *(ALONE, Backward(terms=(0,), means="with gradient"), Clear("p.grad.data.zero_")),
        *(Forward((0,), checkpointing=True), Backward(penalty="func.jvp"), Step(), Step(1)),
        nets=(("relu",),),
        held=APART,
        seed=46,
    ),
    "a derivative of what was frozen": loop(
        *(Freeze(0, False), Forward((1, 0)), Backward(terms=(0,), penalty="func.vmap", retain=True)),
        *(Freeze(0, True), Backward(terms=(0,), penalty="func.jvp"), Step()),
        nets=((), ()),
        held=BOTH,
        seed=27,
    ),
    "zeros go with what stood there": loop(
        *(ALONE, Backward(terms=(0,), penalty="func.grad"), ALONE, Backward(terms=(1,))),
        *(ALONE, Take(terms=(0,), target=1, then="set", retain=False), Step(), Step(1)),
        held=APART,
        seed=2,
    ),
    "what stood together goes together": loop(
        *(
            Backward(slot=1, terms=(1,), retain=True),
            Backward(slot=2, terms=(0,), penalty="func.jvp", retain=True, scaler=1),
        ),
        *(Take(target=1, then="copied", retain=False), ALONE, Step(1)),
        held=(("momentum", 0, "trunk"), ("momentum", 0, "heads")),
        turns=4,
        scalers=(1024.0, 16.0),
        seed=10,
    ),
    "a head that is cleared alone, after each loss' gradient was put back": loop(
        *(ALONE, Backward(), ALONE, PerTask(), Clear("p.grad.zero_", 0, "heads"), Step()),
        held=(("SGD", 0, "all"),),
    ),
    "one of two heads is cleared alone": loop(
        *(ALONE, Backward(), ALONE, PerTask(), Clear("p.grad.zero_", 0, "head a"), Step()),
        held=(("SGD", 0, "all"),),
    ),
    "a head that is cleared alone, of heads with an optimizer of their own": loop(
        *(ALONE, Backward(), ALONE, PerTask(target=1), Clear("p.grad.zero_", 1, "head a"), Step(), Step(1)),
        held=APART,
    ),
    "the same, and each loss' gradient was put back in place": loop(
        *(ALONE, PerTask(target=1, put="p.grad.copy_(g)"), Clear("p.grad.zero_", 1, "head a"), Step(), Step(1)),
        held=APART,
    ),
    "the same, and the losses are of two batches": loop(
        *(ALONE, ALONE, PerTask(target=1, how="autograd.grad", second=1)),
        *(Clear("p.grad = zeros", 1, "head a"), Step(), Step(1)),
        held=APART,
    ),
    "the same, and it was put back in place into one gradient of zeros": loop(
        *(ALONE, PerTask(put="p.grad.copy_(g)"), Clear("p.grad.zero_", 0, "head a"), Step()),
        held=(("SGD", 0, "all"),),
    ),
    "zeros of another pass are put in place of the zeros that stood there": loop(
        *(ALONE, Backward(terms=(1,)), ALONE, Take(terms=(1,), then="copied", retain=False), Step()),
        held=(("Adam", 0, "heads"),),
        turns=2,
        seed=14,
    ),
    "frozen in its turn, after a step without the pass that counts": loop(
        *(Freeze(0, False, "trunk"), Forward((0,), leaf=True), Backward(retain=True), (Step(), 2)),
        *(Freeze(0, True, "trunk"), Step()),
        turns=3,
        window=4,
        seed=22,
    ),
    "of two derivatives by torch.func the second is put in place of the first, where any is a multiple": loop(
        *(Functional(), Functional(), Step()),
        nets=(("relu",),),
        held=(("SGD", 0, "all"),),
        seed=2,
    ),
    "a derivative by torch.func is put there, and one head is cleared in place": loop(
        *(Functional(terms=(0,)), Clear("p.grad.zero_", 0, "heads"), ALONE, Backward(), Step()),
        held=(("SGD", 0, "all"),),
        seed=2,
    ),
    "a pass that is zero in one head is put in place of those that are zero in the other": loop(
        *(LEAF, Backward(terms=(0,), retain=True), Backward(terms=(0,)), Freeze(0, False, "trunk")),
        *(Take(slot=1, terms=(0,), target=1, then="added"), LEAF, Freeze(0, True, "trunk")),
        *((Take(terms=(1,), then="copied", retain=False), 2), Step(), Take(terms=(1,), then="copied")),
        *(Backward(inputs=1), Step()),
        held=(("SGD", 0, "all"),),
        scalers=(1024.0, 16.0),
        turns=2,
        window=4,
        seed=39,
    ),
    "of two optimizers one never steps, and its gradients keep a pass that the other's step has cleared": loop(
        *(Backward(terms=(0,)), Step(), ALONE, Backward(slot=1, terms=(1,), retain=True)),
        Clear("optimizer.zero_grad", 0, "all"),
        nets=(("frozen",),),
        held=APART,
        turns=4,
        window=3,
        seed=49,
    ),
    "a derivative by torch.func is a multiple of a pass, since only one number differs between examples": loop(
        *(ALONE, Backward(terms=(1,)), Functional(terms=(1,)), Step()),
        nets=(("relu", "norm"),),
        held=(("SGD", 0, "heads"),),
        seed=2,
    ),
    "a derivative by torch.func is a weighted sum of three passes, as any would be after a normalisation": loop(
        *(ALONE, Backward(), ALONE, Backward(), ALONE, Backward(), Functional(), Step()),
        nets=(("norm",),),
        held=(("SGD", 0, "heads"),),
    ),
    "a pass that is added by hand is too small to show": loop(
        *(ALONE, Take(then="set", retain=False), ALONE, Take(then="added", retain=False)),
        *(ALONE, Backward(), ALONE, Backward(), Step()),
        nets=(("relu", "frozen", "norm"),),
        held=(("SGD", 0, "all"),),
        turns=2,
        seed=2,
    ),
    "a pass that is added by hand turns a gradient by too little to show": loop(
        *(ALONE, ALONE, PerTask(how="autograd.grad", second=1, combined="projected")),
        *(ALONE, Backward(), ALONE, Take(then="added", retain=False), Step()),
        nets=(("relu", "frozen", "norm"),),
        held=(("SGD", 0, "all"),),
        turns=2,
        seed=2,
    ),
    "what clipping leaves is a weighted sum of two of three passes, as any would be": loop(
        *(ALONE, ALONE, PerTask(how="autograd.grad", second=1, combined="projected")),
        *(ALONE, Backward(), ALONE, Take(then="added", retain=False), Step(clip="value")),
        nets=(("relu", "norm"),),
        held=(("SGD", 0, "heads"),),
        seed=2,
    ),
    "a scaler divides what nobody clears, until a pass is too small to show": loop(
        *(ALONE, (Backward(slot=1, penalty="func.jacrev", scaler=1), 2), (Forward((1,)), 2)),
        *(Backward(slot=1, second=1, terms=(1,), penalty="func.vmap", retain=True),),
        *(Forward((0,), source=1, detached=True), (Forward((0,), source=1, detached=True), 2)),
        *(Take(slot=1, terms=(1,), then="added"), Step()),
        nets=(("relu", "norm", "residual"), ("relu", "linear")),
        held=(("Adam", 0, "all"), ("momentum", 1, "all")),
        scalers=(1024.0,),
        turns=4,
        window=4,
        seed=6,
    ),
    "of two derivatives by torch.func the second equals the first, and a pass that is zero was between": loop(
        *(Functional(terms=(1,)), ALONE, Backward(terms=(0,)), Functional(), Step()),
        nets=(("relu", "norm"),),
        held=(("SGD", 0, "all"),),
        seed=3,
    ),
}
