"""Measure a style network: how near the style of its pictures is to that of the painting, what it keeps and adds.

Every metric has two baselines: what it would be if (crops of) the painting took the place of the output, and if the
untouched photograph did. A style without a picture, a preset, has no baselines of the first kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from tqdm import tqdm

from gatys.objective import gram_matrices
from gatys.options import STYLE_LAYERS
from gatys.styles import bundled_presets
from johnson.data import find_paintings, find_photographs
from johnson.models import TransformerNet
from johnson.options import EvaluateConfig
from johnson.stylize import load_network, stylize
from johnson.train import style_grams
from stylekit import devices
from stylekit.atomic import check_writable
from stylekit.measures.features import Estimate, content_kept
from stylekit.measures.patterns import halo, weave
from stylekit.measures.table import Evaluation, Metric, Samples
from stylekit.networks.vgg import VGGFeatures
from stylekit.pictures.collection import Collection


def evaluate(config: EvaluateConfig) -> Evaluation[EvaluateConfig]:
    """Stylize a folder of photographs and compute all metrics. The result has the options, with the style in use.

    Raises:
        FileNotFoundError: The network, the style or the folder does not exist.
        ValueError: The network or the style does not fit, or no photograph can be read.
        MemoryError: A picture is too large.
    """
    check_writable(config.output)
    device = devices.choose_device(config.device)
    network = devices.to_device(load_network(config.weights), device)
    if not config.style and config.weights not in bundled_presets():
        raise ValueError(f"there is no bundled style {config.weights}; add --style with the painting of the network")
    config = dataclasses.replace(config, style=config.style or (config.weights,))
    evaluation = Evaluation(config)
    vgg = VGGFeatures(STYLE_LAYERS, config.loss_network, config.vgg_weights, padding="replicate", normalize=True)
    vgg = devices.to_device(vgg, device)
    # The style as training computes it.
    grams = style_grams(config.style, config.style_size, STYLE_LAYERS, vgg)
    painted = [path for name in config.style for path in find_paintings(name)]
    paintings = Collection(painted, config.style_size, device, evaluation.errors)
    paths = find_photographs(config.dataroot)[: config.max_dataset_size]
    photographs = Collection(paths, config.size, device, evaluation.errors)
    with devices.memory_hint("; shrink the photographs, as with --size 1000"):
        measure(evaluation, photographs, paintings, network, vgg, grams)
    return evaluation


@torch.inference_mode()
def measure(
    evaluation: Evaluation[EvaluateConfig],
    photographs: Collection,
    paintings: Collection,
    network: TransformerNet,
    vgg: VGGFeatures,
    grams: Mapping[str, Tensor],
) -> None:
    """Compute all metrics of a network; `paintings` are the style, if it has pictures, `grams` its Gram matrices."""
    content_network = devices.to_device(VGGFeatures("relu4_1", "compact", normalize=True), vgg.mean.device)
    output, painted, untouched = Samples(), Samples(), Samples()
    contents = []
    for painting in paintings:
        contents.append(content_network(painting)["relu4_1"])
        painted.add(weave=weave(painting, painting))
        for crop in _crops(painting):
            painted.add(**style_distances(gram_matrices(vgg, crop, STYLE_LAYERS), grams))
    for photograph in tqdm(photographs, desc="stylize", unit="picture", disable=None, delay=1):
        before = content_network(photograph)["relu4_1"]
        for samples, picture in ((output, stylize(photograph, network)), (untouched, photograph)):
            samples.add(
                **style_distances(gram_matrices(vgg, picture, STYLE_LAYERS), grams),
                content_kept=content_kept(before, content_network(picture)["relu4_1"]),
                weave=weave(picture, photograph),
                halo=halo(picture, photograph),
            )
        for content in contents:
            painted.add(content_kept=content_kept(before, content))
    if not output.values:
        raise ValueError(f"no photograph in {evaluation.config.dataroot} can be read")
    for name in output.values:
        estimate = cast(Estimate, output.mean(name))
        evaluation.metrics[name] = Metric(estimate, painted.mean(name), untouched.mean(name))
    evaluation.counts["photographs"] = len(output.values["content_kept"])
    evaluation.counts |= {name: output.count(name) for name in ("weave", "halo")}


def style_distances(found: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> dict[str, float]:
    """The style loss of each layer (Johnson et al., eq. 4), as `style_LAYER`, divided by the squared norm of the style.

    It is 0 for the same style and 1 for a picture without any features. Gram matrices are (1, C, C), by layer.
    """
    return {
        f"style_{layer}": float((found[layer] - gram).square().sum() / gram.square().sum())
        for layer, gram in grams.items()
    }


def _crops(painting: Tensor) -> list[Tensor]:
    """The four quarters of a painting and its center."""
    height, width = painting.shape[2:]
    h, w = height // 2, width // 2
    corners = ((0, 0), (0, width - w), (height - h, 0), (height - h, width - w), (h // 2, w // 2))
    return [painting[..., y : y + h, x : x + w] for y, x in corners]
