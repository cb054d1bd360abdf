"""A GPU made of fake tensors: runs the project's own code on `cuda` without a GPU, and notes what
would happen there.

A fake tensor has a shape, a type and a device, but no values. So operations between tensors of
different devices fail as on a GPU, and every operation passes through `FakeGpu`, which counts the
launches of kernels, collects what would make the host wait for the GPU, and adds up memory.

    with fake_gpu(monkeypatch) as gpu:
        net = Net().to('cuda')      # made inside the block, so of fake tensors
        net(torch.empty(2, 3, 96, 96, device='cuda'))
    assert gpu.waits == []

This uses private parts of PyTorch, which have their names since 2.6.
"""

import contextlib
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[1]

# Operations that launch nothing: they make views, or only reserve memory.
LAUNCHES_NOTHING = (
    'detach',
    'empty',
    'empty_like',
    'empty_strided',
    'lift_fresh',
    'new_empty',
    'new_empty_strided',
    '_unsafe_view',
)
# Operations whose result has a size that depends on values: the host waits to learn it.
SIZE_DEPENDS_ON_VALUES = (
    'nonzero',
    'masked_select',
    '_unique2',
    'unique_dim',
    'unique_consecutive',
)
BOOLEAN = (torch.bool, torch.uint8)


class _FakeTensors(fake_tensor.FakeTensorMode):
    """Fake tensors that may be on `cuda` where there is none."""

    avoid_device_init = property(lambda self: True)


class FakeGpu(TorchDispatchMode):
    """Watches every operation.

    Attributes:
        waits: what would make the host wait for the GPU, with the line of the project's code.
        launches: {operation: how often it would launch a kernel}.
        copies: {line of the project's code: copies from the host that nobody waits for}.
        peak: the most bytes that were in memory at once; `forget` starts it anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.launches: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.peak = 0
        self._bytes = 0
        self._storages: dict[int, weakref.ref] = {}

    def forget(self) -> None:
        """Forget what was noted so far; what is in memory stays there."""
        self.waits.clear()
        self.launches.clear()
        self.copies.clear()
        self.peak = self._bytes

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if name == '_local_scalar_dense' and args[0].is_cuda:
            self._wait('a value is read')
            return 0
        if torch.is_inference_mode_enabled() and function.namespace == 'aten':
            # operations that are made of others are not taken apart there before they come here
            with self:
                made = function.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        self._note_waits(name, args, kwargs)
        made = function(*args, **kwargs)
        on_gpu = [part for part in tree_leaves(made) if torch.is_tensor(part) and part.is_cuda]
        launches = not function.is_view and name not in LAUNCHES_NOTHING
        if launches and (on_gpu or _is_in_place_on_gpu(made, args)):
            self.launches[name] += 1
        for part in on_gpu:
            self._add_memory(part)
        return made

    def _note_waits(self, name: str, args: tuple, kwargs: dict) -> None:
        if name in SIZE_DEPENDS_ON_VALUES and args[0].is_cuda:
            self._wait(name)
        if name in ('index', 'index_put', 'index_put_', '_unsafe_index') and args[0].is_cuda:
            for index in args[1]:
                if index is not None and index.dtype in BOOLEAN:
                    self._wait('boolean index')
        if name == '_to_copy':
            target = torch.device(kwargs.get('device') or args[0].device)
            self._note_copy(args[0], target.type, bool(kwargs.get('non_blocking')))
        if name == 'copy_':
            is_asynchronous = (len(args) > 2 and args[2]) or kwargs.get('non_blocking', False)
            self._note_copy(args[1], args[0].device.type, is_asynchronous)

    def _note_copy(self, source: torch.Tensor, target: str, is_asynchronous: bool) -> None:
        kinds = {source.device.type, target}
        if kinds != {'cpu', 'cuda'}:
            return
        if is_asynchronous and target == 'cuda':
            self.copies[_line()] += 1
        else:
            self._wait(f'copy of {source.numel()} values to {target}')

    def _wait(self, what: str) -> None:
        self.waits.append(f'{what}: {_line()}')

    def _add_memory(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = -(-storage.nbytes() // 512) * 512  # the allocator's blocks are multiples of 512

        def freed(_, key=key, size=size):
            del self._storages[key]
            self._bytes -= size

        self._storages[key] = weakref.ref(storage, freed)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)


def _is_in_place_on_gpu(made, args: tuple) -> bool:
    """True for an operation that returns nothing and writes to its first argument on the GPU."""
    if made is not None:
        return False
    return any(torch.is_tensor(part) and part.is_cuda for part in tree_leaves(args))


def _line() -> str:
    """The innermost line of the project's code that is being run, 'file:line'."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path != Path(__file__) and '.venv' not in path.parts:
            return f'{path.relative_to(ROOT)}:{frame.lineno}'
    return 'in PyTorch'


class _Saved:
    """A tensor that a node of the graph keeps for its backward pass."""

    def __init__(self, tensor: torch.Tensor, unpacked: list['_Saved']):
        self.tensor: torch.Tensor | None = tensor
        self.unpacked = unpacked

    def unpack(self) -> torch.Tensor | None:
        self.unpacked.append(self)
        return self.tensor


class _Backward:
    """`loss.backward()` without the engine of autograd, which needs a real GPU where PyTorch was
    built for one.

    As the engine does, it takes the newest node that is ready, and frees what a node has kept once
    the node is done.
    """

    def __init__(self) -> None:
        self._unpacked: list[_Saved] = []

    def kept(self) -> contextlib.AbstractContextManager:
        """A block in which nodes keep their tensors so that `run` can free them."""

        def pack(tensor: torch.Tensor) -> _Saved:
            return _Saved(tensor, self._unpacked)

        return torch.autograd.graph.saved_tensors_hooks(pack, _Saved.unpack)

    def run(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss` to the parameters."""
        root = loss.grad_fn
        assert root is not None
        dependents = _dependents(root)
        # for every node, the gradients of its outputs
        gradients: dict[Any, list] = {root: [torch.ones_like(loss)]}
        ready = [root]
        with torch.no_grad():
            while ready:
                node = max(ready, key=_age)
                ready.remove(node)
                for (following, output), gradient in self._applied(node, gradients.pop(node)):
                    _add(gradients, following, output, gradient)
                    dependents[following] -= 1
                    if dependents[following] == 0:
                        ready.append(following)

    def _applied(self, node: Any, gradients: list) -> Iterator[tuple[tuple, Any]]:
        """The edges to the nodes that follow, with a gradient each."""
        if hasattr(node, 'variable'):  # it adds to the gradient of a parameter
            parameter = node.variable
            gradient = gradients[0]
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            return
        apply = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
        made = apply(*gradients)
        if not isinstance(made, tuple):
            made = (made,)
        for saved in self._unpacked:
            saved.tensor = None
        self._unpacked.clear()
        gradients.clear()
        for edge, gradient in zip(node.next_functions, made):
            if edge[0] is not None:
                yield edge, gradient


def _dependents(root: Any) -> Counter:
    """How many edges lead to each node of the graph below `root`."""
    dependents: Counter = Counter()
    seen = {root}
    unvisited = [root]
    while unvisited:
        for following, _ in unvisited.pop().next_functions:
            if following is None:
                continue
            dependents[following] += 1
            if following not in seen:
                seen.add(following)
                unvisited.append(following)
    return dependents


def _age(node: Any) -> int:
    return node._sequence_nr()


def _add(gradients: dict[Any, list], node: Any, output: int, gradient: Any) -> None:
    """Add to the gradient of an output of a node, in the shape and type that the output has."""
    if gradient is not None:
        wanted = node._input_metadata[output]
        gradient = gradient.sum_to_size(wanted.shape).to(wanted.dtype)
    of_outputs = gradients.setdefault(node, [None] * len(node._input_metadata))
    if of_outputs[output] is None:
        of_outputs[output] = gradient
    elif gradient is not None:
        of_outputs[output] = of_outputs[output] + gradient


def _apply(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """What `module.to` does, with new parameters: fake ones cannot be changed in place."""
    for child in module.children():
        _apply(child, change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            changed = change(parameter.detach())
            module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


@contextlib.contextmanager
def fake_gpu(monkeypatch) -> Iterator[FakeGpu]:
    """A block in which `cuda` is a GPU of fake tensors; tensors made inside are fake.

    Args:
        monkeypatch: pytest's fixture, which undoes the changes to PyTorch.
    """
    monkeypatch.setattr(fake_tensor, 'init_gpu_context', lambda device: None)
    monkeypatch.setattr(torch.cuda, '_lazy_init', lambda: None)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(nn.Module, '_apply', _apply)
    monkeypatch.setattr(
        torch.optim.Optimizer, '_accelerator_graph_capture_health_check', lambda self: None
    )
    backward = _Backward()
    monkeypatch.setattr(torch.Tensor, 'backward', lambda loss: backward.run(loss))
    with _FakeTensors(), FakeGpu() as gpu, backward.kept():
        yield gpu
