"""What is fuzzed: for each kind of file the seeds, how they are damaged, and how commands read them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import albumentations
import cv2
import numpy as np
import pillow_heif
import tifffile
import torch
from conftest import official_johnson, write_video
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image, ImageCms
from safetensors.torch import save

import cyclegan.options
import cyclegan.train
import johnson.models
import johnson.options
from cyclegan.data import build_pipelines, pipelines_from_dict
from cyclegan.models import Generator
from cyclegan.translate import load_generator, translate
from fuzz import mutations
from gatys.regions import split_by_color
from gatys.styles import check_preset, load_preset, make_preset, save_preset, style_network
from johnson.stylize import load_network, stylize
from stylekit import cli
from stylekit.networks import weights
from stylekit.options import flatten
from stylekit.pictures import images, photographs
from stylekit.pictures.animations import process_animation
from stylekit.pictures.video import process_video
from stylekit.training.run import Run

PHOTOGRAPH = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)

Verdict = Literal["fine", "refused", "wrong"]


@dataclass(frozen=True)
class File:
    """A damaged file."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Target:
    """A kind of file that is read."""

    files: Callable[[], SearchStrategy[File]]
    """Builds the strategy; it is slow, since it makes the seeds."""
    read: Callable[[Path], object]
    """Reads a file as the commands do, and does with it what shows that it is fit for use."""


def judge(target: Target, file: File) -> tuple[Verdict, str]:
    """Read a file in a folder of its own, as a command would.

    Returns:
        "fine"; "refused" with exit code 2, exactly one line on standard error, and no other file; or "wrong", if
        anything else happened. And what was written to standard error.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            path = Path(folder, file.name)
            path.write_bytes(file.content)
            with _standard_error() as written:
                code = _exit_code(target.read, path)
                text = written()
            names = {found.name for found in Path(folder).rglob("*")}
        finally:
            os.chdir(before)
    if "harm" in names:
        return "wrong", "code from the file was run"
    if code == 0:
        return "fine", text
    if code != 2 or not re.fullmatch(r"fuzz: error: [^\n]{1,2000}\n", text):
        return "wrong", f"exit code {code}\n{text}"
    if leftover := {name for name in names if name.endswith((".part", ".old")) or name.startswith("out")}:
        return "wrong", f"left {sorted(leftover)}\n{text}"
    return "refused", text


def _exit_code(read: Callable[[Path], object], path: Path) -> object:
    try:
        with cli.exit_on_error("fuzz"):
            read(path)
    except SystemExit as stop:
        return stop.code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _standard_error() -> Iterator[Callable[[], str]]:
    """Collect what Python and the C libraries write to standard error."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:

        def written() -> str:
            file.flush()
            file.seek(0)
            return file.read()

        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stderr(file):
                yield written
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _files(name: str, contents: SearchStrategy[bytes]) -> SearchStrategy[File]:
    return st.builds(File, st.just(name), contents)


def _picture_seeds() -> list[tuple[str, bytes]]:
    """Small pictures of every readable format, in their variants."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    rgb, gray, cmyk = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("CMYK")
    palette = rgb.quantize(8)
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    real = Image.fromarray(noise[..., 0].astype(np.float32) / 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    variants: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("png", rgb, {"icc_profile": profile, "exif": exif}),
        ("png", rgba, {}),
        ("png", palette, {"transparency": 1}),
        ("png", deep, {}),
        ("png", rgba.convert("LA"), {}),
        ("png", rgb.convert("1"), {}),
        ("jpg", rgb, {"exif": exif}),
        ("jpg", rgb, {"progressive": True, "icc_profile": profile}),
        ("jpg", cmyk, {}),
        ("jpg", gray, {"restart_marker_blocks": 1}),
        ("webp", rgba, {"lossless": True, "exif": exif}),
        ("webp", rgb, {"quality": 50}),
        ("webp", rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}),
        ("tiff", rgb, {"compression": "tiff_lzw"}),
        ("tiff", rgb, {"compression": "jpeg"}),
        ("tiff", cmyk, {"compression": "tiff_adobe_deflate"}),
        ("tiff", deep, {}),
        ("tiff", real, {"compression": "packbits"}),
        ("tiff", rgb.convert("1"), {"compression": "group4"}),
        ("tiff", rgba, {"save_all": True, "append_images": [rgba]}),
        ("gif", palette, {"save_all": True, "append_images": [palette.rotate(180)], "transparency": 0}),
        ("bmp", rgb, {}),
        ("bmp", palette, {}),
        ("bmp", rgba, {}),
        ("avif", rgba, {}),
    ]
    seeds = []
    for suffix, picture, options in variants:
        file = io.BytesIO()
        picture.save(file, images.FORMATS.get(f".{suffix}", "GIF"), **options)
        seeds.append((suffix, file.getvalue()))
    return seeds


def _pictures() -> SearchStrategy[File]:
    seeds = _picture_seeds()
    by_format: dict[str, list[bytes]] = {}
    for suffix, content in seeds:
        by_format.setdefault(suffix, []).append(content)
    damaged = [_files(f"in.{suffix}", mutations.damaged_bytes(contents)) for suffix, contents in by_format.items()]
    mixed = _files("in.jpg", mutations.damaged_bytes([content for _, content in seeds]))
    return st.one_of(*damaged, mixed)


def _read_picture(path: Path) -> None:
    tensor = images.to_tensor(images.load(path))
    assert tensor.shape[:2] == (1, 3) and tensor.numel() > 0


def _photograph_seeds() -> list[tuple[str, bytes]]:
    """Small pictures with what a painting keeps: 16 bits, alpha, EXIF, profile, frames."""
    noise = np.random.default_rng(0).integers(0, 65536, (9, 13, 4), dtype=np.uint16)
    rgba = Image.fromarray((noise >> 8).astype(np.uint8))
    exif = Image.Exif()
    exif.update({0x0112: 8, 0x0110: "Camera", 0x0132: "2024:05:06 07:08:09"})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    seeds = []
    for suffix, depth in (("png", 4), ("png", 3), ("tiff", 3), ("tiff", 4)):
        file = io.BytesIO()
        if suffix == "png":
            file.write(cv2.imencode(".png", noise[..., :depth])[1])
        else:
            extra = {"extrasamples": ["unassalpha"]} if depth == 4 else {}
            tifffile.imwrite(file, noise[..., :depth], photometric="rgb", compression="zlib", **extra)
        seeds.append((suffix, file.getvalue()))
    moving: dict[str, Any] = {"save_all": True, "append_images": [rgba.rotate(90), rgba.rotate(180)], "loop": 2}
    variants: list[tuple[str, str, Image.Image, dict[str, Any]]] = [
        ("png", "PNG", rgba, moving | {"duration": [50, 70, 90], "icc_profile": profile}),
        ("webp", "WEBP", rgba, moving | {"duration": 80, "exif": exif}),
        ("gif", "GIF", rgba.convert("RGB").quantize(8), moving | {"duration": 60, "transparency": 0}),
        ("tiff", "TIFF", rgba, {"exif": exif, "icc_profile": profile}),
        ("heic", "HEIF", rgba.resize((16, 16)), {"exif": exif, "icc_profile": profile}),
    ]
    pillow_heif.register_heif_opener()
    for suffix, kind, picture, options in variants:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        seeds.append((suffix, file.getvalue()))
    return seeds


def _photographs() -> SearchStrategy[File]:
    return st.one_of(
        [_files(f"in.{suffix}", mutations.damaged_bytes([content])) for suffix, content in _photograph_seeds()]
    )


def _read_photograph(path: Path) -> None:
    """Paint it, as commands for folders do, with a network that changes nothing."""
    photograph = photographs.load(path)
    if photograph.animated:
        process_animation(path, path.with_name("out.webp"), lambda frame: frame)
        return
    for suffix in (".tiff", ".png"):
        photographs.save(photograph.to_tensor(), path.with_name(f"out{suffix}"), photograph)
        again = photographs.load(path.with_name(f"out{suffix}"))
        assert again.image.size == photograph.image.size
        assert (again.deep is None) == (photograph.deep is None) and (again.alpha is None) == (photograph.alpha is None)


@functools.cache
def _mask_seeds() -> list[bytes]:
    colors = np.zeros((6, 8, 3), np.uint8)
    colors[:, 4:] = 255
    colors[3:, :, 1] = 0
    seeds = []
    for mode in ("RGB", "P", "L", "1"):
        file = io.BytesIO()
        Image.fromarray(colors).convert(mode).save(file, "PNG")
        seeds.append(file.getvalue())
    return seeds


def _masks() -> SearchStrategy[File]:
    return _files("mask.png", mutations.damaged_bytes(_mask_seeds()))


def _read_mask(path: Path) -> None:
    mask = images.to_tensor(images.load(path))
    whole = images.to_tensor(Image.open(io.BytesIO(_mask_seeds()[0])))
    split_by_color(mask, [whole], 1)


def _run_configs() -> SearchStrategy[File]:
    trees = [
        cyclegan.options.TrainConfig.from_preset("paint", dataroot="data", name="run").plain(),
        johnson.options.TrainConfig.from_preset("paper", dataroot="data", name="run", style=("painting.jpg",)).plain(),
    ]
    # Earlier versions wrote options without groups.
    return _files("config.json", mutations.json_files([*trees, *map(flatten, trees)]))


def _read_run_config(path: Path) -> None:
    run = path.parent / "checkpoints" / "run"
    run.mkdir(parents=True)
    path.replace(run / "config.json")
    package = johnson if b'"style"' in (run / "config.json").read_bytes() else cyclegan
    assert cli.training_defaults(package.options.TrainConfig, "fuzz", ["--resume", "--name", "run"]).plain()


@functools.cache
def _network(kind: str) -> tuple[dict[str, Any], bytes]:
    """config.json and model.safetensors of a tiny network."""
    torch.manual_seed(0)
    network: Any = johnson.models.TransformerNet(johnson.options.NetworkConfig(2, 1))
    if kind == "cyclegan":
        network = Generator(cyclegan.options.GeneratorConfig(2, 1, noise=0.1))
    with tempfile.TemporaryDirectory() as folder:
        weights.save(network, Path(folder))
        return json.loads(Path(folder, "config.json").read_text()), Path(folder, "model.safetensors").read_bytes()


def _networks() -> SearchStrategy[File]:
    files = []
    for kind in ("cyclegan", "johnson"):
        config, content = _network(kind)
        files.append(_files(f"{kind}.json", mutations.json_files([config])))
        files.append(_files(f"{kind}.safetensors", mutations.safetensors_files([content])))
        sizes = [
            config | {size: number} for size in ("ngf", "width", "n_blocks") if size in config for number in (1, 2)
        ]
        files.append(_files(f"{kind}.sizes", mutations.resized_files([(c, _shapes(kind, c)) for c in sizes])))
    return st.one_of(files)


def _shapes(kind: str, config: dict[str, Any]) -> dict[str, list[int]]:
    arguments: Any = cyclegan.options.GeneratorConfig if kind == "cyclegan" else johnson.options.NetworkConfig
    network: Any = Generator if kind == "cyclegan" else johnson.models.TransformerNet
    return {name: list(tensor.shape) for name, tensor in network(arguments(**config)).state_dict().items()}


def _read_network(path: Path) -> None:
    folder = path.parent / "network"
    folder.mkdir()
    config, content = _network(path.stem)
    if path.suffix == ".sizes":
        sizes = json.loads(path.read_text())
        config, content = sizes["config"], save({name: torch.zeros(s) for name, s in sizes["shapes"].items()})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(content)
    path.replace(folder / {".json": "config.json", ".safetensors": "model.safetensors"}.get(path.suffix, path.name))
    if path.stem == "cyclegan":
        painted = translate(PHOTOGRAPH, load_generator(folder))
    else:
        painted = stylize(PHOTOGRAPH, load_network(folder))
    assert painted.shape == PHOTOGRAPH.shape


@functools.cache
def _run() -> tuple[cyclegan.options.TrainConfig, cyclegan.train.State]:
    """A run with the smallest networks, resumed."""
    tiny = {"ngf": 1, "ndf": 1, "n_blocks": 0, "n_layers_d": 1, "crop_size": 32, "load_size": 36, "pool_size": 2}
    config = cyclegan.options.TrainConfig.from_preset(
        "paper", dataroot="data", name="run", device="cpu", amp="off", resume=True, **tiny
    )
    return config, cyclegan.train.build_state(config, torch.device("cpu"))


@functools.cache
def _checkpoint() -> dict[str, Any]:
    config, state = _run()
    pipelines = build_pipelines("paper", 36, 32)
    for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
        _step(optimizer)
    state.pool_x(torch.zeros(2, 3, 32, 32))
    entries = {"config": config.plain(), "wandb_run_id": None}
    entries |= {"step": 3, "epoch": 1, "step_in_epoch": 1, "seconds": 1.5, "pipelines": pipelines.to_dict()}
    return dict(state.state_dict()) | entries


def _checkpoints() -> SearchStrategy[File]:
    return _files("last.pt", mutations.torch_files([_checkpoint()]))


def _aliased_checkpoints() -> SearchStrategy[File]:
    """Checkpoints whose optimizers have strided, expanded and shared tensors of the right shapes."""
    return _files("last.pt", mutations.aliased_files(_checkpoint(), ("generator_optimizer", "discriminator_optimizer")))


def _read_checkpoint(path: Path) -> None:
    config, state = _run()
    run = path.parent / "run"
    run.mkdir()
    path.replace(run / "last.pt")
    with Run(dataclasses.replace(config, checkpoints_dir=path.parent), cyclegan.train.FIXED) as resumed:
        pipelines = resumed.saved_entry("pipelines", dict, depends_on=("augment", "load_size", "crop_size"))
        if pipelines is not None:
            pipelines_from_dict(pipelines, config.data.crop_size)
        resumed.restore(state)
    # The first step of a resumed run.
    for optimizer in (state.generator_optimizer, state.discriminator_optimizer):
        _step(optimizer)
        for values in optimizer.state.values():
            for value in values.values():
                assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    for pool in (state.pool_x, state.pool_y):
        pool(torch.zeros(2, 3, 32, 32))
    state.ema.update_parameters(state.generators)


def _step(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def _official() -> SearchStrategy[File]:
    generator = Generator(cyclegan.options.GeneratorConfig(2, 1, "transposed")).state_dict()
    old = {f"module.{name}": value for name, value in generator.items()}
    files = [
        _files("net_G.pth", mutations.torch_files([dict(generator), old])),
        _files("mosaic.pth", mutations.torch_files([official_johnson(2)])),
    ]
    return st.one_of(files)


def _read_official(path: Path) -> None:
    if path.name == "mosaic.pth":
        stylize(PHOTOGRAPH, load_network(path))
    else:
        translate(PHOTOGRAPH, load_generator(path))


def _safetensors() -> SearchStrategy[File]:
    tensors = {"a": torch.ones(3, 2), "b.c": torch.zeros(4, dtype=torch.bfloat16), "d": torch.tensor(7)}
    seed = save(tensors, {"fingerprint": "x"})
    return _files("net.safetensors", mutations.safetensors_files([seed]))


@functools.cache
def _style_network() -> Any:
    return style_network("compact", None, "max")


def _presets() -> SearchStrategy[File]:
    painting = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))
    preset = make_preset([painting], _style_network())
    preset.grams[256] = preset.grams[128]
    with tempfile.TemporaryDirectory() as folder:
        save_preset(preset, Path(folder, "style.safetensors"))
        content = Path(folder, "style.safetensors").read_bytes()
    return _files("style.safetensors", mutations.safetensors_files([content]))


def _read_preset(path: Path) -> None:
    preset = load_preset(path)
    check_preset(preset, _style_network(), ("relu1_1", "relu2_1"))
    for size in (64, 200, 4000):
        for gram in preset.at(size).values():
            assert gram.ndim == 3 and gram.isfinite().all()


def _augmentations() -> SearchStrategy[File]:
    a = albumentations
    choice = a.OneOf([a.Rotate(limit=5), a.GaussianBlur(), a.RandomScale(0.2), a.CoarseDropout()])
    steps = [a.Resize(40, 40), choice, a.PadIfNeeded(48, 48), a.RandomCrop(32, 32), a.ColorJitter(), a.HorizontalFlip()]
    pipeline = a.Compose(steps)
    plain = json.loads(json.dumps(a.to_dict(pipeline)))
    trees = [plain, {"x": plain, "y": plain}, {"x": plain, "y": json.loads(json.dumps(plain))}]
    files = [
        _files("pipeline.json", mutations.json_files(trees)),
        _files("pipeline.yaml", mutations.yaml_files(trees)),
    ]
    return st.one_of(files)


def _read_augmentation(path: Path) -> None:
    build_pipelines(str(path), 36, 32)


def _videos() -> SearchStrategy[File]:
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8))
    files = []
    with tempfile.TemporaryDirectory() as folder:
        sounds = {"in.mp4": "aac", "in.mov": None, "in.mkv": "aac", "in.webm": None, "in.avi": None}
        for name, sound in sounds.items():
            content = write_video(Path(folder, name), frames, sound).read_bytes()
            files.append(_files(name, mutations.damaged_bytes([content])))
    return st.one_of(files)


def _read_video(path: Path) -> None:
    process_video(path, path.with_name("out.mp4"), lambda frame: frame, size=64)


TARGETS = {
    "pictures": Target(_pictures, _read_picture),
    "photographs": Target(_photographs, _read_photograph),
    "masks": Target(_masks, _read_mask),
    "configurations of runs": Target(_run_configs, _read_run_config),
    "networks": Target(_networks, _read_network),
    "checkpoints": Target(_checkpoints, _read_checkpoint),
    "aliased optimizer states": Target(_aliased_checkpoints, _read_checkpoint),
    "official files": Target(_official, _read_official),
    "safetensors": Target(_safetensors, weights.load_tensors),
    "presets": Target(_presets, _read_preset),
    "augmentations": Target(_augmentations, _read_augmentation),
    "videos": Target(_videos, _read_video),
}
