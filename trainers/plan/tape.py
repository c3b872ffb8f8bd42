"""Live tensor bytes, written down allocation by allocation, in a real run or in one on tensors without memory. It imports torch, so import it where it is used.

    with FakeTensorMode(allow_non_fake_inputs=True) as fakes, Tape(fakes) as tape: ...

A tape counts the storages that operations return, from there until nobody holds them. What a kernel takes and gives back inside one operation is not seen.
In a dry run nothing has values. Numbers that code asks for are made up so that it goes on (a norm is 1, no overflow), and tensors that were real to begin with
(token ids, lengths, ids that DeepSpeed compares over ranks) stay real, so that what depends on them does what it would do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

SMALL = 1 << 16  # elements: data that enters a dry run and is this small stays real
_NEVER = 1 << 62


@dataclass(slots=True)
class Held:
    """One allocation: its bytes, the moments between which it lived, the phase that it was made in, and what it is for, where that is known."""

    bytes: int
    born: int
    phase: str
    died: int = _NEVER
    kind: str | None = None


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts storages of tensors; ``phase`` is set by whoever runs something under it.

    ``fakes``: the mode that a dry run is under. ``experts``: over how many the tokens of a mixture are spread, evenly.
    """

    def __init__(self, fakes: FakeTensorMode | None = None, *, experts: int = 1) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase, self.now, self.experts = "", 0, max(1, experts)
        # what a real tensor was converted to is remembered by weak references, and with one of those on it a parameter cannot be moved (Module.to)
        self._remembered = None if fakes is None else fakes.fake_tensor_converter.meta_converter.tensor_memo
        self.held: list[Held] = []
        self._live: dict[int, tuple[Held, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # half of all that is asked for; the answer is at hand
        kwargs = kwargs or {}
        if func is torch.ops.aten.lift_fresh.default and args[0].numel() < SMALL:
            return args[0]  # what torch.tensor makes
        tensors = [*_tensors(args), *_tensors(kwargs)]
        fake = any(isinstance(t, FakeTensor) for t in tensors)
        if tensors and not fake:
            with _disable_current_modes():
                out = func(*args, **kwargs)
        else:
            out = _valueless(func, args, self.experts) if fake else None
            if out is None:
                out = func(*_indexed(func, args), **kwargs)
        for t in _tensors(out):
            if (t.fake_device if isinstance(t, FakeTensor) else t.device).type != "meta":
                self._add(t)
        if self._remembered is not None:
            self._remembered.clear()
        return out

    def mark(self, tensors: Iterable[torch.Tensor | None], kind: str) -> None:
        """Say what the storages of these tensors are for; who was told first counts."""
        for t in tensors:
            found = None if t is None else self._live.get(t.untyped_storage()._cdata)
            if found is not None and found[0].kind is None:
                found[0].kind = kind

    def mark_live(self, phases: Sequence[str], kind: str) -> None:
        """Say what everything that lives now and was made in one of these phases is for."""
        for held, _ in self._live.values():
            if held.phase in phases and held.kind is None:
                held.kind = kind

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if size == 0 or (known is not None and known[0].bytes == size):
            return
        self.now += 1
        if known is not None:  # resized in place
            known[0].died = self.now
        held = Held(size, self.now, self.phase, kind=known[0].kind if known else None)
        self.held.append(held)
        self._live[key] = (held, weakref.ref(storage, self._freed(key, held)))

    def _freed(self, key: int, held: Held) -> Callable[[Any], None]:
        def freed(_: Any) -> None:
            self.now += 1
            held.died = min(held.died, self.now)
            if key in self._live and self._live[key][0] is held:
                del self._live[key]

        return freed


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what an operation takes or gives: it knows lists, tuples and mappings, nothing else."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


@dataclass(frozen=True)
class Peak:
    """The moment with the most bytes: how many, in which phase it came, and what they were for."""

    bytes: int
    phase: str
    parts: Mapping[str, int]


def peak(held: Sequence[Held], *, phases: Sequence[str] | None = None) -> Peak:
    """The highest of everything that was held, or of what came in some phases only."""
    moves = sorted([(h.born, h.bytes, h) for h in held] + [(h.died, -h.bytes, h) for h in held if h.died < _NEVER], key=lambda move: move[0])
    live, most, at, where = 0, 0, 0, ""
    for moment, change, of in moves:
        live += change
        if live > most and change > 0 and (phases is None or of.phase in phases):
            most, at, where = live, moment, of.phase
    parts: dict[str, int] = {}
    for h in held:
        if h.born <= at < h.died:
            parts[h.kind or "other"] = parts.get(h.kind or "other", 0) + h.bytes
    return Peak(most, where, parts)


def _valueless(func: Any, args: Any, experts: int) -> Any:
    """What an operation gives whose result would depend on values: None for all others."""
    if func is torch.ops.aten._local_scalar_dense.default:
        return 1.0 if args[0].dtype.is_floating_point else args[0].dtype is not torch.bool and 0
    if func is torch.ops.aten.equal.default:
        return True
    if func is torch.ops.aten._grouped_mm.default:  # torch itself lets it through in bf16 only, but its kernels for CPUs compute others too
        return _grouped(*args[:3])
    if func is torch.ops.aten.nonzero.default:
        with _disable_current_modes():
            shape = tuple(args[0].shape)
            hits = shape[0] if len(shape) < 2 or shape[-1] == 1 else -(-int(torch.Size(shape).numel()) // experts)
            return torch.stack([torch.arange(hits) % size for size in shape], dim=1)  # tokens spread evenly over the experts
    return None


def _grouped(left: torch.Tensor, right: torch.Tensor, ends: torch.Tensor | None = None) -> torch.Tensor:
    """The shape of products by groups; a matrix with two dimensions holds its groups one behind the other."""
    rows, columns = left.shape[-2], right.shape[-1]
    if left.dim() == right.dim():
        groups = left.shape[0] if left.dim() == 3 or ends is None else ends.shape[0]
        return left.new_empty(groups, rows, columns)
    return left.new_empty(rows, columns)


def _indexed(func: Any, args: Any) -> Any:
    """Real masks among the indices become positions: of a mask the size of the result is not known without values."""
    if func not in (torch.ops.aten.index.Tensor, torch.ops.aten._unsafe_index.Tensor):
        return args
    found: list[Any] = []
    for index in args[1]:
        if index is not None and index.dtype is torch.bool and not isinstance(index, FakeTensor):
            with _disable_current_modes():
                found += index.nonzero(as_tuple=True)
        else:
            found.append(index)
    return (args[0], found, *args[2:])
