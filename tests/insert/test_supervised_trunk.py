"""What a trunk is and exports with branches and without: copies, exports, checkpoints, removal."""

import copy
import io

import pytest
import torch
from support.supervised import (
    POINTS,
    ByHand,
    Operators,
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

import gradprobe as gp

pytestmark = pytest.mark.usefixtures("no_hook_of_a_branch_stays")


def trained(model, dtype=torch.float64):
    criterion()(model(images(dtype)), classes()).backward()
    model.zero_grad()
    return model


def test_class_keys_and_pickle_of_the_trunk_are_those_of_a_plain_model():
    net = supervised()
    trained(net)
    torch.manual_seed(0)
    plain = trained(Residual().double())
    assert type(net.trunk) is Residual
    assert list(net.trunk.state_dict()) == list(plain.state_dict())
    assert saved(net.trunk).read() == saved(plain).read()  # torch.save: pickle itself writes addresses


def storages(model):
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: loaded(saved(net))], ids=["deepcopy", "torch.load"])
@pytest.mark.parametrize("branch", ["pooled", "shared"])
def test_copies_of_the_network_are_independent(branch, copied):
    net = trained(supervised(branch=branch))
    before = copy.deepcopy(net.state_dict())
    other = copied(net)
    assert not storages(net) & storages(other)
    assert not {id(module) for module in net.modules()} & {id(module) for module in other.modules()}
    assert_same(dict(enumerate(flat(other(images())))), dict(enumerate(flat(copy.deepcopy(net)(images())))))
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(2):
        criterion()(other(images()), classes()).backward()
        optimizer.step()
    other.remove("norm")
    other.load_state_dict(Residual().state_dict())  # a plain checkpoint goes into the copy, not the original
    assert_same(net.state_dict(), before)
    assert not gradients(net)
    assert tuple(net.points) == tuple(POINTS)
    if branch == "shared":
        assert all(each.head is other.trunk.fc for each in other.branches.values())
        assert all(each.head is net.trunk.fc for each in net.branches.values())


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return file


def loaded(file):
    return torch.load(file, weights_only=False)


def test_a_copy_of_the_trunk_knows_nothing_of_branches():
    net = trained(supervised())
    other = copy.deepcopy(net.trunk)
    assert not storages(net) & storages(other)
    trained(other)
    assert torch.equal(other.eval()(images()), trained(net).eval()(images()))


def test_an_exponential_moving_average():
    net = supervised()
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    expected = None
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        criterion()(net(images()), classes()).backward()
        optimizer.step()
        average.update_parameters(net)
        now = {name: p.detach().clone() for name, p in net.named_parameters()}
        expected = now if expected is None else {name: 0.9 * p + 0.1 * now[name] for name, p in expected.items()}
    assert_same({name: p.detach() for name, p in average.module.named_parameters()}, expected)
    average.eval()
    assert torch.equal(average(images()), average.module.trunk(images()))


def graph_of(model):
    return [
        (node.op, str(node.target), node.name)
        for node in torch.export.export(model, (images(),)).graph.nodes
        if node.op != "placeholder"  # a placeholder is called by the way to its parameter
    ]


def test_torch_export_gives_the_plain_models_graph():
    net = trained(supervised())
    plain = trained(Residual().double())
    assert graph_of(net.trunk) == graph_of(plain)
    assert graph_of(net.eval()) == graph_of(net.trunk) == graph_of(plain.eval())


def onnx_nodes(model):
    exported = torch.onnx.export(model, (images(torch.float32),), dynamo=True, verbose=False)
    graph = exported.model_proto.graph
    return [(node.op_type, *node.input, *node.output) for node in graph.node], [i.name for i in graph.initializer]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_export_gives_the_plain_models_nodes():
    net = trained(supervised(dtype=torch.float32), torch.float32)
    plain = Residual().eval()
    nodes, weights = onnx_nodes(plain)
    assert nodes
    assert onnx_nodes(net.eval().trunk) == (nodes, weights)


def operators(model):
    with Operators() as ran:
        model(images())
    return ran.names


def test_evaluation_runs_the_operators_of_the_plain_model():
    net = trained(supervised()).eval()
    plain = Residual().double().eval()
    assert operators(net) == operators(plain)
    net.remove()
    assert operators(net.train()) == operators(plain.train())


# Checkpoints, removal, optimizers


@pytest.mark.parametrize("assign", [False, True])
def test_checkpoints_go_every_way(assign):
    net, other = supervised(), supervised()
    plain = Residual().double()
    with torch.no_grad():
        for parameter in (*other.parameters(), *plain.parameters()):
            parameter.add_(torch.rand_like(parameter))
    branches = copy.deepcopy(net.branches.state_dict())
    net.load_state_dict(plain.state_dict(), assign=assign)
    assert_same(net.trunk.state_dict(), plain.state_dict())
    assert_same(net.branches.state_dict(), branches)
    net.load_state_dict(other.state_dict(), assign=assign)
    assert_same(net.state_dict(), other.state_dict())
    plain.load_state_dict(net.trunk.state_dict(), assign=assign)
    assert_same(plain.state_dict(), other.trunk.state_dict())
    assert len(list(trained(net).parameters())) == len(list(other.parameters()))
    criterion()(net(images()), classes()).backward()
    assert_same_gradients(net, hand_step(net))


@pytest.mark.parametrize(("plain", "missing"), [(True, "fc.weight"), (False, "trunk.fc.weight")])
def test_a_missing_key_is_named(plain, missing):
    net = supervised()
    state = (net.trunk if plain else net).state_dict()
    del state[missing]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "trunk\.fc\.weight"'):
        net.load_state_dict(state)


def test_a_checkpoint_with_a_branch_too_many_names_it():
    state = supervised().state_dict()
    net = supervised(["norm", "block"])
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"branches\.at_act"):
        net.load_state_dict(state)
    keys = net.load_state_dict(state, strict=False)
    assert keys.unexpected_keys == ["branches.at_act.fc.weight", "branches.at_act.fc.bias"]


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01, foreach=False),
    ],
    ids=["SGD", "Adam", "AdamW"],
)
@pytest.mark.parametrize("when", ["between steps", "before the step"])
def test_an_optimizer_goes_on_after_removal(make, when):
    net = supervised()
    hand = ByHand(net)
    gone = net.branches["at_act"]
    runs = [(net, make(net.parameters()), criterion()), (hand, make(hand.parameters()), joint)]
    for number in range(5):
        for model, optimizer, loss in runs:
            if number == 2 and when == "between steps":
                remove_act(model)
            optimizer.zero_grad(set_to_none=number != 3)
            loss(model(images()), classes()).backward()
            if number == 2 and when == "before the step":
                remove_act(model)
            if number == 2 and model is net:
                kept = copy.deepcopy(gone.state_dict())
            optimizer.step()
    assert_same(gone.state_dict(), kept)
    assert_same(net.state_dict(), hand.state_dict())


def remove_act(model):
    if isinstance(model, gp.SupervisedModel):
        model.remove("act")
    else:
        for parameter in model.branches.pop("at_act").parameters():
            parameter.grad = None


def test_removing_a_shared_branch_leaves_the_heads_gradient():
    net = supervised(branch="shared")
    criterion()(net(images()), classes()).backward()
    before = net.trunk.fc.weight.grad.clone()
    net.remove("act")
    assert torch.equal(net.trunk.fc.weight.grad, before)


def test_an_unknown_name_cannot_be_removed():
    net = supervised()
    with pytest.raises(ValueError, match="no supervision point is called 'bloc'; did you mean 'block'"):
        net.remove("bloc")
    assert list(net.points) == POINTS
