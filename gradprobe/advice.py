"""What to add to a training script, in its own names. Pure text: nothing is run, no file is changed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradprobe.history import shorten
from gradprobe.policies import Placement

_WRAPPERS = (
    "DistributedDataParallel",
    "DDP",
    "DataParallel",
    "compile",
    "fully_shard",
    "FSDP",
    "prepare",
    "script",
)


@dataclass(frozen=True)
class Place:
    """A line of a script.

    Attributes:
        file: Its name.
        line: Its number.
        text: What stands there, in one line.
    """

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        said = f"line {self.line} of {self.file}"
        return f"{said}, `{self.text}`" if self.text else said


@dataclass(frozen=True)
class Loss:
    """Where a script computes the loss.

    Attributes:
        place: The line.
        function: What computes it from two arguments, as source; None: the model does so itself.
        arguments: The arguments as source: the prediction and the target, or the model's output alone.
    """

    place: Place
    function: str | None
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Site:
    """What is known of a script, for one of its models.

    Attributes:
        model: What the script calls the model.
        built: Where it is assigned, before anything is wrapped around it; None if that cannot be told.
        optimizer: Where its optimizer is built, or where the library is called that builds it.
        loss: Where its loss is computed, if that can be told.
        part: Name of the part of the model that is called, where the model itself never is (``LightningModule``).
    """

    model: str | None = None
    built: Place | None = None
    optimizer: Place | None = None
    loss: Loss | None = None
    part: str = ""


def advise(placement: Placement, site: Site, run: str) -> str:
    """Say which lines to add to the script.

    Args:
        placement: The decision.
        site: What is known of the script.
        run: Folder of the run, which holds the placement and its shapes.

    Example:
        >>> from gradprobe.history import Point
        >>> placement = Placement("by hand", ("a",), (Point("a", (8, 4), 0, ("a",)),), "", output_shape=(8, 2))
        >>> loss = Loss(Place("train.py", 9, "loss = mse_loss(model(x), y)"), "mse_loss", ("model(x)", "y"))
        >>> built = Place("train.py", 3, "model = Net()")
        >>> print(advise(placement, Site("model", built, Place("train.py", 4), loss), "runs/train"))
        What to add (no file was changed):
          behind line 3 of train.py, `model = Net()`, and before the optimizer (line 4 of train.py):
            import gradprobe as gp
            model = gp.supervise(model, gp.load("runs/train").placement)  # a branch after a
          in place of line 9 of train.py, `loss = mse_loss(model(x), y)`:
            loss = gp.DeepSupervisionLoss(mse_loss, weight=0.3, schedule="constant")(model(x), y)
        In training model(...) then returns (output, auxiliary): .output is what it returned before.
        In eval() it returns just that. Whether it helps is not known before it is tried: often it does not.
        >>> advise(Placement("by hand", (), (), "None needed: all is well."), Site("model"), "runs/train")
        'Nothing to add.'
    """
    if not placement.points:
        return "Nothing to add."
    name = site.model or "model"
    where = [f"behind {site.built}" if site.built else f"where {name} is built"]
    where += [f"before the optimizer ({site.optimizer})" if site.optimizer else "before the optimizer"]
    lines = ["What to add (no file was changed):", f"  {', and '.join(where)}:", "    import gradprobe as gp"]
    lines += [f"    {line}" for line in _supervise(placement, name, site.part, run)]
    called = f"{name}.{site.part}" if site.part else name
    lines += _joint_loss(site.loss, called)
    lines += [
        f"In training {called}(...) then returns (output, auxiliary): .output is what it returned before.",
        "In eval() it returns just that. Whether it helps is not known before it is tried: often it does not.",
    ]
    return "\n".join(lines)


def _supervise(placement: Placement, name: str, part: str, run: str) -> list[str]:
    names = [point.name for point in placement.points]
    after = ", ".join(shorten(point, 40) for point in names)
    said = f"# {'a branch' if len(names) == 1 else 'branches'} after {after}"
    if not part:
        return [f'{name} = gp.supervise({name}, gp.load("{run}").placement)  {said}']
    within = [point.removeprefix(f"{part}.") for point in names]
    inner = f"{name}.{part}"
    quoted = ", ".join(f'"{point}"' for point in within)
    return [f"{inner} = gp.supervise({inner}, [{quoted}], inputs=x)  # x: a batch as {inner} gets it"]


def _joint_loss(loss: Loss | None, name: str) -> list[str]:
    made = 'gp.DeepSupervisionLoss({}, weight=0.3, schedule="constant")'
    if loss is None:
        criterion = made.format("loss_fn")
        return [
            "  where the loss is computed (loss_fn: what computes it now; None: the model itself):",
            f"    loss = {criterion}({name}(x), y)",
        ]
    assigned = loss.place.text.partition(" = ")[0]
    arguments = ", ".join(loss.arguments if loss.function else (*loss.arguments, "labels"))
    return [
        f"  in place of {loss.place}:",
        f"    {assigned} = {made.format(loss.function)}({arguments})",
    ]


# reading the script --------------------------------------------------------------------------------------------


def built_at(source: str, file: str, name: str, before: int) -> Place | None:
    r"""Where a name last got a value at or before a line, in the same function, wrappers aside.

    Example:
        >>> source = "model = Net()\nmodel = model.to(device)\nmodel = DDP(model)\noptimizer = SGD(model)"
        >>> built_at(source, "train.py", "model", 4)
        Place(file='train.py', line=2, text='model = model.to(device)')
    """
    found = [
        node
        for node in _statements(source, before)
        if name in _targets(node) and (node.end_lineno or node.lineno) <= before and not _wraps(node)
    ]
    return _place(file, found[-1], last=True) if found else None


def loss_at(source: str, file: str, step: int) -> Loss | None:
    r"""Where the loss is computed whose backward pass comes before the optimizer's step in the same function.

    Args:
        source: The script.
        file: Its name.
        step: The line of the step.

    Example:
        >>> source = "loss = F.nll_loss(model(x), y)\nscaler.scale(loss / 4).backward()\nscaler.step(optimizer)"
        >>> found = loss_at(source, "train.py", 3)
        >>> found.function, found.arguments
        ('F.nll_loss', ('model(x)', 'y'))
        >>> loss_at("out = model(x, labels=y)\nout.loss.backward()\noptimizer.step()", "train.py", 3)
    """
    statements = list(_statements(source, step))
    backward = next((node for node in reversed(statements) if node.lineno <= step and _differentiated(node)), None)
    if backward is None:
        return None
    names = _differentiated(backward)
    for node in reversed(statements):
        if node.lineno <= backward.lineno and isinstance(node, ast.Assign) and names & set(_targets(node)):
            found = _loss(node, file)
            if found is not None:
                return found
    return None


def _loss(node: ast.Assign, file: str) -> Loss | None:
    value, place = node.value, _place(file, node)
    if isinstance(value, ast.Attribute) and value.attr == "loss":
        return Loss(place, None, (ast.unparse(value.value),))
    if isinstance(value, ast.Call) and len(value.args) == 2 and not value.keywords:
        return Loss(place, ast.unparse(value.func), tuple(map(ast.unparse, value.args)))
    return None


def _differentiated(node: ast.stmt) -> set[str]:
    """The names in what ``backward`` is called on or with, if a simple statement does so."""
    if not isinstance(node, (ast.Expr, ast.Assign)):
        return set()
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "backward":
            inside = [call.func.value, *call.args]
            return {part.id for tree in inside for part in ast.walk(tree) if isinstance(part, ast.Name)}
    return set()


def _statements(source: str, line: int) -> Iterator[ast.stmt]:
    """The statements of the innermost function around a line, or of the module, in order; nested blocks too."""
    try:
        tree: ast.AST = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    while True:
        inner = [node for node in _within(tree) if isinstance(node, _FUNCTIONS) and _around(node, line)]
        if not inner:
            break
        tree = inner[0]
    yield from sorted(
        (node for node in _within(tree) if isinstance(node, ast.stmt) and not isinstance(node, _FUNCTIONS)),
        key=lambda node: node.lineno,
    )


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _within(tree: ast.AST) -> Iterator[ast.AST]:
    """What is in a function or module, functions in it included, but not what is in those."""
    for child in ast.iter_child_nodes(tree):
        yield child
        if not isinstance(child, _FUNCTIONS):
            yield from _within(child)


def _around(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _targets(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets]
    return [ast.unparse(node.target)] if isinstance(node, ast.AnnAssign) and node.value else []


def _wraps(node: ast.stmt) -> bool:
    value = getattr(node, "value", None)
    return isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in _WRAPPERS


def _place(file: str, node: ast.stmt, last: bool = False) -> Place:
    line = (node.end_lineno or node.lineno) if last else node.lineno
    return Place(file, line, shorten_text(ast.unparse(node)))


def shorten_text(text: str, width: int = 80) -> str:
    """A statement in one line.

    Example:
        >>> shorten_text("model = Net(a, b, c)", 12)
        'model = Net…'
    """
    return text if len(text) <= width else f"{text[: width - 1]}…"
