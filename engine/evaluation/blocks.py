"""The blocks of a language model: hidden states are recorded after a block, or replaced there."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from saematch.errors import MatchError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BlockOutput = Tensor | tuple[Tensor, ...]  # the hidden states, or a tuple that begins with them

_LOSS_TOLERANCE = 1e-4  # nats; float32 sums of equal numbers in another order differ by far less


class Blocks:
    """The blocks of a causal language model.

    Args:
        model: the model, on its device.
        name: the name of the model in messages.

    Raises:
        MatchError: if the model has no list of blocks.
    """

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        config = model.config.get_text_config()
        self._model, self._name = model, name
        self._blocks = _list_of_blocks(model, int(config.num_hidden_layers), name)
        self.width = int(config.hidden_size)
        self._returns_tuple = False

    def __len__(self) -> int:
        return len(self._blocks)

    @torch.inference_mode()
    def hidden_states(self, ids: Tensor, blocks: Collection[int]) -> dict[int, Tensor]:
        """Return the hidden states `(n, length, d)` after some blocks, by the number of the block."""
        states: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for number in set(blocks):
                handle = self._blocks[number].register_forward_hook(_recorder(states, number))
                hooks.callback(handle.remove)
            with ids.device:  # tensors that the model makes are made on its device
                self._model.base_model(ids, use_cache=False)
        return states

    @torch.inference_mode()
    def token_losses(self, ids: Tensor, block: int, hidden: Tensor) -> Tensor:
        """Return the next-token cross-entropy `(n, length - 1)` with the hidden states after a block replaced."""
        with self._replaced(block, hidden):
            return self._token_losses(ids)

    @torch.inference_mode()
    def run_between(self, ids: Tensor, first: int, hidden: Tensor, last: int) -> Tensor:
        """Return the hidden states after block `last` with those after block `first`, an earlier one, replaced."""
        with self._replaced(first, hidden), self._skipped(range(last + 1, len(self._blocks))):
            return self.hidden_states(ids, [last])[last]

    @torch.inference_mode()
    def check_replacing(self, ids: Tensor) -> float:
        """Check that the loss does not change if the hidden states after the middle block are replaced by themselves.

        Returns:
            The seconds that the pass from the middle block on took.

        Raises:
            MatchError: if the loss changes: then the blocks hand on more than hidden states.
        """
        middle = len(self._blocks) // 2
        outputs: list[BlockOutput] = []

        def record(_block: nn.Module, _inputs: object, output: BlockOutput) -> None:
            outputs.append(output)

        handle = self._blocks[middle].register_forward_hook(record)
        expected = float(self._token_losses(ids).mean())
        handle.remove()
        self._returns_tuple = isinstance(outputs[0], tuple)
        began = time.monotonic()
        with self._replaced(middle, _hidden_of(outputs[0]).clone()):
            loss = float(self._token_losses(ids).mean())
        seconds = time.monotonic() - began
        if not abs(loss - expected) <= _LOSS_TOLERANCE:  # NaN fails this, too
            raise MatchError(
                f"{self._name}: its blocks hand on more than hidden states, so hidden states cannot be replaced (the "
                f"loss is {expected:.4f}, and {loss:.4f} with equal hidden states in their place)"
            )
        return seconds

    def _token_losses(self, ids: Tensor) -> Tensor:
        with ids.device:
            logits: Tensor = self._model(ids, use_cache=False).logits
        losses = nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        return losses.view(len(ids), -1)

    @contextmanager
    def _replaced(self, last: int, hidden: Tensor) -> Iterator[None]:
        """Replace the output of block `last`. The blocks before it are skipped, since their output does not matter."""
        with self._skipped(range(last)), self._skipped([last], hidden):
            yield

    @contextmanager
    def _skipped(self, numbers: Iterable[int], hidden: Tensor | None = None) -> Iterator[None]:
        """Skip some blocks: each of them returns some hidden states, or its input."""
        with ExitStack() as restored:
            for number in numbers:
                block = self._blocks[number]
                block.forward = self._returning(hidden)
                restored.callback(block.__dict__.pop, "forward")
            yield

    def _returning(self, hidden: Tensor | None) -> Callable[..., BlockOutput]:
        """Return a `forward` that returns some hidden states, or its input, in the form that the blocks use."""

        def forward(*inputs: Tensor, **named: Tensor) -> BlockOutput:
            given = inputs[0] if inputs else named["hidden_states"]
            output = given if hidden is None else hidden
            return (output,) if self._returns_tuple else output

        return forward


def _recorder(states: dict[int, Tensor], number: int) -> Callable[[nn.Module, object, BlockOutput], None]:
    def record(_block: nn.Module, _inputs: object, output: BlockOutput) -> None:
        states[number] = _hidden_of(output).clone()

    return record


def _hidden_of(output: BlockOutput) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _list_of_blocks(model: nn.Module, depth: int, name: str) -> nn.ModuleList:
    """Return the list of the model's blocks: the one that is as long as the model is deep."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise MatchError(f"{name}: the model has no list of {depth} blocks")
