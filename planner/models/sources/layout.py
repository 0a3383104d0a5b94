"""Collects the modules of a network in forward order; the vocabulary in which the families are written."""

from __future__ import annotations

from collections.abc import Iterable

from planner.contract.spec import ModelSpec, Module, ModuleKind


class ModuleLayout:
    """Modules in forward order. Paths with `{}` repeat over `layers` (set with `repeat`), others stand once."""

    def __init__(self, prefix: str = "") -> None:
        self.modules: list[Module] = []
        self.prefix = prefix
        self.layers: tuple[int, ...] | None = None

    def repeat(self, layers: int | Iterable[int] | None) -> None:
        """From here on paths repeat over these layers (a count or indices); None ends it."""
        self.layers = None if layers is None else tuple(range(layers) if isinstance(layers, int) else layers)

    def _add(self, kind: ModuleKind, path: str, shape: tuple[int, ...], bias: bool, tied_to: str | None = None) -> None:
        if self.layers is not None and not self.layers:
            return
        tied = f"{self.prefix}{tied_to}" if tied_to else None
        module = Module(
            path=f"{self.prefix}{path}", kind=kind, shape=shape, bias=bias, layers=self.layers, tied_to=tied
        )
        self.modules.append(module)

    def linear(self, path: str, inputs: int, outputs: int, bias: bool = False, tied_to: str | None = None) -> None:
        """A linear module, weight (outputs, inputs)."""
        self._add("linear", path, (outputs, inputs), bias, tied_to)

    def conv1d(self, path: str, inputs: int, outputs: int) -> None:
        """GPT-2's transposed linear, weight (inputs, outputs), always with a bias."""
        self._add("conv1d", path, (inputs, outputs), True)

    def embedding(self, path: str, rows: int, width: int) -> None:
        """An embedding table (rows, width)."""
        self._add("embedding", path, (rows, width), False)

    def norm(self, path: str, width: int, bias: bool = False) -> None:
        """A normalisation's weight (width,), with a bias in a layer norm."""
        self._add("norm", path, (width,), bias)

    def parameter(self, path: str, *shape: int) -> None:
        """A bare tensor; the path is the parameter's own name."""
        self._add("parameter", path, shape, False)


def parameter_shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every parameter's full name and shape, tied weights left out: what `named_parameters()` of the network gives."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module in model.modules:
        for index in (0,) if module.layers is None else module.layers:
            path = module.path if module.layers is None else module.path.replace("{}", str(index), 1)
            if module.kind == "parameter":
                shapes[path] = module.shape
                continue
            if module.tied_to is None:
                shapes[f"{path}.weight"] = module.shape
            if module.bias:
                width = module.out_features if module.kind in ("linear", "conv1d") else module.shape[0]
                shapes[f"{path}.bias"] = (width,)
    return shapes
