"""How the loss of a branch is computed: by which function, of what, and what that left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradprobe.insert.loss_inputs import loss_key, mapped, stand_in
from gradprobe.insert.model_loss import OWN_LOSSES, branch_loss, is_own, matching_losses
from gradprobe.insert.own_terms import OTHER_BRANCH, WAY_OUT, OwnTerms, own_terms
from gradprobe.insert.running_state import RunningState
from gradprobe.network.losses import LossFunction
from gradprobe.network.tensors import tensors


class BranchLosses:
    """The losses of all branches, by the user's function or by the one that the model computes itself.

    Args:
        given: ``branch_loss=`` of `gradprobe.DeepSupervisionLoss`: a function for the branches, one for each, or
            None: the terms of ``loss_fn`` that depend on the branch's prediction.

    Attributes:
        candidates: Names out of `OWN_LOSSES` that may be the model's own loss.
        left_out: What the terms that were left out depend on, in words.
        empty: How often the target of each branch was empty, by index; counts stay on the device.
    """

    def __init__(self, given: LossFunction | Sequence[LossFunction] | None = None) -> None:
        self.given = given
        self.candidates = tuple(OWN_LOSSES)
        self.left_out: frozenset[str] = frozenset()
        self.empty: dict[int, Tensor] = {}
        self._told: set[int] = set()
        self._kind = ""
        self._state: RunningState | None = None
        self._state_of: Any = None
        self._depends: set[int] = set()

    @property
    def settled(self) -> bool:
        """Whether a compiled step can do without a look at values and graphs: one outside has found nothing."""
        running = self._state is not None and self._state.runs
        return bool(self._kind) and not self.left_out and not running

    @property
    def taken(self) -> str:
        """Which loss the branches have, in words; empty before the first call with branches."""
        if not self.left_out:
            return self._kind
        return f"{self._kind}, without the terms of {', '.join(sorted(self.left_out))}, which count once"

    def main(self, loss_fn: LossFunction, output: Any, target: Any) -> Tensor:
        """The loss of the main output; branches follow."""
        if torch.compiler.is_compiling() or self.given is not None:
            return loss_fn(output, target)
        with self._state_for(loss_fn).of_main():
            return loss_fn(output, target)

    def branch(
        self,
        index: int,
        loss_fn: LossFunction,
        output: Any,
        predicted: Any,
        targets: tuple[Any, Any],
        main: Tensor,
    ) -> Tensor:
        """The loss of a branch.

        Args:
            index: Of the branch, in forward order.
            loss_fn: The function for the main output.
            output: The trunk's output.
            predicted: What the branch returned.
            targets: That of the main output, and that of this branch.
            main: The loss of the main output.

        Raises:
            ValueError: If a term needs what the branch does not predict, or none needs what it does; if there is
                no loss for this branch.
            TypeError: If the function needs the loss that the model computed itself, since a branch has none.
        """
        compute = self._function_for(index, loss_fn, output, targets, main)
        return self.unless_empty(index, predicted, main, compute)

    def _function_for(
        self, index: int, loss_fn: LossFunction, output: Any, targets: tuple[Any, Any], main: Tensor
    ) -> Callable[[Any], Tensor]:
        """The loss of this branch as a function of what it predicts."""
        target = targets[1]
        if self.given is not None:
            self._kind = "branch_loss"
            return lambda predicted: self._of_given(index, predicted, target)
        if is_own(main, output):
            if len(self.candidates) > 1:
                self.candidates = matching_losses(self.candidates, output, targets[0], main)
            self._kind = f"the model's own, {self.candidates[0]}"
            return lambda predicted: branch_loss(self.candidates[0], predicted, target)
        return lambda predicted: self._of_function(index, loss_fn, output, predicted, target)

    def _of_given(self, index: int, predicted: Any, target: Any) -> Tensor:
        if isinstance(self.given, Sequence):
            if index >= len(self.given):
                raise ValueError(
                    f"expected branch_loss= to have a loss for each branch, got {len(self.given)} and a branch of "
                    f"index {index}"
                )
            return self.given[index](predicted, target)
        assert self.given is not None
        if torch.compiler.is_compiling():
            return self.given(predicted, target)
        state = self._state_for(self.given)
        # the function itself is that of the first branch
        with state.of_branch(index) if index else state.of_main():
            return self.given(predicted, target)

    def _of_function(self, index: int, loss_fn: LossFunction, output: Any, predicted: Any, target: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return loss_fn(stand_in(output, predicted, lambda tensor, name: tensor.detach()), target)
        state = self._state_for(loss_fn)
        with state.of_branch(index):
            terms = terms_of_branch(loss_fn, output, predicted, target, state.parameters)
        self._kind = "loss_fn"
        self.left_out |= set(terms.left_out)
        if terms.depends:
            self._depends.add(index)
        elif terms.left_out and index not in self._depends:
            raise ValueError(
                f"loss_fn does not depend on what the branches predict, the first tensor of the trunk's "
                f"{type(output).__name__}: {WAY_OUT}, or {OTHER_BRANCH}"
            )
        return terms.loss

    def _state_for(self, function: Any) -> RunningState:
        if self._state is None or self._state_of is not function:
            self._state, self._state_of = RunningState(function), function
        return self._state

    def unless_empty(self, index: int, predicted: Any, main: Tensor, compute: Callable[[Any], Tensor]) -> Tensor:
        """A branch's loss, or nothing where it is NaN although what the branch predicts and the main loss are not.

        That is a mean over no label: at the branch's resolution all that is left may be labels to ignore.

        Args:
            index: Of the branch.
            predicted: What it returned.
            main: The loss of the main output.
            compute: The loss of a prediction.
        """
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            loss = compute(predicted)
            return torch.where(loss.isnan() & ~main.isnan(), torch.zeros_like(loss), loss)
        if not main.is_cpu:
            return self._unless_empty_on_device(index, predicted, main, compute)
        loss = compute(predicted)
        if not loss.isnan().any() or main.isnan().any() or not _finite(predicted):
            return loss
        self.empty[index] = self.empty.get(index, torch.zeros(())) + 1
        self.tell_empty()
        return silent(predicted)

    def _unless_empty_on_device(
        self, index: int, predicted: Any, main: Tensor, compute: Callable[[Any], Tensor]
    ) -> Tensor:
        """The same without waiting for the device: the gradient of such a loss is made 0 where it arrives."""
        seen = mapped(predicted, lambda tensor, name: tensor.view_as(tensor))
        loss = compute(seen)
        empty = loss.isnan() & ~main.isnan() & _finite(seen)
        for tensor in tensors(seen):
            if tensor.requires_grad:
                tensor.register_hook(lambda grad: grad.masked_fill(empty, 0))
        self.empty[index] = self.empty.get(index, torch.zeros((), device=loss.device)) + empty
        return loss.masked_fill(empty, 0)

    def tell_empty(self) -> None:
        """Warn, once for each branch, that its target was empty. Waits for the device."""
        for index in self.empty.keys() - self._told:
            if self.empty[index] > 0:
                self._told.add(index)
                warnings.warn(
                    f"the loss of the branch of index {index} (in forward order) was NaN although its prediction "
                    "and the main loss are finite: at its resolution its target has no label left but those to "
                    "ignore. In such a batch it adds nothing; this is said once (a branch that predicts at the "
                    'output\'s resolution, such as branch="dense", or map_target= can change it)',
                    stacklevel=2,
                )


def _finite(predicted: Any) -> Tensor:
    return torch.stack([tensor.detach().float().sum().isfinite() for tensor in tensors(predicted)]).all()


def terms_of_branch(
    loss_fn: LossFunction, output: Any, predicted: Any, target: Any, parameters: Collection[int] = ()
) -> OwnTerms:
    """The terms of a loss function, written for the trunk's output, that depend on a branch's prediction.

    Args:
        loss_fn: The function.
        output: The trunk's output.
        predicted: What the branch returned.
        target: For this branch.
        parameters: The ids of the trainable parameters that are the function's own.

    Raises:
        ValueError: If a term needs another part of the output as well, or a parameter of the function.
        TypeError: If the function needs the loss that the model computed itself, since a branch has none.

    Example:
        >>> loss_fn = lambda output, target: output["scores"].sum() + output["mu"].square().sum()
        >>> output = {"scores": torch.ones(3), "mu": torch.ones(2, requires_grad=True)}
        >>> terms = terms_of_branch(loss_fn, output, torch.full((3,), 2.0, requires_grad=True), None)
        >>> terms.loss.item(), terms.left_out
        (6.0, ("output['mu']",))
    """
    compute = partial(_terms_of_branch, loss_fn, output, predicted, target, parameters)
    if loss_key(output) is None:
        return compute()
    try:
        return compute()
    except (AttributeError, KeyError, TypeError) as error:
        # it may only add the model's own loss to its own
        terms = compute(with_loss=True)
        if terms.depends:
            return terms
        raise TypeError(
            f"loss_fn failed for a branch, which has no loss computed by the model "
            f"({type(error).__name__}: {error}): have loss_fn return the model's loss as it is (divide or add to "
            f"the joint loss instead), compute the loss from the output, or {WAY_OUT}"
        ) from error


def _terms_of_branch(
    loss_fn: LossFunction,
    output: Any,
    predicted: Any,
    target: Any,
    parameters: Collection[int],
    with_loss: bool = False,
) -> OwnTerms:
    trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors(predicted))
    if any(tensor.is_inference() for tensor in tensors(predicted)):
        return OwnTerms(loss_fn(stand_in(output, predicted), target), True, ())
    names: dict[int, str] = {}
    leaves: list[Tensor] = []  # kept, so that no id is given twice

    def leaf(tensor: Tensor, name: str) -> Tensor:
        if not (tensor.requires_grad if trained else tensor.is_floating_point()):
            return tensor
        leaves.append(tensor.detach().requires_grad_())
        names[id(leaves[-1])] = name
        return leaves[-1]

    # without gradients the same value as with them: then what is trained is not known, so nothing is refused
    predicted = predicted if trained else mapped(predicted, leaf)
    with torch.enable_grad():
        terms = own_terms(
            lambda: loss_fn(stand_in(output, predicted, leaf, with_loss), target),
            list(tensors(predicted)),
            names,
            parameters,
            refuse=trained,
        )
    return terms if trained else terms._replace(loss=terms.loss.detach())


def silent(predicted: Any) -> Tensor:
    """0 in the graph of a prediction; no gradient comes back from it.

    Example:
        >>> zero = silent(torch.ones(2, requires_grad=True))
        >>> zero.item(), zero.requires_grad
        (0.0, True)
    """
    return _Silent.apply(*tensors(predicted))  # type: ignore[no-any-return, no-untyped-call]


class _Silent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *predicted: Tensor) -> Tensor:
        ctx.count = len(predicted)
        return predicted[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
        return tuple(None for _ in range(ctx.count))
