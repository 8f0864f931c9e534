"""Videos: frame by frame through a trained network, without the flicker that comes of treating each alone.

Instance normalisation measures every frame anew: a little noise, a cloud, and the colours of everything change. Here
its statistics are averaged over the frames, until the scene changes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
import torch
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from stylekit import checkpoint, images
from stylekit.blocks import InstanceNorm2d

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
"""File suffixes of videos that are read and written, and FFmpeg's names of their formats."""

BT709 = 1
LIMITED = 1
"""How FFmpeg numbers the colours of HD video, and their range from 16 to 235."""

CUT = 0.15
"""A mean difference between two frames, in [0, 1], that is another scene: statistics begin anew."""


class Smoothing:
    """Averages the statistics of every instance normalisation over the frames of a video.

    Args:
        network: Whose layers; `with Smoothing(network, share) as smoothing` holds them, and lets them go.
        share: What the average keeps at each frame, in [0, 1).
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self.norms = [module for module in network.modules() if isinstance(module, InstanceNorm2d)]
        self.share = share
        self.before: Tensor | None = None
        self.hooks: list[Any] = []

    def __enter__(self) -> Smoothing:
        self.hooks = [norm.register_forward_pre_hook(self._measure) for norm in self.norms]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
        self._forget()

    def next(self, frame: Tensor) -> None:
        """Say which frame is about to be painted, (1, 3, H, W) in [0, 1]: after a cut, nothing is averaged with it."""
        small = nn.functional.interpolate(frame, size=(32, 32), mode="area")
        if self.before is not None and (small - self.before).abs().mean() > CUT:
            self._forget()
        self.before = small

    def _measure(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, InstanceNorm2d)
        mean, variance = norm.measure(inputs[0])
        if norm.statistics is not None:
            mean = torch.lerp(mean, norm.statistics[0], self.share)
            variance = torch.lerp(variance, norm.statistics[1], self.share)
        norm.statistics = (mean, variance)

    def _forget(self) -> None:
        for norm in self.norms:
            norm.statistics = None


def paint_video(
    source: str | Path,
    target: str | Path,
    paint: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    size: int | None = None,
) -> tuple[Image.Image, Image.Image]:
    """Paint every frame of a video; times and sound stay as they are.

    The result is H.264, or VP9 in .webm, written whole or not at all. A side with an odd number of pixels loses one:
    neither can hold it.

    Args:
        paint: (1, 3, H, W) in [0, 1], on the device -> the same.
        size: Shrink frames to this longer side first.

    Returns:
        The first frame, before and after.

    Raises:
        ValueError: The source is no video, or is damaged, or its sound does not fit the target; the message names it.
        OSError: The target cannot be written.
    """
    source, target = Path(source), Path(target)
    shown: tuple[Image.Image, Image.Image] | None = None
    kind = FORMATS[target.suffix.lower()]
    with (
        _opened(source) as reader,
        checkpoint.atomic(target) as file,
        av.open(file, "w", format=kind) as writer,
        tqdm(total=reader.streams.video[0].frames or None, unit="frame", leave=False, disable=None, delay=1) as bar,
    ):
        video = reader.streams.video[0]
        sound = _sound(reader, writer, target)
        painted: VideoStream | None = None
        waiting: list[Packet[Any]] = []
        for packet in reader.demux([video, *sound]):
            frames: list[VideoFrame] = []
            if packet.stream is video:
                frames = cast("list[VideoFrame]", packet.decode())
            elif packet.dts is not None:
                packet.stream = sound[packet.stream]
                waiting.append(packet)
            for frame in frames:
                before = _picture(frame, size)
                after = images.to_image(paint(images.to_tensor(before).to(device)))
                shown = shown or (before, after)
                painted = painted or _stream(writer, target, video, after)
                writer.mux(painted.encode(_frame(after, frame)))
                bar.update()
            if painted is not None:
                # Nothing is written before all streams are known, as the file begins with a list of them.
                writer.mux(waiting)
                waiting.clear()
        if painted is None or shown is None:
            raise ValueError(f"{source}: no frame of it can be read")
        writer.mux(painted.encode())
    return shown


@contextmanager
def _opened(source: Path) -> Iterator[InputContainer]:
    """A video, and what goes wrong with it in one line."""
    try:
        with av.open(str(source)) as reader:
            if not reader.streams.video:
                raise ValueError(f"{source}: there are no pictures in it")
            reader.streams.video[0].thread_type = "AUTO"
            yield reader
    except av.error.InvalidDataError as error:
        raise ValueError(f"{source}: a damaged video, or none at all") from error
    except (av.error.FFmpegError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        raise ValueError(f"{source}: cannot be worked on ({error})") from error


def _sound(reader: InputContainer, writer: OutputContainer, target: Path) -> dict[Any, Any]:
    """For each stream of sound one that takes it as it is."""
    streams = {}
    for stream in reader.streams.audio:
        if stream.codec_context.name not in writer.supported_codecs:
            raise ValueError(
                f"{target}: cannot hold the sound of the source ({stream.codec_context.name}); try .mkv, or the suffix "
                "of the source"
            )
        streams[stream] = writer.add_stream_from_template(stream)
    return streams


def _stream(writer: OutputContainer, target: Path, source: VideoStream, first: Image.Image) -> VideoStream:
    rate = source.average_rate or Fraction(25)
    options = {"crf": "18"} if target.suffix.lower() != ".webm" else {"crf": "24", "b": "0", "row-mt": "1"}
    stream = writer.add_stream("libvpx-vp9" if target.suffix.lower() == ".webm" else "libx264", rate, options)
    stream.width, stream.height = first.width // 2 * 2, first.height // 2 * 2
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = source.time_base or 1 / rate
    stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = BT709
    stream.codec_context.color_range = LIMITED
    return stream


def _picture(frame: VideoFrame, size: int | None) -> Image.Image:
    """A frame as a person would see it: upright, RGB."""
    # Where nothing is said, small videos have the colours of television (BT.601), large ones those of HD (BT.709).
    unspecified = frame.colorspace in (2, None)
    source = ("ITU709" if frame.height >= 720 else "ITU601") if unspecified else None
    pixels = frame.reformat(format="rgb24", src_colorspace=source).to_ndarray()
    picture = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90)))
    return picture if size is None else images.resize(picture, size)


def _frame(picture: Image.Image, like: VideoFrame) -> VideoFrame:
    """A picture as a frame at the time of another."""
    even = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
    frame = VideoFrame.from_ndarray(np.asarray(even), format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.pts, frame.time_base = like.pts, like.time_base
    return frame
