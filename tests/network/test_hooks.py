import contextlib
import copy
import io
import pickle
import re
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from gradprobe.network.hooks import Attached, GuardedHook, Hidden, Hook, failure

X = torch.linspace(-1, 1, 12).view(3, 4)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@contextlib.contextmanager
def hooked(net):
    """Hooks of ours on every module, which look at values as a probe does, and how often they were called."""
    attached, calls = Attached(), []

    def see(module, inputs, *output):
        calls.append(float(sum(tensor.detach().sum() for tensor in output or inputs)))

    for module in net.modules():
        attached.add(module.register_forward_pre_hook(GuardedHook(see, pytest.fail)))
        attached.add(module.register_forward_hook(GuardedHook(see, pytest.fail)))
    attached.add(Hidden())
    try:
        yield calls
    finally:
        attached.remove()


def without_numbers(graph):
    return re.sub("___torch_mangle_[0-9]+", "", str(graph))


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def hooks_in(net):
    return [hook for module in net.modules() for hook in (*module._forward_hooks.values(),)]


TRACED = {
    "jit.script": lambda net: torch.jit.script(net).graph,
    "jit.script of a part": lambda net: torch.jit.script(net[0]).graph,
    "jit.script of a copy": lambda net: torch.jit.script(copy.deepcopy(net)).graph,
    "jit.trace": lambda net: torch.jit.trace(net, X).graph,
    "jit.freeze": lambda net: torch.jit.freeze(torch.jit.script(copy.deepcopy(net).eval())).graph,
    "export": lambda net: torch.export.export(net, (X,)).graph,
    "strict export": lambda net: torch.export.export(net, (X,), strict=True).graph,
    "symbolic_trace": lambda net: torch.fx.symbolic_trace(net).graph,
    "make_fx": lambda net: make_fx(net)(X).graph,
    "compile": lambda net: torch.compile(net, backend="eager", fullgraph=True)(X),
}


@pytest.mark.parametrize("tool", TRACED)
def test_what_is_traced_or_scripted_is_as_without_our_hooks(tool):
    torch.compiler.reset()
    expected = without_numbers(TRACED[tool](network()))
    net = network()
    with hooked(net) as calls:
        before = hooks_in(net)
        found = without_numbers(TRACED[tool](net))
        assert hooks_in(net) == before
        calls.clear()
        net(X)
        assert len(calls) == 8
    assert found == expected
    torch.compiler.reset()


COPIED = {"deepcopy": copy.deepcopy, "pickle": lambda net: pickle.loads(pickle.dumps(net)), "save": saved}


@pytest.mark.parametrize("way", COPIED)
def test_a_copy_computes_the_same_and_calls_no_hook_of_ours(way):
    net = network()
    with hooked(net) as calls:
        other = COPIED[way](net)
        assert torch.equal(other(X), network()(X))
        assert not calls
        assert not any(isinstance(hook, Hook) for hook in hooks_in(other))


def test_a_copy_can_be_scripted_when_the_window_is_closed():
    net = network()
    with hooked(net):
        other = copy.deepcopy(net)
    assert without_numbers(torch.jit.script(other).graph) == without_numbers(torch.jit.script(network()).graph)


def test_the_user_s_own_hooks_are_copied_and_kept_in_their_order():
    net = nn.Linear(4, 3)

    def first(module, inputs, output):
        return output + 1

    def last(module, inputs, output):
        return 2 * output

    net.register_forward_hook(first)
    with hooked(net):
        net.register_forward_hook(last)
        order = list(net._forward_hooks)
        assert list(copy.deepcopy(net)._forward_hooks.values()) == [first, last]
        with pytest.raises(Exception, match="first"):  # it is TorchScript that refuses a hook without types
            torch.jit.script(net)
        assert list(net._forward_hooks) == order
        assert torch.equal(copy.deepcopy(net)(X), net(X))


def test_a_saved_network_is_loaded_without_gradprobe(tmp_path):
    net = network()
    with hooked(net):
        torch.save(net, tmp_path / "net.pt")
    code = (
        "import sys, torch; sys.modules['gradprobe'] = None;"
        f"net = torch.load({str(tmp_path / 'net.pt')!r}, weights_only=False); print(net(torch.ones(1, 4)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([1, 2])"


def test_the_functions_of_torch_are_put_back():
    reader = torch.jit._recursive.create_script_module
    first, second = Hidden(), Hidden()
    assert torch.jit._recursive.create_script_module is not reader
    first.remove()
    first.remove()
    assert torch.jit._recursive.create_script_module is not reader
    second.remove()
    assert torch.jit._recursive.create_script_module is reader


def test_a_guarded_hook_raises_nothing_and_says_what_it_was():
    reasons = []
    hook = GuardedHook(lambda *_: 1 / 0, lambda error: reasons.append(failure(error)))
    assert hook(1, 2) is None
    assert reasons == ["gradprobe failed here (ZeroDivisionError: division by zero); please report it"]
    assert failure(ValueError()) == "gradprobe failed here (ValueError); please report it"
    assert failure(ValueError("one\ntwo")) == "gradprobe failed here (ValueError: one); please report it"


def test_ctrl_c_in_a_hook_is_not_swallowed():
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GuardedHook(interrupt, pytest.fail)()


def test_a_flop_counter_s_values_are_true_ones():
    net = network()
    with hooked(net) as calls, warnings.catch_warnings():
        with torch.utils.flop_counter.FlopCounterMode(display=False):
            net(X)
        assert len(calls) == 8
