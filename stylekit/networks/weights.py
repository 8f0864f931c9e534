"""Finding, loading and saving networks: bundled weights, folders, official files, Hugging Face Hub ids.

Reading never runs code: safetensors, or `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import pickle
import textwrap
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor

from stylekit.atomic import atomic_folder

N = TypeVar("N", bound=Any)

_FOLDERS = (Path(__file__).parent.parent / "_weights", Path(__file__).parents[2] / "weights")
"""Where bundled weights are: in an installed package and in a checkout."""


def find(name: str | Path, kind: str = "") -> Path | str:
    """Locate weights: an existing path, else the name of a bundled network, else a Hub id (`user/model`).

    Args:
        kind: Subfolder of weights/ with the bundled networks of this kind.

    Raises:
        FileNotFoundError: None of these; the message lists the bundled names.
    """
    path, names = Path(name), bundled(kind)
    if path.exists():
        return path
    if str(name) in names:
        return names[str(name)]
    parts = str(name).split("/")
    # A Hub id has exactly one slash. A leading dot or a weight-file suffix means that a path was intended.
    if (
        len(parts) == 2
        and all(parts)
        and not parts[0].startswith((".", "~"))
        and not path.suffix.startswith((".p", ".s"))
    ):
        return str(name)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise FileNotFoundError(
        f"no weights {name}: {hint}expected a folder, a file, a Hugging Face Hub id (user/model), or one of "
        f"{', '.join(names) or 'the bundled networks (none found)'}"
    )


def load(network: type[N], found: Path | str, what: str, run: str) -> N:
    """Load a network in eval mode from a folder with config.json and model.safetensors, an official file, or the Hub.

    Args:
        network: Class with `from_pretrained` and `from_official`.
        found: Result of `find`.
        what: The network in error messages, for example "a generator".
        run: The training run that could have been given instead, in error messages.

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: The weights are damaged or belong to another network.
        OSError: The Hub cannot be reached.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    if isinstance(found, Path):
        if found.is_file():
            official = network.from_official(found)
            _check_finite(official, found)
            return official
        missing = [file for file in ("config.json", "model.safetensors") if not (found / file).is_file()]
        if missing:
            raise FileNotFoundError(
                f"no {' and no '.join(missing)} in {found}; expected a folder with config.json and model.safetensors, "
                f"or {run}"
            )
    try:
        if isinstance(found, Path):
            # from_pretrained would print that it reads a local folder.
            loaded = network(**_read_config(found, network)).eval()
            load_model(loaded, found / "model.safetensors")
        else:
            loaded = network.from_pretrained(found, strict=True).eval()
    except (json.JSONDecodeError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{found}: config.json does not describe {what} ({_first_line(error)})") from error
    except SafetensorError as error:
        raise ValueError(f"{found}: model.safetensors is truncated or damaged ({_first_line(error)})") from error
    except RuntimeError as error:
        raise ValueError(f"{found}: model.safetensors does not match config.json ({_first_line(error)})") from error
    except OSError as error:
        if isinstance(found, Path):
            raise ValueError(f"{found}: cannot be read ({error.strerror or _first_line(error)})") from error
        raise OSError(f"{found}: no such folder, and the Hub cannot be reached ({_first_line(error)})") from error
    except MemoryError:
        raise
    except Exception as error:  # Libraries raise almost anything on files that nobody meant to write.
        raise ValueError(f"{found}: not {what} ({type(error).__name__}: {_first_line(error)})") from error
    _check_finite(loaded, found)
    return loaded


def _check_finite(network: torch.nn.Module, source: Path | str) -> None:
    """Refuse a network that can only paint black.

    Raises:
        ValueError: A weight is infinite or NaN; the message names it.
    """
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{source}: {name} is infinite or NaN; the network is damaged, or its training diverged")


def _read_config(folder: Path, network: type[Any]) -> dict[str, Any]:
    """The arguments of a network in config.json, checked before anything of the size that they ask for is built.

    Every integer in it is a number of channels, layers or pixels, and the file with the weights has at least as many.

    Raises:
        ValueError: It is not a JSON object, a number is larger, or a value has another type than the argument of the
            network.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"a JSON {type(config).__name__}, expected an object")
    with safe_open(folder / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in list(file.keys())]
    largest = max([len(shapes), *(side for shape in shapes for side in shape)])
    for name, value in config.items():
        if isinstance(value, int) and value > largest:
            raise ValueError(f"{name} is {value}, but model.safetensors has at most {largest} layers or channels")
    kind = get_type_hints(network.__init__).get("config")
    types, exact = get_type_hints(kind or network.__init__), ConfigDict(strict=True, allow_inf_nan=False)
    for name in config.keys() & types.keys():
        try:
            TypeAdapter(types[name], config=exact).validate_python(config[name])
        except ValidationError as error:
            raise ValueError(f"{name} is {config[name]!r}: {error.errors()[0]['msg']}") from error
    arguments = {name: config[name] for name in config.keys() & types.keys()}
    return arguments if kind is None else {"config": kind(**arguments)}


def save(network: PyTorchModelHubMixin, folder: Path) -> None:
    """Write config.json and model.safetensors, each completely or not at all; `from_pretrained` reads them.

    Raises:
        OSError: The folder is not writable.
    """
    with atomic_folder(folder) as partial:
        network.save_pretrained(partial)
        (partial / "README.md").unlink(missing_ok=True)  # The mixin's generic model card.
        # safetensors creates files that only their owner can read.
        (partial / "model.safetensors").chmod((partial / "config.json").stat().st_mode)


def copy_weights(copies: Iterable[tuple[torch.nn.Module, torch.nn.Module]], given: str) -> None:
    """Copy weights between networks of the same class, (source, target); all or none.

    Options without weights may differ where the network still paints alike: how much noise there is, how much of the
    colors is kept, and the limit of normalized features, but for a network that was trained with one.

    Args:
        given: The flag and its value, for the error message.

    Raises:
        ValueError: Their architectures differ; the message names the flags that make them equal.
    """
    copies = list(copies)
    different: dict[str, Any] = {}
    for source, target in copies:
        found, expected = config_of(source), config_of(target)
        for name, value in found.items():
            other = expected.get(name)
            may_differ = name in ("keep_colors", "keep_black", "noise_size") or (
                name in ("noise", "limit") and bool(other) and (bool(value) or name == "limit")
            )
            if value != other and not may_differ:
                different.setdefault(name, value)
    if different:
        flags = " ".join(_flag(name, value) for name, value in different.items())
        raise ValueError(f"{given}: its architecture differs from the options; add {flags}")
    for source, target in copies:
        target.load_state_dict(source.state_dict())


def config_of(network: torch.nn.Module) -> dict[str, Any]:
    """What `config.json` of a network holds."""
    config: Any = network._hub_mixin_config
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) else dict(config)  # type: ignore[arg-type]


def bundled(kind: str = "") -> dict[str, Path]:
    """The bundled networks, folders with config.json and model.safetensors, sorted by name.

    Args:
        kind: Subfolder of weights/.
    """
    for folder in _FOLDERS:
        if (folder / kind).is_dir():
            return {path.parent.name: path.parent for path in sorted((folder / kind).glob("*/config.json"))}
    return {}


def bundled_file(name: str) -> Path:
    """A bundled file by its path in weights/.

    Raises:
        FileNotFoundError: The installation is incomplete.
    """
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"bundled file {name} is missing; reinstall the package")


def bundled_files(subfolder: str, suffix: str) -> dict[str, Path]:
    """The bundled files with a suffix in a subfolder of weights/, sorted by name."""
    for folder in _FOLDERS:
        if (folder / subfolder).is_dir():
            return {path.stem: path for path in sorted((folder / subfolder).glob(f"*{suffix}"))}
    return {}


def read_torch_file(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a dict written by `torch.save`, restricted to tensors and plain values: nothing in the file can run code.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, holds pickled objects, or is not a PyTorch file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of its own old formats.
            objects = torch.load(path, map_location=device, weights_only=True)
    except MemoryError as error:
        raise ValueError(f"{path}: damaged, or larger than the memory of this machine") from error
    except pickle.UnpicklingError as error:
        if "unsupported" in str(error).lower():
            raise ValueError(
                f"{path}: contains a pickled object, which could run code; expected tensors only"
            ) from error
        raise ValueError(f"{path}: damaged or not a PyTorch file; expected tensors saved by torch.save") from error
    except PermissionError as error:
        raise ValueError(f"{path}: permission denied") from error
    except Exception as error:  # PyTorch raises almost anything on damaged files.
        raise ValueError(f"{path}: truncated or damaged; expected a complete file saved by torch.save") from error
    if not isinstance(objects, dict):
        raise ValueError(f"{path}: contains a {type(objects).__name__}; expected a dict")
    _check_plain(objects, path)
    return objects


def _check_archive(path: Path) -> None:
    """Check the checksums of a zip file, which `torch.load` ignores, and that it is no larger than it looks.

    `torch.save` does not compress. Old files are no zip files and have no checksums.

    Raises:
        ValueError: A checksum does not match, or an entry is compressed.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("compressed entries")
        if damaged := archive.testzip():
            raise ValueError(f"wrong checksum of {damaged}")


def _check_plain(objects: Any, path: Path) -> None:
    """Check that nested dicts have plain keys, and that tensors are dense and hold as many values as they claim.

    Raises:
        ValueError: They do not.
    """
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
    """Read a state dict from a `.safetensors` file or a file written by `torch.save`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or contains anything but named tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, LookupError) as error:
            raise ValueError(f"{path}: truncated or damaged ({_first_line(error)})") from error
    objects = read_torch_file(path)
    other = next((f"{name} is a {type(v).__name__}" for name, v in objects.items() if not isinstance(v, Tensor)), "")
    if other:
        raise ValueError(f"{path}: {other}; expected a state dict of tensors")
    return objects


def check_shapes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], path: str | Path, what: str
) -> None:
    """Check that a state dict has exactly the expected names and shapes.

    Args:
        path: The file, for the error message.
        what: The network, for the error message.

    Raises:
        ValueError: It does not; the message lists the differences.
    """
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
    """The first informative line: PyTorch's lists of keys start with a heading."""
    lines = [line.strip() for line in str(error).splitlines() if not line.endswith(":")]
    return textwrap.shorten((lines or [type(error).__name__])[0], 200)
