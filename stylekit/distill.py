"""Trains the compact VGG that the library ships: `python -m stylekit.distill PICTURES --teacher FILE -o FOLDER`.

The student has VGG-19's layout up to relu5_1 with fewer channels. Through a linear map for each layer, which is thrown
away afterwards, its activations are to reproduce the teacher's (cf. Wang et al. 2020, collaborative distillation, arXiv
2003.08436). Where teacher = W student, equal Gram matrices of the student mean equal Gram matrices of the teacher: this
is what makes it a judge of style.

Two things make the difference. The student starts as the teacher with channels taken out: of each layer those are kept
from which the others are best predicted linearly, and the prediction is folded into the next layer. And it is trained
on what it will be asked about: an optimiser that follows the student leaves the set of natural pictures at once, for
wherever the student errs. So half of the pictures are on their way, from a photograph, a blend or noise, towards the
student's idea of some other picture's style, as in Gatys et al. (2016).
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from stylekit import checkpoint, cli, distributed, images
from stylekit.training import collect_signals
from stylekit.vgg import VGGFeatures, architecture, layer_names, rescale

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")
"""Where the student is compared with the teacher: the style layers of Gatys et al., and their content layer."""


@dataclass(frozen=True)
class DistillConfig:
    """Train a compact VGG to see what VGG-19 sees."""

    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Folders with photographs and paintings of at least 128 px; the more the better."""

    teacher: str | None = None
    """Weights of VGG-19; default: torchvision's, downloaded once."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("vgg-compact")
    """Folder for model.safetensors, last.pt and metrics.jsonl."""

    resume: bool = False
    """Go on from last.pt in the output folder."""

    max_minutes: float = 60.0
    """End after so many minutes of training; the learning rate is zero by then."""

    lr: float = 4e-4
    """Learning rate of Adam, at its highest."""

    batch_size: int = 8
    """Pictures per step: half from the folders, half on their way to another style."""

    crop_size: int = 128
    """Side of the pictures that are trained on, in pixels."""

    lambda_gram: float = 0.2
    """Weight of the difference of Gram matrices, relative to that of activations."""

    walk: int = 80
    """Steps that a picture is optimised before another takes its place."""

    walkers: int = 64
    """Pictures that are on their way at once."""

    save_minutes: float = 5.0
    """Minutes between checkpoints."""

    seed: int = 0
    """Of everything random."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ValueError("nothing to train on: give folders with pictures")
        for flag in ("max_minutes", "lr", "batch_size", "walk", "walkers", "save_minutes"):
            if getattr(self, flag) <= 0:
                raise ValueError(f"--{flag.replace('_', '-')} must be more than 0, got {getattr(self, flag)}")
        if self.batch_size % 2 or self.walkers < self.batch_size // 2:
            raise ValueError(f"--batch-size {self.batch_size} must be even, and half of it at most --walkers")
        if self.crop_size % 16 or self.crop_size < 32:
            raise ValueError(f"--crop-size must be a multiple of 16, at least 32, got {self.crop_size}")


def distill(config: DistillConfig) -> Path:
    """Train the student, or go on, until the time is over or a signal asks to stop; return its file.

    Raises:
        FileNotFoundError: There are no pictures, no weights of the teacher, or nothing to resume.
        ValueError: The weights are none of VGG-19.
        OSError: Something cannot be written.
    """
    torch.manual_seed(config.seed)
    device = distributed.choose_device(config.device)
    pictures = Pictures(config)
    teacher = VGGFeatures(LAYERS, "vgg19", config.teacher, padding="replicate", normalize=True).to(device)
    natural = pictures.crops(32, perturb=False).to(device)
    target = config.output / "last.pt"
    seconds, step = 0.0, 0
    if config.resume:
        saved = checkpoint.load(target, device)
        student, maps = Student(saved["student"]), Maps(saved["maps"])
        seconds, step = saved["seconds"], saved["step"]
        pictures.draw = np.random.default_rng((config.seed, step))
    elif target.exists():
        raise FileExistsError(f"{target} is there already; go on with it by --resume, or choose another --output")
    else:
        student, maps = prune(teacher, natural)
    student, maps = student.to(device), maps.to(device)
    parameters = [*student.parameters(), *maps.parameters()]
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
    begun = time.monotonic() - seconds
    saved_at = seconds
    told: list[Tensor] = []
    total = config.max_minutes * 60
    with collect_signals() as caught, tqdm(total=round(total), unit="s", disable=None) as bar:
        while seconds < total and not caught:
            progress = seconds / total
            warm = min(1.0, (step + 1) / 100)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * warm * 0.5 * (1 + math.cos(math.pi * progress))
            walking = walkers.pictures()
            batch = torch.cat([pictures.crops(config.batch_size // 2).to(device), walking])
            terms, gradient = _step(student, maps, teacher, optimizer, batch, walkers, config)
            walkers.advance(gradient)
            told.append(terms)
            step += 1
            seconds = time.monotonic() - begun
            bar.n = round(min(seconds, total))
            if step % 50 == 0:
                mean = torch.stack(told).mean(0).tolist()
                told.clear()
                names = [f"{kind}_{layer}" for kind in ("data", "walk", "gram") for layer in LAYERS]
                line: dict[str, float] = {"step": step, "seconds": round(seconds)}
                line |= {name: float(f"{value:.4g}") for name, value in zip(names, mean, strict=True)}
                with (config.output / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                parts = [" ".join(f"{v:.3f}" for v in mean[i * 6 : i * 6 + 6]) for i in range(3)]
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
    batch: Tensor,
    walkers: Walkers,
    config: DistillConfig,
) -> tuple[Tensor, Tensor]:
    """One step of the student; and the gradient by which the walking half of the batch goes on."""
    with torch.no_grad():
        wanted = teacher(batch)
    half = len(batch) // 2
    batch = batch.requires_grad_()
    seen = student(batch)
    (gradient,) = torch.autograd.grad(walkers.loss({k: v[half:] for k, v in seen.items()}), batch, retain_graph=True)
    losses, terms = [], []
    for name in LAYERS:
        mapped = maps(name, seen[name])
        error = (mapped - wanted[name]).square().flatten(1).mean(1)
        # Relative to what natural pictures do there: noise would outweigh everything otherwise.
        error = error / torch.maximum(wanted[name].square().flatten(1).mean(1), torch.tensor(1.0))
        gram, gram_wanted = _gram(mapped), _gram(wanted[name])
        difference = (gram - gram_wanted).square().flatten(1).sum(1) / gram_wanted.square().flatten(1).sum(1)
        losses.append(error.mean() + config.lambda_gram * difference.clamp(max=4).mean())
        terms.append([error[:half].mean(), error[half:].mean(), difference.mean()])
    optimizer.zero_grad(set_to_none=True)
    torch.stack(losses).sum().backward(inputs=[*student.parameters(), *maps.parameters()])
    nn.utils.clip_grad_norm_([*student.parameters(), *maps.parameters()], 5.0)
    optimizer.step()
    return torch.stack([torch.stack(column) for column in zip(*terms, strict=True)]).flatten().detach(), gradient[half:]


class Student(nn.Module):
    """The compact network while it is trained: its layers by name.

    Args:
        tensors: The weights, as `VGGFeatures` names them.
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

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = (x - self.mean) / self.std
        seen = {}
        for name, module in zip(self.names, self.features, strict=True):
            x = module(x)
            if name in LAYERS:
                seen[name] = x
        return seen


class Maps(nn.Module):
    """A linear map for each layer, from the student's channels to the teacher's.

    Args:
        tensors: Weights (C_teacher, C_student) by layer.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.maps = nn.ParameterDict({name.removeprefix("maps."): nn.Parameter(t) for name, t in tensors.items()})

    def forward(self, name: str, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.maps[name][:, :, None, None])


@torch.no_grad()
def prune(teacher: VGGFeatures, pictures: Tensor) -> tuple[Student, Maps]:
    """The teacher with channels taken out, such that what is left predicts the rest best.

    Of each layer, channels are chosen one after the other: always the one that explains most of what those chosen leave
    unexplained (a pivoted Cholesky decomposition of the second moments). The others are replaced by their least-squares
    prediction, which is folded into the next convolution.

    Args:
        teacher: VGG-19.
        pictures: (B, 3, H, W) in [0, 1]: natural pictures.
    """
    _, channels = architecture("compact")
    names = layer_names("vgg19")
    x = (pictures - teacher.mean) / teacher.std
    tensors: dict[str, Tensor] = {"mean": teacher.mean, "std": teacher.std}
    maps = {}
    # (C_teacher, C_kept): what the channels that were kept say about all of them, in the layer before.
    predict = torch.eye(3, device=x.device)
    ours = iter(i for i, name in enumerate(layer_names("compact")) if name.startswith("conv"))
    for name, module in zip(names, teacher.features, strict=False):
        if not isinstance(module, nn.Conv2d):
            x = module(x)
            continue
        x = functional.relu(module(x))
        flat = x.transpose(0, 1).flatten(1)
        moments = flat @ flat.mT / flat.shape[1]
        kept = _pivots(moments, channels[int(name[4]) - 1])
        weight = torch.einsum("oihw,ik->okhw", module.weight[kept], predict)
        ridge = 1e-4 * moments.diagonal().mean() * torch.eye(len(kept), device=x.device)
        predict = torch.linalg.solve(moments[kept][:, kept] + ridge, moments[kept]).mT.contiguous()
        place = next(ours)
        tensors |= {f"features.{place}.weight": weight, f"features.{place}.bias": cast(Tensor, module.bias)[kept]}
        relu = name.replace("conv", "relu")
        if relu in LAYERS:
            maps[relu] = predict
    student = Student(tensors)
    means = rescale(student.features, (pictures - student.mean) / student.std)
    relus = [name for name in student.names if name.startswith("relu")]
    return student, Maps({name: maps[name] * mean for name, mean in zip(relus, means, strict=True) if name in maps})


def _pivots(moments: Tensor, count: int) -> list[int]:
    left = moments.double().cpu().numpy().copy()
    # What is left of a channel that is explained is no more than rounding.
    nothing = 1e-9 * left.diagonal().max()
    kept: list[int] = []
    for _ in range(count):
        own = left.diagonal()
        # How much of everything a channel would explain.
        gain = np.where(own > nothing, (left**2).sum(0) / np.maximum(own, nothing), 0.0)
        gain[kept] = -1
        best = int(gain.argmax())
        kept.append(best)
        if gain[best] > 0:
            left -= np.outer(left[:, best], left[best]) / left[best, best]
    return sorted(kept)


def export(student: Student, pictures: Tensor, path: Path) -> None:
    """Write the student in float16, every layer scaled to a mean activation of 1 over natural pictures."""
    from safetensors.torch import save

    student = copy.deepcopy(student)
    rescale(student.features, (pictures - student.mean) / student.std)
    with checkpoint.atomic(path) as file:
        file.write(save({key: value.detach().half().contiguous().cpu() for key, value in student.state_dict().items()}))


class Pictures:
    """Crops from folders, as they are or disturbed as an optimiser might disturb them."""

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
        """(count, 3, size, size) in [0, 1]; disturbed ones may leave that range a little."""
        return torch.cat(
            [self._disturbed() if perturb and self.draw.random() < 0.5 else self._crop() for _ in range(count)]
        )

    def _crop(self) -> Tensor:
        pixels = self.pixels[self.draw.integers(len(self.pixels))]
        height, width = pixels.shape[:2]
        # Of any scale: what is shrunk has finer detail.
        side = int(self.draw.integers(self.size, min(height, width) + 1))
        top, left = self.draw.integers(height - side + 1), self.draw.integers(width - side + 1)
        crop = pixels[top : top + side, left : left + side].permute(2, 0, 1)[None].float() / 255
        if self.draw.random() < 0.5:
            crop = crop.flip(3)
        return crop if side == self.size else _resize(crop, self.size)

    def _disturbed(self) -> Tensor:
        crop = self._crop()
        kind = self.draw.integers(4)
        if kind == 0:
            crop = torch.lerp(crop, self._crop(), float(self.draw.uniform(0.2, 0.8)))
        elif kind == 1:
            contrast = float(np.exp(self.draw.normal(0, 0.5)))
            colour = torch.from_numpy(self.draw.normal(0, 0.12, (1, 3, 1, 1))).float()
            crop = (crop - crop.mean()) * contrast + crop.mean() + colour
        else:
            strength = float(np.exp(self.draw.uniform(np.log(0.02), np.log(0.4))))
            crop = crop + strength * self.noise()
        return crop.clamp(-0.2, 1.2)

    def noise(self) -> Tensor:
        """(1, 3, size, size): normal noise, coarse or fine, coloured or grey."""
        cells = int(self.size / 2 ** self.draw.integers(0, 5))
        noise = torch.from_numpy(self.draw.standard_normal((1, 3, cells, cells))).float()
        if self.draw.random() < 0.3:
            noise = noise.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 3**0.5
        return _resize(noise, self.size)


class Walkers:
    """Pictures on their way towards the student's idea of other pictures' styles."""

    def __init__(self, config: DistillConfig, pictures: Pictures, student: Student, device: torch.device) -> None:
        self.config = config
        self.source = pictures
        self.student = student
        self.device = device
        self.half = config.batch_size // 2
        self.images = torch.cat([self._start() for _ in range(config.walkers)])
        self.momentum = torch.zeros_like(self.images)
        self.styles = [self._style() for _ in range(config.walkers)]
        # Not all at the same stage.
        self.ages = [i * config.walk // config.walkers for i in range(config.walkers)]
        self.next = 0

    def pictures(self) -> Tensor:
        """The next ones in turn, (B / 2, 3, size, size)."""
        self.now = [(self.next + i) % len(self.images) for i in range(self.half)]
        self.next = (self.next + self.half) % len(self.images)
        for i in self.now:
            self.ages[i] += 1
            if self.ages[i] > self.config.walk:
                self.images[i : i + 1], self.momentum[i], self.ages[i] = self._start(), 0.0, 0
                self.styles[i] = self._style()
        return self.images[self.now].to(self.device)

    def loss(self, seen: dict[str, Tensor]) -> Tensor:
        """The style loss of the walking pictures, as relative differences of the student's Gram matrices."""
        total = torch.zeros((), device=self.device)
        for name in LAYERS:
            wanted = torch.stack([self.styles[i][name] for i in self.now])
            difference = (_gram(seen[name]) - wanted).square().flatten(1).sum(1)
            total = total + (difference / wanted.square().flatten(1).sum(1)).sum()
        return total

    def advance(self, gradient: Tensor) -> None:
        """Step down, each pixel by about 0.02 at first, as Adam would."""
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
        seen = self.student(self.source.crops(1, perturb=False).to(self.device))
        return {name: _gram(features)[0] for name, features in seen.items()}


def _gram(x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def _resize(x: Tensor, size: int) -> Tensor:
    return functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `python -m stylekit.distill`."""
    config = cli.parse(DistillConfig, sys.argv[1:] if args is None else args, "stylekit.distill")
    print(f"wrote {distill(config)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, "stylekit.distill"))
