"""Supervised networks in compiled code, and those of transformers."""

import copy

import pytest
import torch
from support.supervised import (
    POINTS,
    WEIGHT,
    Block,
    ByHand,
    Residual,
    assert_same,
    assert_same_gradients,
    classes,
    criterion,
    flat,
    gradients,
    hand_step,
    images,
    joint,
    supervised,
)
from torch.nn.functional import cross_entropy

import gradprobe as gp

pytestmark = pytest.mark.usefixtures("no_hook_of_a_branch_stays")


def compiled_and_eager(net, backend):
    eager = copy.deepcopy(net)
    return torch.compile(net, backend=backend, fullgraph=True), eager


def assert_equal_steps(compiled, eager, *args, loss=joint, target=None, **kwargs):
    target = classes() if target is None else target
    for model in (compiled, eager):
        model.zero_grad()
    mine, theirs = compiled(*args, **kwargs), eager(*args, **kwargs)
    torch.testing.assert_close(flat(mine), flat(theirs))
    for prediction in (mine, theirs):
        loss(prediction, target).backward()
    assert_same_gradients(getattr(compiled, "_orig_mod", compiled), eager, every=False)
    assert gradients(eager)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("before", ["compiled first", "called eagerly before"])
def test_compiled_training_is_eager_training(backend, before):
    net = supervised()
    if before == "called eagerly before":
        net(images())
        net(images())
    compiled, eager = compiled_and_eager(net, backend)
    for _ in range(2):
        assert_equal_steps(compiled, eager, images())
    assert_same(net.trunk.state_dict(), eager.trunk.state_dict())  # running statistics
    compiled.eval()
    torch.testing.assert_close(compiled(images()), eager.eval()(images()))
    compiled.train()
    assert_equal_steps(compiled, eager.train(), images())
    assert_same_gradients(net, hand_step(eager))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("again", [True, False])
def test_removed_between_compiled_steps(again):
    compiled, eager = compiled_and_eager(supervised(), "aot_eager")
    assert_equal_steps(compiled, eager, images())
    for net in (compiled._orig_mod, eager):
        net.remove("act")
    if again:
        compiled = torch.compile(compiled._orig_mod, backend="aot_eager", fullgraph=True)
    assert_equal_steps(compiled, eager, images())
    assert list(compiled._orig_mod.points) == ["norm", "block"]


class Broken(Block):
    """A block that no graph goes through."""

    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)


def compiled_network(net):
    return torch.compile(net, backend="aot_eager")


def compiled_with_graph_break(net):
    net.trunk.block.__class__ = Broken
    return compiled_network(net)


def compiled_function(net):
    return torch.compile(lambda x: net(x), backend="aot_eager", fullgraph=True)


def compiled_in_place(net):
    net.compile(backend="aot_eager", fullgraph=True)
    return net


def compiled_trunk(net):
    net.trunk.compile(backend="aot_eager", fullgraph=True)
    return net


def compiled_regions(net):
    for region in (net.trunk.norm, net.trunk.block, net.branches["at_act"]):
        region.compile(backend="aot_eager", fullgraph=True)
    return net


COMPILERS = [
    compiled_network,
    compiled_with_graph_break,
    compiled_function,
    compiled_in_place,
    compiled_trunk,
    compiled_regions,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_whatever_is_compiled(compiler):
    """Over several steps, a removal, and another batch size, since compiled code keeps what it saw at first."""
    net = supervised()
    eager = copy.deepcopy(net)
    run = compiler(net)
    for rows in (6, 6, 6, 4):
        if rows == 4:
            net.remove("act")
            eager.remove("act")
        net.zero_grad()
        criterion()(run(images()[:rows]), classes()[:rows]).backward()
        hand = ByHand(eager)
        joint(hand(images()[:rows]), classes()[:rows]).backward()
        assert_same_gradients(net, hand)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_or_wrapped_network_is_refused():
    with pytest.raises(
        ValueError, match="expected the network itself, got it inside OptimizedModule: supervise the"
    ):
        gp.supervise(torch.compile(Residual()), POINTS, inputs=images(torch.float32))


@pytest.mark.filterwarnings("ignore")
def test_a_trunk_in_which_compiled_code_takes_no_hooks_says_so():
    trunk = Residual()
    trunk.compile(backend="aot_eager")
    trunk(images(torch.float32))
    net = gp.supervise(trunk, POINTS, inputs=images(torch.float32))
    with pytest.raises(RuntimeError, match=r"'norm' .*compile the supervised network instead"):
        net(images(torch.float32))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compiling", [False, True])
def test_a_users_hook_on_a_point(compiling):
    net = supervised(["norm"])
    doubled = copy.deepcopy(net)
    with torch.no_grad():  # the same by hand: y = 2 (w x + b)
        doubled.trunk.norm.weight.mul_(2)
        doubled.trunk.norm.bias.mul_(2)
    seen = []
    handle = net.trunk.norm.register_forward_hook(lambda module, args, output: (seen.append(1), output * 2)[1])
    run = torch.compile(net, backend="aot_eager", fullgraph=True) if compiling else net
    for count in (1, 2):
        torch.testing.assert_close(tuple(run(images())), tuple(doubled(images())))
        assert len(seen) == count
    handle.remove()
    plain = supervised(["norm"])
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(tuple(net(images())), tuple(plain(images())))
    assert len(seen) == 2
    assert not net.trunk.norm._forward_hooks


def tiny(name):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "gpt2":
        sizes = {"n_embd": 8, "n_layer": 3, "n_head": 2, "n_positions": 16, "vocab_size": 32}
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout, use_cache=False))
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 32}
    config = transformers.BertConfig(**sizes, **dropout, max_position_embeddings=16, num_labels=3)
    return transformers.BertForSequenceClassification(config)


LAYERS = {"gpt2": "transformer.h.{}", "bert": "bert.encoder.layer.{}"}


def tokens():
    return torch.randint(32, (4, 7), generator=torch.Generator().manual_seed(6))


def supervised_transformer(name, branch="auto"):
    names = [LAYERS[name].format(index) for index in (0, 1)]
    return gp.supervise(tiny(name).train(), names, inputs={"input_ids": tokens()}, branch=branch)


def transformer_loss(prediction, target):
    scores = (prediction.output.logits, *prediction.auxiliary)
    losses = [cross_entropy(each.flatten(0, -2), target.flatten()) for each in scores]
    return losses[0] + WEIGHT * sum(losses[1:])


def target_of(name):
    return tokens() if name == "gpt2" else torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(("name", "branch"), [("bert", "auto"), ("gpt2", "auto"), ("gpt2", "shared")])
def test_transformers_are_as_with_their_own_hidden_states(name, branch):
    net = supervised_transformer(name, branch)
    hand = copy.deepcopy(net)
    transformer_loss(net(input_ids=tokens()), target_of(name)).backward()
    output = hand.trunk(input_ids=tokens(), output_hidden_states=True)
    layers = zip(hand.branches.values(), output.hidden_states[1:3], strict=True)
    auxiliary = tuple(branch(hidden) for branch, hidden in layers)
    transformer_loss(gp.SupervisedOutput(output, auxiliary), target_of(name)).backward()
    assert_same_gradients(net, hand, every=False)
    assert len(gradients(net)) >= len(list(net.parameters())) - 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "branch"), [("bert", "auto"), ("gpt2", "shared")])
def test_compiled_transformers(name, branch):
    compiled, eager = compiled_and_eager(supervised_transformer(name, branch), "aot_eager")
    for _ in range(2):
        assert_equal_steps(compiled, eager, input_ids=tokens(), loss=transformer_loss, target=target_of(name))


# Activation checkpointing


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_with_checkpointing():
    net = supervised(reentrant=False)
    run = torch.compile(net, backend="aot_eager", fullgraph=True)
    criterion()(run(images()), classes()).backward()
    assert_same_gradients(net, hand_step(net))
