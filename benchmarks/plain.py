"""A plain reading of the papers: what a tutorial would write with PyTorch's own layers. `bench.py` compares with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision import transforms

from cyclegan.discriminators import PatchDiscriminator
from cyclegan.options import TrainConfig
from cyclegan.pool import ImagePool
from stylekit.networks.convolutions import Conv2d
from stylekit.networks.vgg import VGGFeatures


class Residual(nn.Module):
    """A residual block."""

    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *convolution(channels, channels, 3, affine=affine),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def convolution(inputs: int, outputs: int, side: int, stride: int = 1, affine: bool = False) -> list[nn.Module]:
    """Padding, convolution, normalization and ReLU. CycleGAN's strided convolutions pad with zeros."""
    mode = "reflect" if stride == 1 or affine else "zeros"
    return [
        nn.Conv2d(inputs, outputs, side, stride, side // 2, padding_mode=mode),
        nn.InstanceNorm2d(outputs, affine=affine),
        nn.ReLU(),
    ]


def transformer(width: int, n_blocks: int, side: int, affine: bool, end: nn.Module) -> nn.Sequential:
    """The network that both papers describe, with up-sampling and convolution for the transposed convolutions."""

    def double(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2, mode="bilinear"), *convolution(inputs, outputs, 3, affine=affine)]

    return nn.Sequential(
        *convolution(3, width, side, affine=affine),
        *convolution(width, 2 * width, 3, 2, affine),
        *convolution(2 * width, 4 * width, 3, 2, affine),
        *(Residual(4 * width, affine) for _ in range(n_blocks)),
        *double(4 * width, 2 * width),
        *double(2 * width, width),
        nn.Conv2d(width, 3, side, padding=side // 2, padding_mode="reflect"),
        end,
    )


def cyclegan_generator(width: int, n_blocks: int) -> nn.Sequential:
    """G or F."""
    return transformer(width, n_blocks, 7, False, nn.Tanh())


def johnson_network(width: int, n_blocks: int) -> nn.Sequential:
    """The image transformation network."""
    return transformer(width, n_blocks, 9, True, nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.Softsign()))


def cyclegan_step(config: TrainConfig, device: torch.device) -> Callable[[Tensor, Tensor], list[float]]:
    """A training step of CycleGAN: each network is called once per purpose, and each loss is read at once."""
    G, F = (cyclegan_generator(config.generator.ngf, config.generator.n_blocks).to(device) for _ in "GF")
    D_X, D_Y = (PatchDiscriminator(config.discriminator.ndf, config.discriminator.n_layers_d).to(device) for _ in "XY")
    discriminators = [*D_X.parameters(), *D_Y.parameters()]
    optimizer_g, optimizer_d = (
        torch.optim.Adam(parameters, config.schedule.lr, betas=(0.5, 0.999))
        for parameters in ([*G.parameters(), *F.parameters()], discriminators)
    )
    pool_x, pool_y = (ImagePool(config.losses.pool_size) for _ in "xy")

    def step(real_x: Tensor, real_y: Tensor) -> list[float]:
        for parameter in discriminators:
            parameter.requires_grad_(False)
        fake_y, fake_x = G(real_x), F(real_y)
        losses = [
            (D_Y(fake_y) - 1).square().mean(),
            (D_X(fake_x) - 1).square().mean(),
            10 * functional.l1_loss(F(fake_y), real_x),
            10 * functional.l1_loss(G(fake_x), real_y),
            5 * functional.l1_loss(F(real_x), real_x),
            5 * functional.l1_loss(G(real_y), real_y),
        ]
        optimizer_g.zero_grad()
        sum(losses).backward()
        optimizer_g.step()
        for parameter in discriminators:
            parameter.requires_grad_(True)
        optimizer_d.zero_grad()
        for D, real, fake in ((D_X, real_x, pool_x(fake_x.detach())), (D_Y, real_y, pool_y(fake_y.detach()))):
            losses.append(0.5 * ((D(real) - 1).square().mean() + D(fake).square().mean()))
            losses[-1].backward()
        optimizer_d.step()
        return [loss.item() for loss in losses]

    return step


def vgg(network: VGGFeatures) -> VGGFeatures:
    """A copy of a VGG with PyTorch's own convolutions."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.__class__ = nn.Conv2d
    return network


def gatys_step(
    network: VGGFeatures, content: Tensor, grams: Mapping[str, Tensor], content_layer: str
) -> Callable[[Tensor], Tensor]:
    """The gradient of the objective of Gatys et al. with respect to the image."""
    with torch.no_grad():
        target = network(content)[content_layer]

    def step(image: Tensor) -> Tensor:
        image = image.clone().requires_grad_()
        features = network(image)
        loss = functional.mse_loss(features[content_layer], target)
        for layer, gram in grams.items():
            flat = features[layer].flatten(2)
            loss = loss + (flat @ flat.mT / flat[0].numel() - gram).square().sum()
        loss.backward()
        assert image.grad is not None
        return image.grad

    return step


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of pictures, each read when it is needed: resized to 286 px, a random crop of 256 px, flipped or not."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.transform = transforms.Compose(
            [
                transforms.Resize((286, 286), transforms.InterpolationMode.BICUBIC),
                transforms.RandomCrop(256),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        other = int(torch.randint(len(self.paths), ()))
        x, y = (self.transform(Image.open(self.paths[i]).convert("RGB")) for i in (index, other))
        return x, y
