"""Hypothesis strategies that damage files: their bytes, and the values in JSON, YAML, PyTorch and safetensors files."""

from __future__ import annotations

import copy
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

PNG = b"\x89PNG\r\n\x1a\n"
NUMBERS = [-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 16, 32, 36, 100, 255, 256, 2**15, 2**16, 2**24, 2**31, 2**63, 10**30]
TEXTS = [
    "",
    "a",
    "line\nline",
    "\x1b[2J",
    "\0",
    "../../harm",
    "é" * 300,
    "nan",
    "1" * 5000,
    "{}",
    "cuda:99",
    "module.x",
]

LARGEST = 1_000_000
"""Bytes of a damaged file, at most."""

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.floats(),
    st.floats(0, 2),
    st.sampled_from(TEXTS),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=4), st.dictionaries(st.sampled_from(TEXTS), SCALARS, max_size=2))

# What JSON can say and no dict: other numbers, depth, a key twice, half a character.
JSON = [
    "1e999",
    "-0",
    "NaN",
    "9" * 5000,
    "[" * 100_000,
    "{" * 9,
    '{"a": 1, "a": 2}',
    '"\\ud800"',
    '"\\u0000"',
    "",
    "1 2",
]

# What YAML can say and JSON cannot: tags, also those that would run code, aliases, merge keys, keys that are no text.
YAML = [
    "!!int ''",
    "!!float ''",
    "!!bool x",
    "!!timestamp x",
    "!!binary x",
    "!!set {a, b}",
    "!!omap [a]",
    "!!pairs [a]",
]
YAML += [
    "!!python/object/apply:os.mkdir [harm]",
    "!!python/name:os.mkdir",
    "!unknown x",
    "*missing",
    "&a [*a]",
    "{? [1]: 2}",
]
YAML += ["{? {a: 1}: 2}", "{<<: 1}", "&a {<<: *a}", "2001-01-01", "0x", "1__", "190:20:30", "[" * 2000, "{a: " * 2000]
YAML += [
    "[&a [x,x,x,x,x,x,x,x,x], "
    + ", ".join(f"&{b} [{f'*{a},' * 9}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]"
]


@st.composite
def damaged_bytes(draw: DrawFn, seeds: Sequence[bytes], least: int = 0) -> bytes:
    """One of several files after `least` to four damages. PNGs get the right checksums, or all would be refused."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(max(least, draw(st.sampled_from([0, 1, 1, 1, 2, 4])))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        end = start + draw(st.integers(1, 64))
        match draw(st.sampled_from(["bit", "number", "bytes", "insert", "remove", "repeat", "cut", "join"])):
            case "bit" if content:
                content[start] ^= 1 << draw(st.integers(0, 7))
            case "number":
                size, order = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from(["little", "big"]))
                number = draw(st.sampled_from(NUMBERS)) % 256**size
                content[start : start + size] = number.to_bytes(size, order)
            case "bytes":
                content[start:end] = draw(st.binary(min_size=1, max_size=16))
            case "insert":
                content[start:start] = draw(st.binary(min_size=1, max_size=16))
            case "remove":
                del content[start:end]
            case "repeat":
                content[start:end] = content[start:end] * draw(st.sampled_from([2, 3, 100, 2000]))
            case "cut":
                del content[start:]
            case "join":
                content[start:] = draw(st.sampled_from(seeds))[start:]
    del content[LARGEST:]
    return _with_checksums(bytes(content)) if content.startswith(PNG) else bytes(content)


@st.composite
def damaged_tree(draw: DrawFn, tree: Any, values: SearchStrategy[Any] = VALUES) -> Any:
    """Nested dicts and lists after up to four changes: entries replaced, removed, renamed, moved or nested."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 4]))):
        container, key = draw(st.sampled_from(_places(root)))
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "copy", "nest"])):
            case "remove" if container is not root:
                del container[key]
            case "rename" if isinstance(container, dict):
                container[draw(st.sampled_from([*TEXTS, *container]))] = container.pop(key)
            case "copy":
                other, name = draw(st.sampled_from(_places(root)))
                container[key] = copy.deepcopy(other[name])
            case "nest":
                for _ in range(draw(st.sampled_from([1, 2, 100]))):
                    container[key] = [container[key]]
            case _:
                container[key] = draw(values)
    return root[0]


@st.composite
def json_files(draw: DrawFn, trees: Sequence[Any]) -> bytes:
    """JSON with changed values or damaged bytes."""
    tree = draw(damaged_tree(draw(st.sampled_from(trees)), st.one_of(VALUES, st.just("PLACEHOLDER"))))
    content = json.dumps(tree).replace('"PLACEHOLDER"', draw(st.sampled_from(JSON))).encode()
    return draw(st.one_of(st.just(content), damaged_bytes([content], least=1)))


@st.composite
def yaml_files(draw: DrawFn, trees: Sequence[Any]) -> bytes:
    """YAML with changed values, tags and aliases, or damaged bytes."""
    tree = draw(damaged_tree(draw(st.sampled_from(trees)), st.one_of(VALUES, st.just("PLACEHOLDER"))))
    content = yaml.safe_dump(tree).replace("PLACEHOLDER", draw(st.sampled_from(YAML))).encode()
    return draw(st.one_of(st.just(content), damaged_bytes([content], least=1)))


@st.composite
def torch_files(draw: DrawFn, trees: Sequence[Any]) -> bytes:
    """Files of `torch.save`, of the present format or the old one, with changed values or damaged bytes."""
    tree = draw(damaged_tree(draw(st.sampled_from(trees)), st.one_of(VALUES, tensors(), st.builds(Harm))))
    zipped, damage = draw(st.booleans()), draw(st.sampled_from(["values", "values", "pickle", "bytes"]))
    content = _torch(tree, zipped)
    if damage == "pickle" and zipped and content:
        return draw(_with_damaged_pickle(content))
    return content if damage == "values" else draw(damaged_bytes([content], least=1))


@st.composite
def aliased_files(draw: DrawFn, tree: Any, names: Sequence[str]) -> bytes:
    """Files of `torch.save` in which tensors of the named entries are views: of one value, strided, shared.

    Fused optimizers write to every value of a tensor as if it had memory of its own.
    """
    root = copy.deepcopy(tree)
    places = [
        (container, key)
        for container, key in _places([root[name]["state"] for name in names])
        if isinstance(container[key], torch.Tensor)
    ]
    for container, key in draw(st.lists(st.sampled_from(places), min_size=1, max_size=6)):
        shape, room = container[key].shape, torch.zeros(2 * container[key].numel())
        match draw(st.sampled_from(["one value", "one of many", "overlapping", "strided", "shared", "integers"])):
            case "one value":
                container[key] = torch.zeros(1).as_strided(shape, (0,) * len(shape))
            case "one of many":
                container[key] = room.as_strided(shape, (0,) * len(shape))
            case "overlapping":
                container[key] = room.as_strided(shape, (1,) * len(shape))
            case "strided":
                container[key] = room[::2].view(shape)
            case "shared":
                container[key] = draw(st.sampled_from(places))[0].get(key)
            case "integers":
                container[key] = room[::2].long().view(shape)
    return _torch(root, draw(st.booleans()))


@st.composite
def safetensors_files(draw: DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Safetensors with a changed header, whose length is right, or damaged bytes."""
    content = draw(st.sampled_from(seeds))
    if draw(st.booleans()):
        return draw(damaged_bytes([content], least=1))
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(draw(damaged_tree(json.loads(content[8 : 8 + length])))).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


@st.composite
def resized_files(draw: DrawFn, networks: Sequence[tuple[dict[str, Any], dict[str, list[int]]]]) -> bytes:
    """JSON of a network's config.json and the shapes of its tensors: of two networks, or with dimensions of zero.

    A tensor of no values has no bytes in a file, whatever its other dimensions claim.
    """
    (config, _), (_, shapes) = draw(st.sampled_from(networks)), draw(st.sampled_from(networks))
    config, shapes = dict(config), copy.deepcopy(shapes)
    for name in draw(st.lists(st.sampled_from([name for name, value in config.items() if type(value) is int]))):
        config[name] = draw(st.sampled_from([0, 1, 3, 2000, 10**5, 10**9]))
    for name in draw(st.lists(st.sampled_from(sorted(shapes)), max_size=6)):
        size = draw(st.sampled_from([0, 1, 2000, 10**5, 10**9]))
        shapes[name] = draw(
            st.sampled_from([[size, 0], [0, *shapes[name][1:]], [*shapes[name], 0], [min(size, 10**5)]])
        )
    return json.dumps({"config": config, "shapes": shapes}).encode()


@st.composite
def tensors(draw: DrawFn) -> Any:
    """Tensors that no file of ours holds."""
    kinds: Mapping[str, Any] = {
        "nan": lambda: torch.full((2, 2), float("nan")),
        "scalar": lambda: torch.tensor(1.0),
        "empty": lambda: torch.zeros(0),
        "long": lambda: torch.zeros(5000),
        "expanded": lambda: torch.zeros(1).expand(10**12),
        "overlapping": lambda: torch.zeros(16).as_strided((4, 4), (1, 1)),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
        "meta": lambda: torch.zeros(4, device="meta"),
        "integer": lambda: torch.zeros(3, dtype=torch.int64),
        "complex": lambda: torch.zeros(3, dtype=torch.complex64),
        "half": lambda: torch.zeros(3, dtype=torch.bfloat16),
        "bool": lambda: torch.zeros(3, dtype=torch.bool),
        "bytes": lambda: torch.zeros(5056, dtype=torch.uint8),
        "parameter": lambda: torch.nn.Parameter(torch.zeros(3)),
        "many axes": lambda: torch.zeros([1] * 20),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch no longer likes quantized ones.
        return kinds[draw(st.sampled_from(sorted(kinds)))]()


class Harm:
    """Unpickling it creates a folder named "harm", if anything lets it."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, ("harm",)


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """Every entry of nested containers, as (container, key)."""
    places, remaining = [], [root]
    while remaining:
        container = remaining.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            places.append((container, key))
            if isinstance(container[key], tuple):
                container[key] = list(container[key])
            if isinstance(container[key], dict | list) and len(places) < 3000:
                remaining.append(container[key])
    return places


def _torch(tree: Any, zipped: bool) -> bytes:
    file = io.BytesIO()
    try:
        torch.save(tree, file, _use_new_zipfile_serialization=zipped)
    except RuntimeError:
        return b""  # Some tensors cannot be saved in the old format.
    return file.getvalue()


@st.composite
def _with_damaged_pickle(draw: DrawFn, content: bytes) -> bytes:
    """A file of `torch.save` whose pickle is damaged, but whose checksums are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, draw(damaged_bytes([part], least=1)) if name.endswith(".pkl") else part)
    return file.getvalue()


def _with_checksums(content: bytes) -> bytes:
    """Correct the checksums of a PNG's chunks, as far as they can be found."""
    repaired, position = PNG, len(PNG)
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunk = content[position + 4 : position + 8 + length]
        if len(content) < position + 12 + length:
            break
        repaired += content[position : position + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        position += 12 + length
    return repaired + content[position:]
