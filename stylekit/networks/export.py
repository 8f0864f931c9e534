"""Export of networks to ONNX files and torch.export programs, for programs without this library.

The exported graph computes what the library computes for a whole picture, whatever its size: padding by reflection,
normalization that ignores the padding, and cropping are inside. So is the input noise (`stylekit.networks.noise`). The
convolutions are plain ones, since Winograd's algorithm is a detail of PyTorch on CPUs.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stylekit.atomic import atomic_write
from stylekit.networks.blocks import InstanceNorm2d, Statistics
from stylekit.networks.convolutions import Conv2d
from stylekit.networks.tiling import MARGIN, Side, private_copy, sides

Pixels = Literal["uint8", "float32"]

SMALLEST = MARGIN + 4
"""Sides of smaller pictures do not suffice for reflection by the margin; the library pads them less."""

PACKAGES = {".onnx": ("onnx", "onnxscript", "onnxruntime", "sklearn"), ".pt2": ("sklearn",)}
"""Packages of the extra `export` that a format needs."""


def check_packages(suffix: str) -> None:
    """Fail early, with a ValueError, if a package that the format with this suffix needs is missing."""
    try:
        for package in PACKAGES[suffix]:
            import_module(package)
    except ImportError as error:
        raise ValueError(f'export needs the extra "export": pip install ".[export]" ({error})') from error


def run_whole(image: Tensor, network: nn.Module) -> Tensor:
    """`run_tiled` for a whole picture, in operations that can be traced with a symbolic height and width.

    Tracing turns slices of symbolic length into conditions on the size. The picture is therefore padded and cropped by
    indexing, and the statistics are weighted sums.

    The image is (B, 3, H, W), in the range of the network; H and W are at least `SMALLEST`.
    """
    rows, columns = sides(image, network)
    measure = _Measure(rows, columns)
    painter: Any = private_copy(network)
    for module in painter.modules():
        if isinstance(module, InstanceNorm2d):
            module.measure = measure
        elif isinstance(module, Conv2d):
            module.plain = True
    x = painter.with_noise(image).index_select(2, _reflected(rows)).index_select(3, _reflected(columns))
    output: Tensor = painter.finish(painter.model(x), x)
    inside = [torch.arange(side.length) + side.before for side in (rows, columns)]
    return output.index_select(2, inside[0]).index_select(3, inside[1])


def export(
    network: nn.Module, forward: Callable[[Tensor, Any], Tensor], path: Path, pixels: Pixels, properties: dict[str, str]
) -> None:
    """Write a network as an ONNX file (.onnx) or a torch.export program (.pt2), completely or not at all.

    Batch size, height and width are dynamic; the sides are at least `SMALLEST`.

    Args:
        network: On the CPU, in eval mode.
        forward: Maps pictures (B, 3, H, W) in [0, 1] and the network to the same, by means of `run_whole`.
        path: Its suffix is a key of `PACKAGES`.
        pixels: Input and output: "uint8" (B, H, W, 3) in [0, 255], or "float32" (B, 3, H, W) in [0, 1].
        properties: Metadata of the ONNX file.
    """
    axes = {0: "batch"} | ({1: "height", 2: "width"} if pixels == "uint8" else {2: "height", 3: "width"})
    dynamic = {i: torch.export.Dim(name, min=SMALLEST if i else 1) for i, name in axes.items()}
    # Sizes that appear nowhere else: equal ones would be taken for the same.
    example = torch.zeros(2, 48, 56, 3, dtype=torch.uint8) if pixels == "uint8" else torch.zeros(2, 3, 48, 56)
    with torch.no_grad():
        program = torch.export.export(_Exported(network, forward, pixels), (example,), dynamic_shapes=(dynamic,))
    with atomic_write(path) as file:
        if path.suffix == ".onnx":
            file.write(_to_onnx(program, axes, properties))
        else:
            encoded = io.BytesIO()
            torch.export.save(program, encoded)
            file.write(encoded.getbuffer())


def load_exported(path: Path, pixels: Pixels) -> Callable[[Tensor], Tensor]:
    """Load an exported file as a function of pictures (B, 3, H, W) in [0, 1], quantized if `pixels` is "uint8"."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(picture: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {"picture": picture.contiguous().numpy()})[0])
    else:
        run = torch.export.load(path).module()
    return run if pixels == "float32" else lambda image: _from_uint8(run(_to_uint8(image)))


class _Exported(nn.Module):
    """A network with its range conversions, as it is exported."""

    def __init__(self, network: nn.Module, forward: Callable[[Tensor, Any], Tensor], pixels: Pixels) -> None:
        super().__init__()
        self.network = network
        self.function = forward
        self.pixels = pixels

    def forward(self, picture: Tensor) -> Tensor:
        if self.pixels == "float32":
            return self.function(picture, self.network)
        return _to_uint8(self.function(_from_uint8(picture), self.network))


def _reflected(side: Side) -> Tensor:
    """The positions of the picture that padding by reflection puts at each position."""
    last = side.length - 1
    return last - (last - (torch.arange(side.total) - side.before).abs()).abs()


class _Measure:
    """Computes the statistics of a normalization layer without the padding of the picture."""

    def __init__(self, rows: Side, columns: Side) -> None:
        self.height = rows.total
        self.weights = {scale: _weights(rows, scale)[:, None] * _weights(columns, scale) for scale in (1, 2, 4)}

    def __call__(self, x: Tensor) -> Statistics:
        weights = self.weights[int(self.height // x.shape[2])]
        mean = (x * weights).sum((2, 3), keepdim=True)
        difference = x - mean
        return mean, (difference * difference * weights).sum((2, 3), keepdim=True)


def _weights(side: Side, scale: int) -> Tensor:
    """Weights of a mean over the positions inside, in features at 1 / scale of the resolution."""
    position, inside = torch.arange(side.total // scale), side.inside(side.total // scale)
    return ((position >= inside.start) & (position < inside.stop)).float() / (inside.stop - inside.start)


def _from_uint8(picture: Tensor) -> Tensor:
    return picture.permute(0, 3, 1, 2).float() / 255


def _to_uint8(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _to_onnx(program: torch.export.ExportedProgram, axes: dict[int, str], properties: dict[str, str]) -> bytes:
    import onnx

    names: dict[str, Any] = {"input_names": ["picture"], "output_names": ["painting"], "dynamic_shapes": (axes,)}
    exported = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    assert exported is not None
    model = exported.model_proto  # A new object each time.
    onnx.helper.set_model_props(model, properties)
    return model.SerializeToString()
