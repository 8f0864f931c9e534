"""Train the bundled compact VGG: `python recipes/vgg_compact.py PICTURES --teacher FILE -o FOLDER`.

The student has the layout of VGG-19 up to relu5_1, with fewer channels in the early layers and low-rank convolutions in
the late ones. It learns to reproduce the teacher's activations (cf. Wang et al. 2020, collaborative distillation, arXiv
2003.08436): directly in the late layers, through a linear map in the early ones. The maps are discarded after training.
Where teacher = W student, equal Gram matrices of the student imply equal Gram matrices of the teacher, which is what a
loss network for style needs.

Two choices matter. The student is initialized in closed form, layer by layer, each layer correcting the errors of those
before it (`compress`). And it is trained on the pictures that it will be used on: an optimizer that follows the student
leaves the set of natural pictures wherever the student errs. So half of each batch are pictures that are being
optimized, from a photograph, a blend or noise, toward the student's Gram matrices of another picture, as in Gatys et
al. (2016).
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from stylekit import cli, devices
from stylekit.atomic import atomic_write
from stylekit.networks.vgg import LowRankConv2d, VGGFeatures, architecture, layer_names, rescale
from stylekit.pictures import images
from stylekit.training import checkpoint
from stylekit.training.signals import collect_signals

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")
"""Layers at which student and teacher are compared: the style layers and the content layer of Gatys et al."""
TRAINED = LAYERS[2:]
"""Layers that are trained. Earlier ones stay as `compress` made them: with so few channels they improve little, and
they take most of the time."""


@dataclass(frozen=True)
class DistillConfig:
    """Train a compact VGG to reproduce the activations of VGG-19."""

    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Folders with photographs and paintings of at least 128 px."""

    teacher: str | None = None
    """Weights of VGG-19. Default: torchvision's, downloaded once."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("vgg-compact")
    """Folder for model.safetensors, last.pt and metrics.jsonl."""

    resume: bool = False
    """Resume from last.pt in the output folder."""

    fit_crops: int = 600
    """Pictures for the closed-form initialization; fewer are faster."""

    max_minutes: float = 60.0
    """Training time in minutes; the learning rate decays to zero by then."""

    lr: float = 5e-5
    """Peak learning rate of Adam. Larger steps destroy the closed-form initialization."""

    batch_size: int = 8
    """Pictures per step: half from the folders, half being optimized."""

    crop_size: int = 128
    """Side of the training crops, in pixels."""

    lambda_gram: float = 0.2
    """Weight of the Gram matrix loss relative to the activation loss."""

    walk: int = 80
    """Steps for which a picture is optimized before it is replaced."""

    walkers: int = 32
    """Number of pictures being optimized at a time."""

    save_minutes: float = 5.0
    """Minutes between checkpoints."""

    seed: int = 0
    """Random seed."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ValueError("no pictures: give at least one folder")
        for flag in ("fit_crops", "max_minutes", "lr", "batch_size", "walk", "walkers", "save_minutes"):
            if getattr(self, flag) <= 0:
                raise ValueError(f"--{flag.replace('_', '-')} must be positive, got {getattr(self, flag)}")
        if self.batch_size % 2 or self.walkers < self.batch_size // 2:
            raise ValueError(f"--batch-size {self.batch_size} must be even, and half of it at most --walkers")
        if self.crop_size % 16 or self.crop_size < 32:
            raise ValueError(f"--crop-size must be a multiple of 16, at least 32, got {self.crop_size}")


def distill(config: DistillConfig) -> Path:
    """Train the student, or resume, until the time is over or a signal arrives; return the weights file.

    Raises:
        FileNotFoundError: There are no pictures, no teacher weights, or no run to resume.
        ValueError: The teacher weights are not those of VGG-19.
        OSError: A file cannot be written.
    """
    torch.manual_seed(config.seed)
    device = devices.choose_device(config.device)
    target = config.output / "last.pt"
    if target.exists() and not config.resume:
        raise FileExistsError(f"{target} already exists; continue it with --resume or choose another --output")
    pictures = Pictures(config)
    teacher = VGGFeatures(LAYERS, "vgg19", config.teacher, padding="replicate", normalize=True)
    teacher = devices.to_device(teacher, device)
    natural = pictures.crops(32, perturb=False).to(device)
    seconds, step = 0.0, 0
    if config.resume:
        saved = checkpoint.load(target, device)
        student, maps = Student(saved["student"]), Maps(saved["maps"])
        seconds, step = saved["seconds"], saved["step"]
        pictures.draw = np.random.default_rng((config.seed, step))
    else:
        student, maps = compress(teacher, pictures.crops(config.fit_crops).to(device))
    student, maps = student.to(device), maps.to(device)
    parameters = [*student.trained(), *(tensor for name, tensor in maps.maps.items() if name in TRAINED)]
    optimizer = torch.optim.Adam(parameters, config.lr, betas=(0.9, 0.99), fused=True)
    if config.resume:
        optimizer.load_state_dict(saved["optimizer"])
    walkers = Walkers(config, pictures, student, device)

    def save() -> None:
        checkpoint.save(
            target,
            student=student.state_dict(),
            maps=maps.state_dict(),
            optimizer=optimizer.state_dict(),
            seconds=seconds,
            step=step,
        )
        export(student, natural, config.output / "model.safetensors")

    save()
    started = time.monotonic() - seconds
    saved_at = seconds
    logged: list[Tensor] = []
    total = config.max_minutes * 60
    with collect_signals() as caught, tqdm(total=round(total), unit="s", disable=None) as bar:
        while seconds < total and not caught:
            progress = seconds / total
            warm = min(1.0, (step + 1) / 100)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * warm * 0.5 * (1 + math.cos(math.pi * progress))
            walking = walkers.pictures()
            natural_ones = pictures.crops(config.batch_size // 2).to(device)
            terms, gradient = _step(student, maps, teacher, optimizer, natural_ones, walking, walkers, config)
            walkers.advance(gradient)
            logged.append(terms)
            step += 1
            seconds = time.monotonic() - started
            bar.n = round(min(seconds, total))
            if step % 50 == 0:
                mean = torch.stack(logged).mean(0).tolist()
                logged.clear()
                count = len(TRAINED)
                names = [f"{kind}_{layer}" for kind in ("data", "walk", "gram") for layer in TRAINED]
                line: dict[str, float] = {"step": step, "seconds": round(seconds)}
                line |= {name: float(f"{value:.4g}") for name, value in zip(names, mean, strict=True)}
                with (config.output / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                parts = [" ".join(f"{v:.3f}" for v in mean[i * count : (i + 1) * count]) for i in range(3)]
                tqdm.write(f"step {step}, {seconds / 60:.1f} min: data {parts[0]} | walk {parts[1]} | gram {parts[2]}")
                sys.stdout.flush()
            if seconds - saved_at > config.save_minutes * 60:
                save()
                saved_at = seconds
    save()
    return config.output / "model.safetensors"


def _step(
    student: Student,
    maps: Maps,
    teacher: VGGFeatures,
    optimizer: torch.optim.Optimizer,
    natural: Tensor,
    walking: Tensor,
    walkers: Walkers,
    config: DistillConfig,
) -> tuple[Tensor, Tensor]:
    """Update the student; return the loss terms and the gradient with respect to the pictures being optimized."""
    with torch.no_grad():
        wanted = teacher(torch.cat([natural, walking]))
    features, walking_features = student(natural), student(walking.requires_grad_())
    (gradient,) = torch.autograd.grad(walkers.loss(walking_features), walking, retain_graph=True)
    half = len(natural)
    losses, terms = [], []
    for name in TRAINED:
        mapped = maps(name, torch.cat([features[name], walking_features[name]]))
        error = (mapped - wanted[name]).square().flatten(1).mean(1)
        # Relative to the activations of natural pictures; otherwise noise would dominate.
        error = error / torch.maximum(wanted[name].square().flatten(1).mean(1), torch.tensor(1.0))
        gram, gram_wanted = _gram(mapped), _gram(wanted[name])
        difference = (gram - gram_wanted).square().flatten(1).sum(1) / gram_wanted.square().flatten(1).sum(1)
        losses.append(error.mean() + config.lambda_gram * difference.clamp(max=4).mean())
        terms.append([error[:half].mean(), error[half:].mean(), difference.mean()])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    torch.stack(losses).sum().backward(inputs=parameters)
    nn.utils.clip_grad_norm_(parameters, 5.0)
    optimizer.step()
    return torch.stack([torch.stack(column) for column in zip(*terms, strict=True)]).flatten().detach(), gradient


class Student(nn.Module):
    """The compact network during training: activations by layer name.

    Args:
        tensors: Weights under the names of `VGGFeatures`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        network = VGGFeatures(LAYERS, "compact", tensors, padding="replicate")
        self.features = network.features.requires_grad_(True)
        self.names = layer_names("compact")[: len(self.features)]
        self.register_buffer("mean", network.mean)
        self.register_buffer("std", network.std)
        for module in self.features:
            if isinstance(module, nn.ReLU):
                module.inplace = False

    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        before = LAYERS[LAYERS.index(TRAINED[0]) - 1]
        return list(self.features[self.names.index(before) :].parameters())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = (x - self.mean) / self.std
        features = {}
        for name, module in zip(self.names, self.features, strict=True):
            x = module(x)
            if name in LAYERS:
                features[name] = x
        return features


class Maps(nn.Module):
    """Linear maps from the student's channels to the teacher's, for the layers in which the student has fewer.

    Args:
        tensors: Weights (C_teacher, C_student) by layer.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.maps = nn.ParameterDict({name.removeprefix("maps."): nn.Parameter(t) for name, t in tensors.items()})

    def forward(self, name: str, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.maps[name][:, :, None, None]) if name in self.maps else x


@torch.no_grad()
def compress(teacher: VGGFeatures, pictures: Tensor) -> tuple[Student, Maps]:
    """Initialize the student from the teacher, layer by layer, in closed form.

    Each convolution is fitted by least squares to produce the teacher's output from the student's input, which includes
    the errors of earlier layers (He et al. 2017, Channel Pruning; Zhang et al. 2016, section 3.3). Where the student
    has fewer channels, it keeps those that best predict the others (pivoted Cholesky decomposition of the second
    moments), and the prediction is folded into the next convolution. Where it has low rank, the output is projected
    onto its first principal components (Zhang et al. 2016, section 3.1).

    Args:
        teacher: VGG-19 with LAYERS.
        pictures: (B, 3, H, W) in [0, 1]; several hundred, since the largest layer has 4,608 inputs.
    """
    # Inputs of the layer in the teacher and in the student.
    theirs = [(part - teacher.mean) / teacher.std for part in pictures.split(20)]
    ours = [part.clone() for part in theirs]
    # (C_teacher, C_student): predicts the teacher's channels from the student's.
    predict = torch.eye(3, device=pictures.device)
    tensors: dict[str, Tensor] = {"mean": teacher.mean, "std": teacher.std}
    maps = {}
    places = iter(i for i, name in enumerate(layer_names("compact")) if name.startswith("conv"))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in teacher.features)
    bar = tqdm(total=convolutions, desc="compressing", unit="layer", disable=None)
    for name, module in zip(layer_names("vgg19"), teacher.features, strict=False):
        if not isinstance(module, nn.Conv2d):
            theirs = [module(part) for part in theirs]
            ours = [module(part) for part in ours]
            continue
        assert module.bias is not None
        kernel, bias = torch.einsum("oihw,ik->okhw", module.weight, predict), module.bias
        if name != "conv1_1":
            kernel, bias = _fit(kernel, bias, ours, (module(part) for part in theirs))
        channels, rank = architecture("compact", name)
        place = f"features.{next(places)}"
        if rank:
            small: nn.Module = _low_rank(kernel, bias, ours, rank)
            predict = torch.eye(channels, device=predict.device)
        else:
            kept, predict = _fewer_channels((module(part) for part in theirs), channels)
            small = copy.deepcopy(module)
            small.weight, small.bias = nn.Parameter(kernel[kept]), nn.Parameter(bias[kept])
            relu = name.replace("conv", "relu")
            if relu in LAYERS:
                maps[relu] = predict
        tensors |= {f"{place}.{key}": tensor for key, tensor in small.state_dict().items()}
        theirs = [module(part) for part in theirs]
        ours = [small(part) for part in ours]
        bar.update()
    bar.close()
    return Student(tensors), Maps(maps)


def _fit(
    kernel: Tensor, bias: Tensor, inputs: Sequence[Tensor], wanted: Iterable[Tensor], samples: int = 100
) -> tuple[Tensor, Tensor]:
    """Adjust a convolution by regularized least squares to map the inputs to the wanted outputs.

    Args:
        samples: Positions sampled from each picture.
    """
    count = kernel[0].numel() + 1
    outer, inner = kernel.new_zeros(count, count), kernel.new_zeros(count, len(kernel))
    draw = torch.Generator().manual_seed(0)
    for x, y in zip(inputs, wanted, strict=True):
        take = torch.randperm(y[0, 0].numel(), generator=draw)[:samples].to(x.device)
        residual = (y - functional.conv2d(x, kernel, bias, padding=1)).flatten(2)[..., take].transpose(0, 1).flatten(1)
        patches = functional.unfold(x, 3, padding=1)[..., take].transpose(0, 1).flatten(1)
        patches = torch.cat([patches, torch.ones_like(patches[:1])])
        outer += patches @ patches.mT
        inner += patches @ residual.mT
    outer.diagonal()[:-1] += 0.01 * outer.diagonal()[:-1].mean()
    change = torch.cholesky_solve(inner, torch.linalg.cholesky(outer)).mT  # Half the time of a general solver.
    return kernel + change[:, :-1].reshape(kernel.shape), bias + change[:, -1]


def _low_rank(kernel: Tensor, bias: Tensor, inputs: Sequence[Tensor], rank: int) -> LowRankConv2d:
    """Approximate a convolution by projecting its outputs onto their first principal components."""
    mean, moments, count = torch.zeros_like(bias), kernel.new_zeros(len(bias), len(bias)), 0
    for x in inputs:
        y = functional.conv2d(x, kernel, bias, padding=1).transpose(0, 1).flatten(1)
        mean, moments, count = mean + y.sum(1), moments + y @ y.mT, count + y.shape[1]
    mean = mean / count
    components = torch.linalg.eigh(moments / count - torch.outer(mean, mean)).eigenvectors[:, -rank:]
    small = LowRankConv2d(kernel.shape[1], len(kernel), rank)
    small.reduce.weight = nn.Parameter((components.mT @ kernel.flatten(1)).view(rank, *kernel.shape[1:]))
    small.expand.weight = nn.Parameter(components[:, :, None, None].contiguous())
    small.expand.bias = nn.Parameter(mean - components @ (components.mT @ (mean - bias)))
    return small


def _fewer_channels(answers: Iterable[Tensor], count: int) -> tuple[list[int], Tensor]:
    """The channels to keep, and the matrix (C, count) that predicts all channels from them after the ReLU."""
    moments: Tensor | float = 0.0
    for answer in answers:
        flat = functional.relu(answer).transpose(0, 1).flatten(1)
        moments = moments + flat @ flat.mT
    assert isinstance(moments, Tensor)
    kept = _pivots(moments, count)
    ridge = 1e-4 * moments.diagonal().mean() * torch.eye(count, device=moments.device)
    return kept, torch.linalg.solve(moments[kept][:, kept] + ridge, moments[kept]).mT.contiguous()


def _pivots(moments: Tensor, count: int) -> list[int]:
    left = moments.double().cpu().numpy().copy()
    # The residual of a fully explained channel is rounding error.
    nothing = 1e-9 * left.diagonal().max()
    kept: list[int] = []
    for _ in range(count):
        own = left.diagonal()
        # Variance of all channels that this one would explain.
        gain = np.where(own > nothing, (left**2).sum(0) / np.maximum(own, nothing), 0.0)
        gain[kept] = -1
        best = int(gain.argmax())
        kept.append(best)
        if gain[best] > 0:
            left -= np.outer(left[:, best], left[best]) / left[best, best]
    return sorted(kept)


def export(student: Student, pictures: Tensor, path: Path) -> None:
    """Write the student in float16, with each layer scaled to a mean activation of 1 over natural pictures."""
    from safetensors.torch import save

    student = copy.deepcopy(student)
    rescale(student.features, (pictures - student.mean) / student.std)
    with atomic_write(path) as file:
        file.write(save({key: value.detach().half().contiguous().cpu() for key, value in student.state_dict().items()}))


class Pictures:
    """Crops from folders, unchanged or perturbed like pictures during optimization."""

    def __init__(self, config: DistillConfig) -> None:
        self.size = config.crop_size
        self.draw = np.random.default_rng(config.seed)
        paths = [path for folder in config.pictures for path in images.find(folder)]
        if not paths:
            raise FileNotFoundError(f"no pictures in {', '.join(config.pictures)}")
        loaded = (images.resize(images.load(path), 768) for path in tqdm(paths, "reading pictures", disable=None))
        self.pixels = [torch.from_numpy(np.array(p)) for p in loaded if min(p.size) >= self.size]
        if not self.pixels:
            raise ValueError(f"no picture is as large as --crop-size {self.size}")

    def crops(self, count: int, perturb: bool = True) -> Tensor:
        """(count, 3, size, size) in [0, 1]; perturbed ones may slightly exceed that range."""
        return torch.cat(
            [self._perturbed() if perturb and self.draw.random() < 0.5 else self._crop() for _ in range(count)]
        )

    def _crop(self) -> Tensor:
        pixels = self.pixels[self.draw.integers(len(self.pixels))]
        height, width = pixels.shape[:2]
        # Any scale: downscaled crops have finer detail.
        side = int(self.draw.integers(self.size, min(height, width) + 1))
        top, left = self.draw.integers(height - side + 1), self.draw.integers(width - side + 1)
        crop = pixels[top : top + side, left : left + side].permute(2, 0, 1)[None].float() / 255
        if self.draw.random() < 0.5:
            crop = crop.flip(3)
        return crop if side == self.size else _resize(crop, self.size)

    def _perturbed(self) -> Tensor:
        crop = self._crop()
        kind = self.draw.integers(4)
        if kind == 0:
            crop = torch.lerp(crop, self._crop(), float(self.draw.uniform(0.2, 0.8)))
        elif kind == 1:
            contrast = float(np.exp(self.draw.normal(0, 0.5)))
            color = torch.from_numpy(self.draw.normal(0, 0.12, (1, 3, 1, 1))).float()
            crop = (crop - crop.mean()) * contrast + crop.mean() + color
        else:
            strength = float(np.exp(self.draw.uniform(np.log(0.02), np.log(0.4))))
            crop = crop + strength * self.noise()
        return crop.clamp(-0.2, 1.2)

    def noise(self) -> Tensor:
        """(1, 3, size, size): Gaussian noise, coarse or fine, colored or gray."""
        cells = int(self.size / 2 ** self.draw.integers(0, 5))
        noise = torch.from_numpy(self.draw.standard_normal((1, 3, cells, cells))).float()
        if self.draw.random() < 0.3:
            noise = noise.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 3**0.5
        return _resize(noise, self.size)


class Walkers:
    """Pictures being optimized toward the student's Gram matrices of other pictures."""

    def __init__(self, config: DistillConfig, pictures: Pictures, student: Student, device: torch.device) -> None:
        self.config = config
        self.source = pictures
        self.student = student
        self.device = device
        self.half = config.batch_size // 2
        self.images = torch.cat([self._start() for _ in range(config.walkers)])
        self.momentum = torch.zeros_like(self.images)
        self.styles = [self._style() for _ in range(config.walkers)]
        # Spread over all stages of the optimization.
        self.ages = [i * config.walk // config.walkers for i in range(config.walkers)]
        self.next = 0

    def pictures(self) -> Tensor:
        """The next pictures in turn, (B / 2, 3, size, size)."""
        self.now = [(self.next + i) % len(self.images) for i in range(self.half)]
        self.next = (self.next + self.half) % len(self.images)
        for i in self.now:
            self.ages[i] += 1
            if self.ages[i] > self.config.walk:
                self.images[i : i + 1], self.momentum[i], self.ages[i] = self._start(), 0.0, 0
                self.styles[i] = self._style()
        return self.images[self.now].to(self.device)

    def loss(self, features: dict[str, Tensor]) -> Tensor:
        """Style loss of these pictures: relative squared differences of the student's Gram matrices."""
        total = torch.zeros((), device=self.device)
        for name in LAYERS:
            wanted = torch.stack([self.styles[i][name] for i in self.now])
            difference = (_gram(features[name]) - wanted).square().flatten(1).sum(1)
            total = total + (difference / wanted.square().flatten(1).sum(1)).sum()
        return total

    def advance(self, gradient: Tensor) -> None:
        """Gradient step with momentum, normalized to change each pixel by about 0.02 at first, as Adam would."""
        for i, slope in zip(self.now, gradient.cpu(), strict=True):
            slope = slope / slope.square().mean().sqrt().clamp(min=1e-12)
            self.momentum[i] = 0.8 * self.momentum[i] + 0.2 * slope
            rate = 0.03 * (1 - 0.8 * self.ages[i] / self.config.walk)
            self.images[i] = (self.images[i] - rate * self.momentum[i]).clamp(-0.1, 1.1)

    def _start(self) -> Tensor:
        if self.source.draw.random() < 0.3:
            return (0.5 + 0.25 * self.source.noise()).clamp(0, 1)
        return self.source.crops(1)

    @torch.no_grad()
    def _style(self) -> dict[str, Tensor]:
        features = self.student(self.source.crops(1, perturb=False).to(self.device))
        return {name: _gram(activations)[0] for name, activations in features.items()}


def _gram(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def _resize(x: Tensor, size: int) -> Tensor:
    return functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    with cli.exit_on_error("vgg_compact.py"):
        print(f"wrote {distill(cli.parse(DistillConfig, 'vgg_compact.py', args))}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
