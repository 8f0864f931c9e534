"""Finding, loading and saving networks: bundled weights, folders, official files, Hugging Face Hub ids.

Reading never runs code: safetensors, or `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import mimetypes
import pickle
import pickletools
import re
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar, get_type_hints

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from stylekit.atomic import atomic_folder
from stylekit.distributed import is_main
from stylekit.options import hidden

N = TypeVar("N", bound=Any)

BUNDLED = Path(__file__).parents[1] / "_weights"  # In an installed package; below, in a checkout.
if not BUNDLED.is_dir():
    BUNDLED = Path(__file__).parents[2] / "weights"

_FILES = ("config.json", "model.safetensors")

_LONGEST_HEADER = 10**6
"""Bytes of the names and shapes in a file of weights: of some 10,000 tensors; more can take seconds to read."""


class Network(
    nn.Module, PyTorchModelHubMixin, library_name="image-translation", license="mit", tags=["image-to-image"]
):
    """A network that `from_pretrained` loads from a folder or the Hugging Face Hub."""


def find(name: str | Path, kind: str = "") -> Path | str:
    """Locate weights: a path, a bundled network in the subfolder `kind`, or a Hugging Face Hub id, returned as a str.

    A Hub id is hf:owner/name, or owner/name unless that could be a path or a misspelled run or network.
    """
    name, names = str(name), bundled(kind)
    path = Path(name)
    if name in names and not any((path / part).exists() for part in ("config.json", "G", "model")):
        return names[name]  # A folder of that name without a network may hold results.
    if path.is_file() and (mimetypes.guess_type(name)[0] or "").startswith("image"):
        raise ValueError(
            f"{name} is a picture, not a network; `gatys photo.jpg {name}` paints in the style of a painting"
        )
    if name and path.exists():
        if name in names and is_main():
            print(f"note: {name} is the folder ./{name}, not the bundled network", file=sys.stderr)
        return path
    if hub := re.fullmatch(r"(hf:)?([\w-][\w.-]*)/([\w.-]+)", name):
        prefix, owner, network = hub.groups()
        is_file = path.suffix.startswith((".p", ".s"))
        is_path = is_file or owner == "checkpoints" or Path(owner).exists()
        if prefix or not (is_path or similar(name, names)):
            return f"{owner}/{network}"
    expected = "expected a training run, a folder, a file, a Hugging Face Hub id (hf:owner/name), or one of "
    expected += ", ".join(names) or "the bundled networks (none found)"
    raise FileNotFoundError(f"no network {name}; {similar(name, names) or expected}")


def similar(name: str, names: Iterable[str]) -> str:
    """A question about the most similar of `names`, the runs, and what lies beside the path `name`; or nothing."""
    known = dict(zip(names, names, strict=True))
    for path in (*Path("checkpoints").glob("*"), *Path(name).parent.glob("*")):
        known |= {path.name: str(path), str(path): str(path)}
    near = difflib.get_close_matches(name, known, 1, 0.75)
    return f"did you mean {known[near[0]]}?" if near else ""


def load(network: type[N], found: Path | str, what: str, run: str) -> N:
    """Load a network in eval mode from a folder with config.json and model.safetensors, an official file, or the Hub.

    Args:
        network: Class with `from_official`, and the arguments of config.json.
        found: Result of `find`.
        what, run: The network, and the training run that could have been given instead, in error messages.

    Raises:
        ValueError: The weights are damaged or belong to another network.
    """
    path = found if isinstance(found, Path) else _download(found)
    loaded = network.from_official(path) if path.is_file() else _load_folder(network, path, what, run)
    for name, tensor in loaded.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():  # It could only paint black.
            raise ValueError(f"{found}: {name} is infinite or NaN; the network is damaged, or its training diverged")
    return loaded


def _download(name: str) -> Path:
    """The folder with the two files of a network on the Hub, or of its copy in the cache if the Hub is out of reach."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    failure = None
    try:
        get_hf_file_metadata(hf_hub_url(name, _FILES[0]))  # Fails at once, where a download tries again for a minute.
    except Exception as error:  # Of huggingface_hub or its HTTP client.
        failure = error
    try:
        folder, _ = (Path(hf_hub_download(name, file, local_files_only=bool(failure))).parent for file in _FILES)
        return folder
    except Exception as error:
        reached = isinstance(failure or error, HfHubHTTPError)
        reason = "no such network on the Hugging Face Hub" if reached else "the Hugging Face Hub cannot be reached"
        raise OSError(f"hf:{name}: {reason} ({_first_line(failure or error)})") from error


def _load_folder(network: type[N], folder: Path, what: str, run: str) -> N:
    """Nothing is built before the arguments in config.json fit the names and shapes of the tensors."""
    if missing := [file for file in _FILES if not (folder / file).is_file()]:
        raise FileNotFoundError(
            f"no {' and no '.join(missing)} in {folder}; expected a folder with config.json and model.safetensors, "
            f"or {run}"
        )
    tensors = load_tensors(folder / "model.safetensors")
    try:
        arguments = _read_config(folder / "config.json", network, len(tensors))
        with torch.device("meta"):
            expected = network(**arguments).state_dict()
    except Exception as error:  # Networks raise almost anything on arguments that nobody meant to write.
        raise ValueError(f"{folder}: config.json does not describe {what} ({_first_line(error)})") from error
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    check_shapes(tensors, shapes, folder / "model.safetensors", "config.json")
    loaded = network(**arguments).eval()
    loaded.load_state_dict(tensors)
    return loaded


def _read_config(path: Path, network: type[Any], tensors: int) -> dict[str, Any]:
    """The arguments of a network in config.json, of the right types, with no more layers than there are tensors."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"a JSON {type(config).__name__}, expected an object")
    kind = get_type_hints(network.__init__).get("config")
    types, exact = get_type_hints(kind or network.__init__), ConfigDict(strict=True, allow_inf_nan=False)
    arguments = {name: value for name, value in config.items() if name in types}
    for name, value in arguments.items():
        try:
            TypeAdapter(types[name], config=exact).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{name} is {value!r}: {error.errors()[0]['msg']}") from error
        if name.startswith("n_") and value > tensors:
            raise ValueError(f"{name} is {value}, but model.safetensors has only {tensors} tensors")
    return arguments if kind is None else {"config": kind(**arguments)}


def save(network: PyTorchModelHubMixin, folder: Path) -> None:
    """Write config.json and model.safetensors, each completely or not at all; `from_pretrained` reads them."""
    with atomic_folder(folder) as partial:
        network.save_pretrained(partial)
        (partial / "README.md").unlink(missing_ok=True)  # The mixin's generic model card.
        # safetensors creates files that only their owner can read.
        (partial / "model.safetensors").chmod((partial / "config.json").stat().st_mode)


def copy_weights(copies: Iterable[tuple[torch.nn.Module, torch.nn.Module]], given: str) -> None:
    """Copy weights between networks of the same class, (source, target); all or none.

    Options without weights may differ where the network still paints alike: how much noise there is, how much of the
    colors is kept, and the limit of normalized features, unless the network was trained with one. The error for other
    differences names the flag that was `given`, and those that make the architectures equal.
    """
    copies = list(copies)
    different: dict[str, Any] = {}
    without_flag: set[str] = set()
    for source, target in copies:
        expected = config_of(target)
        for name, value in config_of(source).items():
            other = expected.get(name)
            may_differ = name in ("keep_colors", "keep_black", "noise_size", "draft") or (
                name in ("noise", "limit") and bool(other) and (bool(value) or name == "limit")
            )
            if value != other and not may_differ:
                different.setdefault(name, value)
        if dataclasses.is_dataclass(config := target._hub_mixin_config):
            without_flag |= hidden(type(config)) & different.keys()
    if different:
        flags = " ".join(_flag(name, value) for name, value in different.items() if name not in without_flag)
        rest = ", ".join(f"{name}={different[name]!r}" for name in different if name in without_flag)
        needed = [f"add {flags}"] * bool(flags) + [f"{rest} has no flag: try --preset paint"] * bool(rest)
        raise ValueError(f"{given}: its architecture differs from the options; {'; '.join(needed)}")
    for source, target in copies:
        target.load_state_dict(source.state_dict())


def config_of(network: torch.nn.Module) -> dict[str, Any]:
    """What `config.json` of a network holds."""
    config: Any = network._hub_mixin_config
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)  # type: ignore[arg-type]


def bundled(kind: str = "") -> dict[str, Path]:
    """The bundled networks of a subfolder of weights/ (folders with config.json and model.safetensors), by name."""
    return {path.parent.name: path.parent for path in sorted((BUNDLED / kind).glob("*/config.json"))}


def bundled_file(name: str) -> Path:
    """A bundled file by its path in weights/."""
    if not (BUNDLED / name).is_file():
        raise FileNotFoundError(f"bundled file {name} is missing; reinstall the package")
    return BUNDLED / name


def read_torch_file(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a dict of tensors and plain values written by `torch.save`: nothing in the file can run code.

    A ValueError says that the file is truncated, holds pickled objects, or is not a PyTorch file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with path.open("rb") as file:
            (_check_zip if file.read(4) == b"PK\3\4" else _check_old)(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of its own old formats.
            objects = torch.load(path, map_location=device, weights_only=True)
    except MemoryError as error:
        raise ValueError(f"{path}: damaged, or larger than the memory of this machine") from error
    except PermissionError as error:
        raise ValueError(f"{path}: permission denied") from error
    except Exception as error:  # PyTorch raises almost anything on damaged files.
        if isinstance(error, pickle.UnpicklingError) and "unsupported" in str(error).lower():
            raise ValueError(
                f"{path}: contains a pickled object, which could run code; expected tensors only"
            ) from error
        raise ValueError(
            f"{path}: truncated or damaged, or has too many tensors; expected a complete file saved by torch.save"
        ) from error
    if not isinstance(objects, dict):
        raise ValueError(f"{path}: contains a {type(objects).__name__}; expected a dict")
    _check_plain(objects, path)
    return objects


def _check_zip(file: IO[bytes]) -> None:
    """torch.load ignores checksums. torch.save does not compress, so no file is larger than it looks."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        header = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
        if not 0 < header <= _LONGEST_HEADER or len(entries) > _LONGEST_HEADER // 100:
            raise ValueError("too many tensors")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or archive.testzip():
            raise ValueError("wrong checksum or compressed")


def _check_old(file: IO[bytes]) -> None:
    """Files of PyTorch before 1.6 begin with five pickles: three of the format, the objects, the names of storages."""
    file.seek(0)
    for _ in range(5):
        for _, _, position in pickletools.genops(file):
            if (position or 0) > _LONGEST_HEADER:
                raise ValueError("too many tensors")


def _check_plain(objects: Any, path: Path) -> None:
    """Check that nested dicts have plain keys, and that tensors are dense and hold as many values as they claim."""
    remaining, seen = [objects], set()
    while remaining:
        value = remaining.pop()
        if isinstance(value, Tensor):
            dense = value.layout == torch.strided and not value.is_quantized and value.device.type != "meta"
            # A view with stride 0 can claim any size.
            if not dense or value.untyped_storage().nbytes() < value.numel() * value.element_size():
                raise ValueError(f"{path}: contains a sparse, quantized, empty or expanded tensor; expected dense ones")
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # A list can contain itself.
            if isinstance(value, dict):
                if other := next((key for key in value if not isinstance(key, str | int)), None):
                    raise ValueError(f"{path}: has a key of type {type(other).__name__}; expected names")
                value = value.values()
            remaining += value


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a `.safetensors` file or a file written by `torch.save`, else ValueError."""
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        with path.open("rb") as file:
            if (header := int.from_bytes(file.read(8), "little")) > _LONGEST_HEADER:
                raise ValueError(f"{path}: damaged, or has too many tensors (a header of {header:,} bytes)")
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, LookupError) as error:
            raise ValueError(f"{path}: truncated or damaged ({_first_line(error)})") from error
    objects = read_torch_file(path)
    for name, value in objects.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: {name} is a {type(value).__name__}; expected a state dict of tensors")
    return objects


def check_shapes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], path: str | Path, what: str
) -> None:
    """Raise a ValueError that lists the differences if a state dict has other names or shapes than `what` in `path`."""
    differences = [f"missing {key}" for key in expected if key not in tensors]
    differences += [f"unexpected {key}" for key in tensors if key not in expected]
    differences += [
        f"{key} has shape {tuple(tensors[key].shape)}, expected {tuple(shape)}"
        for key, shape in expected.items()
        if key in tensors and tensors[key].shape != shape
    ]
    if differences:
        shown = "; ".join(differences[:4]) + ("; ..." if len(differences) > 4 else "")
        raise ValueError(f"{path}: does not match {what}: {shown}")


def _flag(name: str, value: Any) -> str:
    flag = {"n_layers": "n_layers_d"}.get(name, name).replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value:g}" if isinstance(value, float) else f"--{flag} {value}"


def _first_line(error: BaseException) -> str:
    return textwrap.shorten(str(error).strip().split("\n")[0] or type(error).__name__, 200)
