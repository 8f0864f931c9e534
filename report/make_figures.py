"""Figures, tables and numbers of the report: `make report`, or

python report/make_figures.py [-o FOLDER]

Reads what training and evaluation have left in results/ (see experiments.sh), the options of the library and the
networks in weights/. Writes plots (.pdf), sheets of pictures (.jpg), the bodies of tables (.tex) and numbers.tex, which
defines a macro for every number in the text.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.ticker import NullFormatter
from PIL import Image, ImageDraw, ImageFont
from safetensors import safe_open
from skimage import data
from sklearn.datasets import load_sample_image

import cyclegan.options
import johnson.options
from cyclegan.discriminators import PatchDiscriminator
from cyclegan.models import Generator
from cyclegan.perceptual import LAMBDA_TONE
from cyclegan.translate import load_generator, translate
from gatys.options import StylizeConfig
from johnson.stylize import load_network, stylize
from stylekit.networks.weights import bundled_file
from stylekit.pictures import images

HERE = Path(__file__).parent
RESULTS = HERE / "results"

ABLATION = {
    "base": "the paper's objective",
    "identity-0": "no identity loss",
    "cycle-1": "cycle weight a tenth",
    "lsgan-to-log": "log-likelihood",
    "pool-0": "no pool",
    "feature": "heads on VGG features",
    "both": "PatchGAN and heads",
}
"""Runs of experiments.sh and what is different in each."""

METHODS = {
    "landscape2vangogh-cycle": "CycleGAN, the paper's objective",
    "landscape2vangogh": "CycleGAN, one way",
    "johnson": "Johnson, mean style",
    "gatys": "Gatys, mean style",
}

METRICS = {
    "kid_vgg_compact": ("KID, VGG", 1000, 0),
    "kid_efficientnet_lite0": ("KID, EfficientNet", 1000, 0),
    "palette_distance": ("palette", 1, 3),
    "content_kept": ("content kept", 1, 2),
    "weave": ("weave", 1, 2),
    "halo": ("halo", 1, 1),
}
"""Metrics of `cyclegan evaluate`: title, factor, decimals."""

STYLES = ["Starry Night", "Wheat Field", "Sunflowers", "Van Gogh", "mosaic"]
LAYERS = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
SHEETS: dict[str, tuple[int, int, list[int], list[str], list[str], float]] = {
    "gatys-content": (192, 288, [0, 1, 2, 3, 4], ["0.3", "3", "30", "300", "3,000"], LAYERS, 0.85),
    "gatys-style-layers": (192, 288, [0, 1], [f"up to {layer}" for layer in LAYERS], ["photograph", "noise"], 0.93),
    "objectives": (180, 271, [1, 2, 3], ["photograph", "the paper's", "one way"], [], 0.5),
    "johnson": (150, 226, [2, 3], ["photograph", *STYLES], [], 1),
    "methods": (240, 359, [0], ["photograph", "CycleGAN", "Gatys", "Johnson"], [], 1),
}
"""Sheets of `make gallery` and benchmarks/gatys_grid.py: height and width of a picture, rows that are
shown, titles, labels, share of the page's width."""

BELOW: dict[str, Any] = {
    "fontsize": 7.5,
    "handlelength": 1.2,
    "loc": "upper center",
    "bbox_to_anchor": (0.5, -0.27),
    "frameon": False,
}
"""Legends below the axes, where they hide no line."""

LABELS = {
    "adversarial_g": "adversarial, G",
    "adversarial_f": "adversarial, F",
    "d_x": r"$D_X$",
    "d_y": r"$D_Y$",
    "cycle_x": "cycle, X",
    "cycle_y": "cycle, Y",
    "identity_x": "identity, X",
    "identity_y": "identity, Y",
    "content_g": "content",
    "style_g": "style",
    "tone_g": "tone",
    "color_g": "color",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "figures", help="folder for all of it")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    write_numbers(output)
    for name, rows in tables().items():
        (output / f"{name}.tex").write_text("".join(" & ".join(row) + r" \\" + "\n" for row in rows))
    pyplot.rcParams.update(
        {"font.size": 8.5, "axes.titlesize": "medium", "font.family": "serif", "axes.grid": True, "grid.alpha": 0.25}
    )
    plot_gatys(output / "gatys-losses.pdf")
    plot_losses(
        output / "losses.pdf",
        {
            "Johnson: starry-night": (
                "losses/starry-night.jsonl",
                ["content", "relu1_1", "relu3_1", "relu5_1", "pixel"],
            ),
            "paper: adversarial": ("ablation/base.jsonl", ["adversarial_g", "adversarial_f", "d_x", "d_y"]),
            "paper: cycle, identity": ("ablation/base.jsonl", ["cycle_x", "cycle_y", "identity_x", "identity_y"]),
            "one way": ("losses/landscape2vangogh.jsonl", ["adversarial_g", "d_y", "content_g", "tone_g", "style_g"]),
        },
    )
    for name, (height, width, rows, titles, *look) in SHEETS.items():
        pictures = cut(HERE.parent / "docs" / f"{name}.jpg", height, width, rows, len(titles))
        draw_grid(output / f"{name}.jpg", pictures, titles, *look)
    draw_ablation(output / "ablation.jpg")
    draw_failures(output / "failures.jpg")


# Numbers.


def numbers() -> dict[str, str]:
    """Every number of the text, by the name of its macro."""
    cycle = cyclegan.options.TrainConfig.from_preset("paper", dataroot="")
    perceptual, one_way = cyclegan.options.PerceptualLosses(), read_lines("losses/landscape2vangogh.jsonl")
    style = johnson.options.TrainConfig.from_preset("paper", dataroot="", style=("starry-night",))
    optimize = StylizeConfig()
    found: dict[str, object] = {
        "GatysSteps": optimize.steps,
        "GatysBeta": f"{optimize.beta:g}",
        "GatysMinSize": optimize.min_size,
        "JohnsonWidth": style.network.width,
        "JohnsonBlocks": style.network.n_blocks,
        "JohnsonContentWeight": f"{style.losses.content_weight:g}",
        "JohnsonStyleWeight": f"{style.losses.style_weight:g}",
        "JohnsonPixelWeight": f"{style.losses.pixel_weight:g}",
        "JohnsonRate": f"{style.schedule.lr:g}",
        "JohnsonParameters": millions(load_network("starry-night")),
        "CycleParameters": millions(load_generator("landscape2vangogh-cycle")),
        "OneWayParameters": millions(load_generator("landscape2vangogh")),
        "PaperParameters": millions(Generator()),
        "PatchParameters": millions(PatchDiscriminator()),
        "CompactParameters": f"{count_values(bundled_file('vgg-compact/model.safetensors')) / 1e6:.1f}",
        "LambdaCycle": f"{cycle.losses.lambda_x:g}",
        "LambdaIdentity": f"{cycle.losses.lambda_identity:g}",
        "LambdaContent": f"{perceptual.lambda_content:g}",
        "LambdaTone": f"{LAMBDA_TONE:g}",
        "LambdaWeave": f"{perceptual.lambda_weave:g}",
        "LearningRate": f"{cycle.schedule.lr:g}",
        "BetaOne": "0.5",
        "PoolSize": cycle.losses.pool_size,
        "LoadSize": cycle.data.load_size,
        "PaperEpochs": cycle.schedule.n_epochs + cycle.schedule.n_epochs_decay,
        "OneWaySteps": f"{one_way[-1]['step']:,}",
        "StyleBefore": f"{one_way[0]['style_g']:.1f}",
        "StyleAfter": f"{np.mean([line['style_g'] for line in one_way[-10:]]):.2f}",
        "BackSteps": f"{read_lines('losses/vangogh2landscape.jsonl')[-1]['step']:,}",
        "StarrySteps": f"{read_lines('losses/starry-night.jsonl')[-1]['step']:,}",
    }
    facts: dict[str, Any] = read("facts.json")
    found |= {name: value for name, (value, _) in facts.items()}
    low, high = wilson(int(facts["Preferred"][0]), int(facts["Judged"][0]))
    found |= {"PreferredLow": f"{100 * low:.0f}", "PreferredHigh": f"{100 * high:.0f}"}
    found |= gatys_numbers() | johnson_numbers() | evaluation_numbers() | methods_numbers() | ablation_numbers()
    return {name: str(value) for name, value in found.items()}


def write_numbers(output: Path) -> None:
    lines = [rf"\newcommand{{\{name}}}{{{value}}}" for name, value in sorted(numbers().items())]
    (output / "numbers.tex").write_text("% Written by make_figures.py.\n" + "\n".join(lines) + "\n")


def gatys_numbers() -> dict[str, object]:
    grid, (default, from_noise) = gatys_losses()
    points = [line for line in grid if line["content_layer"] == "relu4_1"]
    ends = [sum(weighted(line, -1)) for line in (from_noise, default)]
    return {
        "BetaLow": f"{points[0]['beta']:g}",
        "BetaHigh": f"{points[-1]['beta']:,g}",
        "GridPictures": len(grid),
        "GatysLossSize": default["size"],
        "SingleSteps": len(default["style"]),
        "StyleFalls": f"{points[0]['style'][-1] / points[-1]['style'][-1]:.0f}",
        "ContentRises": f"{points[-1]['content'][-1] / points[0]['content'][-1]:.1f}",
        "StyleStart": f"{default['style'][0]:.2f}",
        "StyleTen": f"{default['style'][10]:.3f}",
        "StyleEnd": f"{default['style'][-1]:.3f}",
        "NoiseTotal": f"{ends[0] / ends[1]:.2f}",
    }


def johnson_numbers() -> dict[str, object]:
    found = read("johnson-gatys.json")
    equal = [value <= found["johnson"] for value in found["gatys"]["content"].values()].index(True)
    steps = list(found["gatys"]["content"])

    def faster(i: int) -> float:
        """How often a pass fits in a hundred steps of Gatys."""
        return found["seconds"][i]["gatys"] / found["seconds"][i]["johnson"]

    return {
        "JohnsonPhotographs": found["count"],
        "JohnsonLoss": f"{found['johnson']:.2f}",
        "GatysMost": max(found["gatys"]["content"], key=int),
        "GatysHundred": f"{found['gatys']['content']['100']:.2f}",
        "GatysBefore": steps[equal - 1],
        "GatysEqual": steps[equal],
        "EqualLow": f"{int(steps[equal - 1]) * faster(-1) / 100:.0f}",
        "EqualHigh": f"{int(steps[equal]) * faster(-1) / 100:.0f}",
        "FasterSmall": f"{faster(0):.0f}",
        "FasterLarge": f"{faster(-1):.0f}",
        "JohnsonSeconds": f"{found['seconds'][-1]['johnson']:.1f}",
        "JohnsonSize": found["seconds"][-1]["size"],
        "JohnsonSmallSize": found["seconds"][0]["size"],
    }


def evaluation_numbers() -> dict[str, object]:
    new, old = (read(f"evaluation/{name}-512.json") for name in ("landscape2vangogh", "landscape2vangogh-cycle"))
    back = read("evaluation/vangogh2landscape-512.json")
    small, small_back = (read(f"evaluation/{name}-256.json") for name in ("landscape2vangogh", "vangogh2landscape"))
    return {
        "Thousand": f"{METRICS['kid_vgg_compact'][1]:,}",
        "PhotographsSmallTest": small["counts"]["x"],
        "PaintingsSmallTest": small_back["counts"]["x"],
        "PhotographsLargeTest": new["counts"]["x"],
        "PaintingsLargeTest": back["counts"]["x"],
        "LargeSide": new["size"],
        "KidOld": shown(old, "kid_vgg_compact"),
        "KidNew": shown(new, "kid_vgg_compact"),
        "KidFloor": shown(new, "kid_vgg_compact", "real"),
        "EffOld": shown(old, "kid_efficientnet_lite0"),
        "EffNew": shown(new, "kid_efficientnet_lite0"),
        "WeaveOld": shown(old, "weave"),
        "WeaveNew": shown(new, "weave"),
        "WeaveReal": shown(new, "weave", "real"),
        "PaletteOld": shown(small_old := read("evaluation/landscape2vangogh-cycle-256.json"), "palette_distance"),
        "PaletteNew": shown(small, "palette_distance"),
        "PaletteOldLarge": shown(old, "palette_distance"),
        "PaletteNewLarge": shown(new, "palette_distance"),
        "PaletteFloorLarge": shown(new, "palette_distance", "real"),
        "EffOldSmall": shown(small_old, "kid_efficientnet_lite0"),
        "EffNoneSmall": shown(small, "kid_efficientnet_lite0", "untranslated"),
        "BackEff": shown(back, "kid_efficientnet_lite0"),
        "BackEffNone": shown(back, "kid_efficientnet_lite0", "untranslated"),
    }


def methods_numbers() -> dict[str, object]:
    optimized, johnson, one_way, paper = (
        read(f"methods/{name}.json") for name in ("gatys", "johnson", "landscape2vangogh", "landscape2vangogh-cycle")
    )
    return {
        "MethodsPhotographs": optimized["counts"]["x"],
        "MethodsPaintings": optimized["counts"]["y"],
        "GatysKid": shown(optimized, "kid_vgg_compact"),
        "JohnsonKid": shown(johnson, "kid_vgg_compact"),
        "OneWayKid": shown(one_way, "kid_vgg_compact"),
        "GatysEff": shown(optimized, "kid_efficientnet_lite0"),
        "JohnsonEff": shown(johnson, "kid_efficientnet_lite0"),
        "OneWayEff": shown(one_way, "kid_efficientnet_lite0"),
        "PaperEff": shown(paper, "kid_efficientnet_lite0"),
        "JohnsonWeave": shown(johnson, "weave"),
    }


def ablation_numbers() -> dict[str, object]:
    seconds = dict(line.split() for line in (RESULTS / "ablation" / "seconds.txt").read_text().splitlines())
    minutes = [float(seconds[name]) / 60 for name in ABLATION]
    evaluation = read("ablation/base.json")
    steps = {name: f"{read_lines(f'ablation/{name}.jsonl')[-1]['step']:,}" for name in ("base", "both")}
    return {
        "AblationSteps": steps["base"],
        "AblationStepsBoth": steps["both"],
        "AblationLow": f"{min(minutes):.0f}",
        "AblationHigh": f"{max(minutes):.0f}",
        "AblationPhotographs": evaluation["counts"]["x"],
        "AblationSize": evaluation["size"],
    }


# Tables.


def tables() -> dict[str, list[list[str]]]:
    return {
        "evaluation": evaluation_table(),
        "methods": methods_table(),
        "ablation": ablation_table(),
        "johnson": johnson_table(),
    }


def evaluation_table() -> list[list[str]]:
    rows = []
    for size in ("256", "512"):
        new, old = (read(f"evaluation/{name}-{size}.json") for name in ("landscape2vangogh", "landscape2vangogh-cycle"))
        for name, (title, *_) in METRICS.items():
            head = f"{size} px" if name == next(iter(METRICS)) else ""
            columns = [
                interval(old, name),
                interval(new, name),
                shown(new, name, "real"),
                shown(new, name, "untranslated"),
            ]
            rows.append([head, title, *columns])
    return rows


def methods_table() -> list[list[str]]:
    rows = []
    for name, title in METHODS.items():
        evaluation = read(f"methods/{name}.json")
        rows.append([title, *(shown(evaluation, metric) for metric in METRICS)])
    return [*rows, ["real paintings", *(shown(evaluation, metric, "real") for metric in METRICS)]]


def ablation_table() -> list[list[str]]:
    rows = []
    for name, title in ABLATION.items():
        evaluation = read(f"ablation/{name}.json")
        metrics = [name for name in METRICS if name != "halo"]
        steps = read_lines(f"ablation/{name}.jsonl")[-1]["step"]
        cells = [shown(evaluation, metric) for metric in ("cycle_error", *metrics)]
        rows.append([title, f"{steps:,}", *cells])
    blank = [shown(evaluation, metric, "untranslated") for metric in metrics]
    return [*rows, ["untranslated photographs", "", "", *blank]]


def johnson_table() -> list[list[str]]:
    found = read("johnson-gatys.json")
    rows = [["the photographs themselves", f"{found['photographs']:.2f}"]]
    rows.append(["Johnson, one pass", f"{found['johnson']:.2f}"])
    for start, by_step in found["gatys"].items():
        origin = "the photograph" if start == "content" else "noise"
        rows += [[f"Gatys, {step} steps from {origin}", f"{value:.2f}"] for step, value in by_step.items()]
    return rows


# Plots and pictures.


def plot_gatys(path: Path) -> None:
    """Left: the trade-off between content and style. Middle, right: losses over the steps."""
    figure, axes = pyplot.subplots(1, 3, figsize=(6.7, 2.8), layout="constrained")
    grid, (default, from_noise) = gatys_losses()
    for layer in dict.fromkeys(line["content_layer"] for line in grid):
        points = [line for line in grid if line["content_layer"] == layer]
        style, content = ([line[term][-1] for line in points] for term in ("style", "content"))
        axes[0].loglog(style, content, "o-", markersize=3, linewidth=1, label=layer)
    axes[0].set(xlabel="style loss", ylabel="content loss", title="trade-off")
    for line in grid:
        if line["content_layer"] == "relu4_1":
            label = rf"$\beta/\alpha={line['beta']:g}$"
            axes[1].loglog(range(1, len(line["style"]) + 1), line["style"], linewidth=1, label=label)
    axes[1].set(xlabel="step", ylabel="style loss", title="content at relu4_1")
    for line, style, start in ((default, "-", "photograph"), (from_noise, "--", "noise")):
        steps = range(1, len(line["style"]) + 1)
        content, painter = zip(*(weighted(line, i) for i in range(len(steps))), strict=True)
        axes[2].loglog(steps, content, f"C0{style}", linewidth=1, label=f"content, {start}")
        axes[2].loglog(steps, painter, f"C1{style}", linewidth=1, label=f"style, {start}")
    axes[2].set(xlabel="step", ylabel="weighted loss", title="content at relu4_2")
    for axis in axes:
        axis.legend(**BELOW)
    figure.savefig(path, metadata={"CreationDate": None})
    pyplot.close(figure)


def plot_losses(path: Path, panels: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6.7, 2.8), layout="constrained")
    for axis, (title, (file, names)) in zip(axes, panels.items(), strict=True):
        lines = read_lines(file)
        steps = [line["step"] for line in lines]
        for name in names:
            (pale,) = axis.plot(steps, values := [line[name] for line in lines], alpha=0.25, linewidth=0.6)
            mean = running_mean(values, max(1, len(values) // 12))
            axis.plot(steps, mean, color=pale.get_color(), linewidth=1.2, label=LABELS.get(name, name))
        axis.set(title=title, xlabel="step", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        low, high = axis.get_ylim()
        axis.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
        axis.legend(**BELOW)
    figure.savefig(path, metadata={"CreationDate": None})
    pyplot.close(figure)


def cut(path: Path, height: int, width: int, rows: Sequence[int], columns: int) -> list[list[Image.Image]]:
    """Pictures of a contact sheet, without its titles, which are too small for print."""
    sheet = images.load(path)
    gap, top = max(4, height // 32), round(max(10, height // 14) * 1.8)

    def cell(row: int, column: int) -> Image.Image:
        left, upper = sheet.width - (columns - column) * (width + gap), top + row * (height + gap)
        return sheet.crop((left, upper, left + width, upper + height))

    return [[cell(row, column) for column in range(columns)] for row in rows]


def draw_grid(
    path: Path,
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str],
    labels: Sequence[str] = (),
    share: float = 1,
) -> None:
    """Pictures of one size, with titles above and labels beside them in about 8 points on a share of the page's width.

    More titles than columns go on above the next row.
    """
    columns, (width, height), gap = len(rows[0]), rows[0][0].size, 6
    font = ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSerif.ttf"), columns * width / 58 / share
    )
    left, line = (round(max(map(font.getlength, labels), default=-gap)) + gap), round(font.size * 1.4)
    lines = -(-len(titles) // columns)
    size = left + columns * (width + gap) - gap, lines * line + len(rows) * (height + gap) - gap
    draw = ImageDraw.Draw(sheet := Image.new("RGB", size, "white"))
    y = 0
    for row, pictures in enumerate(rows):
        for column, title in enumerate(titles[row * columns : (row + 1) * columns]):
            draw.text((left + column * (width + gap), y), title, "black", font)
        y += line if row < lines else 0
        if labels:
            draw.text((0, y + height / 2), labels[row], "black", font, anchor="lm")
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (left + column * (width + gap), y))
        y += height + gap
    images.save(sheet, path)


def draw_ablation(path: Path) -> None:
    """The photograph and the pictures of the ablation, four in a row."""
    pictures = [images.load(RESULTS / "ablation" / f"{name}.jpg") for name in ABLATION]
    pictures.insert(0, images.resize(Image.fromarray(load_sample_image("china.jpg")), pictures[0].width))
    half = len(pictures) // 2
    draw_grid(path, [pictures[:half], pictures[half:]], ["photograph", *ABLATION.values()])


def draw_failures(path: Path) -> None:
    """Details at their own size, above their paintings: a face, flat regions, a motif in the wrong place."""
    vangogh, paper = load_generator("landscape2vangogh"), load_generator("landscape2vangogh-cycle")
    starry, back = load_network("starry-night"), load_generator("vangogh2landscape")
    flower = load_sample_image("flower.jpg")

    def one_way(image: torch.Tensor) -> torch.Tensor:
        return translate(image, vangogh, draft=False)

    cases: list[tuple[np.ndarray, tuple[int, int], Callable[[torch.Tensor], torch.Tensor]]] = [
        (data.astronaut(), (130, 0), one_way),
        (flower, (10, 20), lambda image: translate(image, paper)),
        (data.rocket(), (380, 237), one_way),
        (data.coffee(), (60, 180), one_way),
        (data.chelsea(), (100, 60), lambda image: stylize(image, starry)),
        (flower, (215, 150), lambda image: translate(one_way(image), back)),
    ]
    sheet = Image.new("RGB", (6 * 200 - 10, 390), "white")
    for i, (pixels, (left, top), paint) in enumerate(cases):
        photograph = Image.fromarray(pixels)
        with torch.no_grad():
            painting = images.to_image(paint(images.to_tensor(photograph)))
        for j, picture in enumerate((photograph, painting)):
            sheet.paste(picture.crop((left, top, left + 190, top + 190)), (200 * i, 200 * j))
    images.save(sheet, path)


# Results.


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def read_lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def gatys_losses() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs of gatys_losses.py: five content layers by five weights; the defaults from the photograph and from noise."""
    lines = read_lines("gatys.jsonl")
    default = StylizeConfig().content_layer
    return [
        [line for line in lines if (line["content_layer"] == default) == is_default] for is_default in (False, True)
    ]


def weighted(line: Mapping[str, Any], i: int) -> tuple[float, float]:
    """Content and style loss of a run of Gatys before a step, with their weights."""
    return line["content"][i], line["beta"] * line["style"][i]


def shown(evaluation: Mapping[str, Any], name: str, part: str = "output") -> str:
    """A metric as it is printed; nothing, if it was not measured."""
    entry = evaluation["metrics"].get(name, {}).get(part)
    if entry is None or entry["value"] is None or not math.isfinite(entry["value"]):
        return ""
    _, factor, decimals = METRICS.get(name, ("", 1, 3))
    return rounded(entry["value"] * factor, decimals)


def interval(evaluation: Mapping[str, Any], name: str) -> str:
    """A metric with its 95 % interval."""
    entry = evaluation["metrics"][name]["output"]
    _, factor, decimals = METRICS[name]
    low, high = (rounded(entry[end] * factor, decimals) for end in ("low", "high"))
    return f"{shown(evaluation, name)} ({low} to {high})"


def rounded(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.replace("-", "$-$") if float(text) else text.removeprefix("-")


def running_mean(values: Sequence[float], window: int) -> Iterable[float]:
    padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid")


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, spread = hits / count, z**2 / count
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


def millions(network: torch.nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f}"


def count_values(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


if __name__ == "__main__":
    main()
