"""Trains the compact VGG that the library ships: `python -m stylekit.distill PICTURES --teacher FILE -o FOLDER`.

The student has VGG-19's layout up to relu5_1, with fewer channels in the early layers and convolutions of low rank in
the late ones. Its activations are to reproduce the teacher's (cf. Wang et al. 2020, collaborative distillation, arXiv
2003.08436): those of the late layers as they are, those of the early ones through a linear map, which is thrown away
afterwards. Where teacher = W student, equal Gram matrices of the student mean equal Gram matrices of the teacher: this
is what makes it a judge of style.

Two things make the difference. The student starts as the teacher made small in closed form, layer after layer, each
making up for the errors of those before it (`compress`). And it is trained on what it will be asked about: an optimiser
that follows the student leaves the set of natural pictures at once, for wherever the student errs. So half of the
pictures are on their way, from a photograph, a blend or noise, towards the student's idea of some other picture's
style, as in Gatys et al. (2016).
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

from stylekit import checkpoint, cli, distributed, images
from stylekit.training import collect_signals
from stylekit.vgg import LowRankConv2d, VGGFeatures, architecture, layer_names, rescale

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")
"""Where the student is compared with the teacher: the style layers of Gatys et al., and their content layer."""
TRAINED = LAYERS[2:]
"""Those that training improves. The layers before them are left as `compress` made them: they are as good as they get
with so few channels, and take most of the time."""


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

    fit_crops: int = 600
    """Pictures that the start in closed form is fitted to; fewer are faster."""

    max_minutes: float = 60.0
    """End after so many minutes of training; the learning rate is zero by then."""

    lr: float = 5e-5
    """Learning rate of Adam, at its highest. The closed form is a good start, which larger steps spoil."""

    batch_size: int = 8
    """Pictures per step: half from the folders, half on their way to another style."""

    crop_size: int = 128
    """Side of the pictures that are trained on, in pixels."""

    lambda_gram: float = 0.2
    """Weight of the difference of Gram matrices, relative to that of activations."""

    walk: int = 80
    """Steps that a picture is optimised before another takes its place."""

    walkers: int = 32
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
        for flag in ("fit_crops", "max_minutes", "lr", "batch_size", "walk", "walkers", "save_minutes"):
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
    teacher = VGGFeatures(LAYERS, "vgg19", config.teacher, padding="replicate", normalize=True)
    teacher.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
            natural_ones = pictures.crops(config.batch_size // 2).to(device)
            terms, gradient = _step(student, maps, teacher, optimizer, natural_ones, walking, walkers, config)
            walkers.advance(gradient)
            told.append(terms)
            step += 1
            seconds = time.monotonic() - begun
            bar.n = round(min(seconds, total))
            if step % 50 == 0:
                mean = torch.stack(told).mean(0).tolist()
                told.clear()
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
    """One step of the student; and the gradient by which the walking pictures go on."""
    with torch.no_grad():
        wanted = teacher(torch.cat([natural, walking]))
    seen, seen_walking = student(natural), student(walking.requires_grad_())
    (gradient,) = torch.autograd.grad(walkers.loss(seen_walking), walking, retain_graph=True)
    half = len(natural)
    losses, terms = [], []
    for name in TRAINED:
        mapped = maps(name, torch.cat([seen[name], seen_walking[name]]))
        error = (mapped - wanted[name]).square().flatten(1).mean(1)
        # Relative to what natural pictures do there: noise would outweigh everything otherwise.
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

    def trained(self) -> list[nn.Parameter]:
        """The parameters behind the last layer that training leaves alone."""
        before = LAYERS[LAYERS.index(TRAINED[0]) - 1]
        return list(self.features[self.names.index(before) :].parameters())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = (x - self.mean) / self.std
        seen = {}
        for name, module in zip(self.names, self.features, strict=True):
            x = module(x)
            if name in LAYERS:
                seen[name] = x
        return seen


class Maps(nn.Module):
    """A linear map from the student's channels to the teacher's, for each layer where the student has fewer.

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
    """The teacher made small, layer after layer, each step in closed form.

    Each convolution is first fitted by least squares to give the teacher's answer to the teacher's input from what the
    student has seen so far, errors included (He et al. 2017, Channel Pruning; Zhang et al. 2016, section 3.3). Then,
    where the student has fewer channels, those are kept that predict the others best (a pivoted Cholesky decomposition
    of the second moments), and the prediction is folded into the next convolution. Where it has low rank, the answers
    are projected onto their first principal components (Zhang et al. 2016, section 3.1).

    Args:
        teacher: VGG-19 with the layers LAYERS.
        pictures: (B, 3, H, W) in [0, 1]; some hundreds, since the largest layer has 4,608 inputs.
    """
    # What the layer sees in the teacher, and in the student.
    theirs = [(part - teacher.mean) / teacher.std for part in pictures.split(20)]
    ours = [part.clone() for part in theirs]
    # (C_teacher, C_student): what the student's channels say about the teacher's.
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
    """The convolution near the one given that makes of the inputs what is wanted, by regularised least squares.

    Args:
        samples: Positions of each picture that are looked at.
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
    change = torch.linalg.solve(outer, inner).mT
    return kernel + change[:, :-1].reshape(kernel.shape), bias + change[:, -1]


def _low_rank(kernel: Tensor, bias: Tensor, inputs: Sequence[Tensor], rank: int) -> LowRankConv2d:
    """The convolution whose answers are those of the one given, on their first principal components."""
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
    """Which channels to keep, and the matrix (C, count) that predicts all of them from these, behind the ReLU."""
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
