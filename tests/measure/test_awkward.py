"""Every case of the zoo, with gradprobe and with an independent record of the same training."""

import functools
import math

import pytest
import torch
from support.account import Account
from support.awkward import CASES, MEASURES, Bare, Recorder, bits, data, mlp, run, sgd, squared, threads

from gradprobe import GradientProbe
from gradprobe.network.hooks import Hook

LATER = "a module that comes while the window is open is refused with the reason: it has no hooks"
KNOWN = {  # refused, where an independent record has numbers: the reason, and the tests that show it
    "parametrized_before_the_probe_removed_in_the_run": (LATER, "numbers norms"),
    "module_added_in_the_run": (LATER, "numbers norms reasons"),
    "head_replaced_in_the_run": (LATER, "numbers norms"),
}


def cases(shown):
    """Every case of the zoo; where it is known to fail in the test that is shown, it has to."""

    def marks(name):
        reason, where = KNOWN.get(name, ("", ""))
        return pytest.mark.xfail(strict=True, reason=reason) if shown in where.split() else ()

    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in CASES])


class Probed(GradientProbe):
    """The probe in the place of the recorder: with an optimizer it ends its iterations by itself."""

    def __init__(self, model, optimizer, stats="all"):
        super().__init__(model, optimizer=optimizer, stats=stats)
        self.by_hand = optimizer is None

    def read(self, scale=1.0, only=None, last=True, cleared=True):
        if self.by_hand:
            self.step()

    def forget(self):
        pass


class Accounted(Probed):
    """The probe, and beside it the account of signal and update."""

    def __enter__(self):
        self.account = Account(self, self.model, self.optimizers)
        return super().__enter__()

    def __exit__(self, *error):
        self.account.close()
        super().__exit__(*error)


probed_mean = functools.partial(Probed, stats="mean")


@functools.cache
def ran(name, attach):
    loop = run(name, attach)
    loop.random_state = torch.get_rng_state()
    return loop


def measured(history):
    """``{(iteration, layer, of): statistics}`` where a gradient arrived."""
    rows = history.rows_of_layers
    rows = rows[rows["nonfinite"].notna()]
    return {
        (row.iteration, row.layer, row.of): tuple(float(getattr(row, measure)) for measure in MEASURES)
        for row in rows.itertuples()
    }


def close(value, expected, rel=1e-5):
    # float32 is coarser than 1e-5 below 1e-40: half a step of its smallest number for each element summed
    return math.isclose(value, expected, rel_tol=rel, abs_tol=1e-45)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, statistics in expected.items():
        finite = statistics[-1] == 0
        for measure, value, wanted in zip(MEASURES, found[key], statistics, strict=True):
            # the mean, the root mean square and the maximum of something that holds NaN or inf are not defined
            if finite or measure in ("zero_fraction", "nonfinite"):
                assert close(value, float(wanted)), (key, measure, value, wanted)
            else:
                assert not math.isfinite(value), (key, measure, value)


@pytest.mark.limit(
    "the models and loops of `tests/support/awkward.py`",
    "exact, or missing with a reason",
    "exact, or missing with a reason",
)
@cases("numbers")
def test_every_number_agrees_with_the_independent_recorder(name):
    expected, probed = ran(name, Recorder), ran(name, Probed)
    assert len(probed.attached) == len(expected.attached)
    for probe, recorder in zip(probed.attached, expected.attached, strict=True):
        assert probe.recorded == len(recorder.norms) >= 3
        assert_same(measured(probe.history), recorder.found)


COMPLEX = ("complex_parameters", "complex_and_real_mixed")  # the account reads real numbers alone


@pytest.mark.limit("the models and loops of `tests/support/awkward.py`", signal="exact, or missing with a reason")
@pytest.mark.limit("an optimizer in the backward pass", signal="exact")
@pytest.mark.parametrize("name", [name for name in CASES if name not in COMPLEX])
def test_signal_and_update_agree_with_the_independent_account(name):
    for probe in ran(name, Accounted).attached:
        assert not probe.account.differences(probe.history)


@cases("reasons")
def test_what_no_gradient_arrived_at_has_a_reason(name):
    expected, probed = ran(name, Recorder), ran(name, Probed)
    for probe, recorder in zip(probed.attached, expected.attached, strict=True):
        history = probe.history
        rows = history.rows_of_layers
        asked = set(zip(rows["layer"], rows["of"], strict=True))
        arrived = {(layer, of) for _, layer, of in recorder.found}
        explained = {(layer, of) for layer, why in history.unreached.items() for of in why}
        assert explained == asked - arrived


@cases("training")
def test_training_is_the_same_bit_for_bit_under_a_probe(name):
    plain, probed = ran(name, Bare), ran(name, Probed)
    assert torch.equal(plain.random_state, probed.random_state)
    for first, second in zip(plain.losses, probed.losses, strict=True):
        assert bits(first) == bits(second)
    for first, second in zip(plain.attached, probed.attached, strict=True):
        before, after = first.model.state_dict(), second.model.state_dict()
        assert list(before) == list(after)
        assert all(bits(before[key]) == bits(after[key]) for key in before)


@cases("norms")
def test_weight_magnitudes_add_up_to_the_norm_of_all_gradients(name):
    expected, probed = ran(name, Recorder), ran(name, Probed)
    for probe, recorder in zip(probed.attached, expected.attached, strict=True):
        found = measured(probe.history)
        for iteration, norm in enumerate(recorder.norms):
            parts, seen = [], set()
            for (of_iteration, layer), sizes in recorder.sizes.items():
                if of_iteration == iteration and not seen & sizes.keys():  # a tied layer counts once
                    seen |= sizes.keys()
                    parts.append(found[iteration, layer, "weight"][1] * math.sqrt(sum(sizes.values())))
            total = math.hypot(*parts)
            # the squares of float32's subnormal numbers are exact in float64, a history's rms is one of them
            assert close(total, norm) or (not math.isfinite(norm) and not math.isfinite(total))


@cases("hooks")
def test_no_hook_is_left(name):
    for probe in ran(name, Probed).attached:
        for module in probe.model.modules():
            for registry in vars(module).values():
                assert not (
                    isinstance(registry, dict) and any(isinstance(hook, Hook) for hook in registry.values())
                )
        for parameter in probe.model.parameters():
            hooks = (
                parameter._backward_hooks or {},
                getattr(parameter, "_post_accumulate_grad_hooks", None) or {},
            )
            assert not any(isinstance(hook, Hook) for registry in hooks for hook in registry.values())


@cases("means")
def test_the_mean_alone_is_the_same_mean(name):
    everything, alone = ran(name, Probed), ran(name, probed_mean)
    for probe, other in zip(everything.attached, alone.attached, strict=True):
        means, others = (history.frame["mean_abs"] for history in (probe.history, other.history))
        assert others.to_numpy() == pytest.approx(means.to_numpy(), rel=1e-5, abs=1e-45, nan_ok=True)


def test_weights_used_up_before_they_are_read_are_not_said_to_be_without_a_path():
    (probe,) = ran("optimizer_in_the_backward_pass", Probed).attached
    assert all("no path" not in why["weight"] for why in probe.history.unreached.values())


def test_an_output_without_elements_is_not_said_to_be_without_a_path():
    (probe,) = ran("outputs_without_elements", Probed).attached
    assert "no path" not in probe.history.unreached["b"]["output"]


@threads(1)
def test_training_by_torch_func_has_the_numbers_of_training_by_autograd():
    torch.manual_seed(0)
    net = mlp(4, 5, 2)
    optimizer = sgd(net)
    with Probed(net, optimizer) as probe:
        for x in data(6, 4):
            values = {name: parameter.detach() for name, parameter in net.named_parameters()}
            gradients = torch.func.grad(lambda p, x=x: squared(torch.func.functional_call(net, p, (x,))))(values)
            for name, parameter in net.named_parameters():
                parameter.grad = gradients[name]
            optimizer.step()
    (recorder,) = ran("trained_by_autograd_grad", Recorder).attached
    assert_same(measured(probe.history), recorder.found)
