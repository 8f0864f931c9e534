"""Read, process and write videos frame by frame."""

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
from torch import Tensor
from tqdm import tqdm

from stylekit.atomic import atomic_write
from stylekit.pictures import images

BT709 = LIMITED = 1
"""FFmpeg's codes for the color space of HD video and for the value range 16 to 235."""


def process_video(
    source: str | Path,
    target: str | Path,
    process: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    size: int | None = None,
) -> tuple[Image.Image, Image.Image]:
    """Process every frame of a video, in order; timestamps and audio are preserved.

    The result is H.264, or VP9 for .webm, written completely or not at all. Neither codec supports odd sides in 4:2:0,
    so an odd side loses one pixel.

    Args:
        process: (1, 3, H, W) in [0, 1], on the device -> the same.
        size: Shrink frames to this longer side first.

    Returns:
        The first frame before and after.

    Raises:
        ValueError: The source is not a video, or is damaged, truncated or smaller than 2 x 2 pixels; or the target
            format does not support its audio codec.
    """
    source, target = Path(source), Path(target)
    first: tuple[Image.Image, Image.Image] | None = None
    _check_complete(source)
    with (
        _open(source) as reader,
        atomic_write(target) as file,
        av.open(file, "w", format=images.VIDEOS[target.suffix.lower()]) as writer,
        tqdm(total=reader.streams.video[0].frames or None, unit="frame", leave=False, disable=None, delay=1) as bar,
    ):
        video = reader.streams.video[0]
        audio = _copy_audio_streams(reader, writer, target)
        output: VideoStream | None = None
        pending: list[Packet[Any]] = []
        for packet in reader.demux([video, *audio]):
            frames: list[VideoFrame] = []
            if packet.stream is video:
                frames = cast("list[VideoFrame]", packet.decode())
            elif packet.dts is not None:
                packet.stream = audio[packet.stream]
                pending.append(packet)
            for frame in frames:
                before = _to_image(frame, size)
                after = images.to_image(process(images.to_tensor(before).to(device)))
                first = first or (before, after)
                output = output or _add_video_stream(writer, target, video, after)
                writer.mux(output.encode(_to_frame(after, frame)))
                bar.update()
            if output is not None:
                # The file starts with a list of all streams, so audio must wait for the video stream.
                writer.mux(pending)
                pending.clear()
        if output is None or first is None:
            raise ValueError(f"{source}: contains no readable frame")
        writer.mux(output.encode())
    return first


def _check_complete(source: Path) -> None:
    """Refuse a video of which a second and a twentieth are missing: its result would be shorter without a word."""
    with _open(source) as reader:
        stream = reader.streams.video[0]
        expected = float(reader.duration / av.time_base) if reader.duration else 0.0
        frames, end = 0, 0.0
        start = float((stream.start_time or 0) * (stream.time_base or 0))
        for packet in reader.demux(stream):
            if packet.pts is not None and packet.time_base is not None:
                frames += 1
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start)
        # Sound may be longer than the pictures, so a difference alone is no proof.
        audio_ends = [float(s.duration * s.time_base) for s in reader.streams.audio if s.duration and s.time_base]
        missing = stream.frames - frames > max(1, stream.frames / 20)
        short = not audio_ends and expected - end > max(1.0, expected / 20)
    if missing or short:
        readable = f"{frames} frames, {end:.1f} of {expected:.1f} s, can be read"
        raise ValueError(f"{source}: truncated: {readable}; repair it, for example with `ffmpeg -i FILE -c copy NEW`")


@contextmanager
def _open(source: Path) -> Iterator[InputContainer]:
    """Open a video and convert FFmpeg's errors to ValueError with a one-line message."""
    if not source.is_file():
        raise ValueError(f"{source}: not a file")
    try:
        # Without "file:", FFmpeg takes "Trip: day 1.mp4" for an address.
        with av.open(f"file:{source}") as reader:
            if not reader.streams.video:
                raise ValueError(f"{source}: contains no video stream")
            reader.streams.video[0].thread_type = "AUTO"
            yield reader
    except av.error.InvalidDataError as error:
        raise ValueError(f"{source}: damaged or not a video") from error
    except (av.error.FFmpegError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        raise ValueError(f"{source}: cannot be processed ({error})") from error


def _copy_audio_streams(reader: InputContainer, writer: OutputContainer, target: Path) -> dict[Any, Any]:
    """Add an output stream without re-encoding for each audio stream of the source."""
    streams = {}
    for stream in reader.streams.audio:
        codec = getattr(stream.codec_context, "name", "unknown")
        if codec not in writer.supported_codecs:
            hint = "try .mkv or the suffix of the source"
            raise ValueError(f"{target}: does not support the audio codec of the source ({codec}); {hint}")
        streams[stream] = writer.add_stream_from_template(stream)
    return streams


def _add_video_stream(writer: OutputContainer, target: Path, source: VideoStream, first: Image.Image) -> VideoStream:
    if min(first.size) < 2:
        raise ValueError(f"{target}: a video needs at least 2 x 2 pixels, got {first.width} x {first.height}")
    rate = source.average_rate or Fraction(25)
    if target.suffix.lower() == ".webm":
        stream = writer.add_stream("libvpx-vp9", rate, {"crf": "24", "b": "0", "row-mt": "1"})
    else:
        stream = writer.add_stream("libx264", rate, {"crf": "18"})
    stream.width, stream.height = first.width // 2 * 2, first.height // 2 * 2
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = source.time_base or 1 / rate
    stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = BT709
    stream.codec_context.color_range = LIMITED
    return stream


def _to_image(frame: VideoFrame, size: int | None) -> Image.Image:
    """Convert a frame to RGB and apply its rotation."""
    # Videos without a color space use BT.601 below 720 lines and BT.709 otherwise, by convention.
    unspecified = frame.colorspace in (2, None)
    source = ("ITU709" if frame.height >= 720 else "ITU601") if unspecified else None
    pixels = frame.reformat(format="rgb24", src_colorspace=source).to_ndarray()
    return images.resize(Image.fromarray(np.rot90(pixels, frame.rotation // 90)), size)


def _to_frame(picture: Image.Image, like: VideoFrame) -> VideoFrame:
    """Convert a picture to a frame with the timestamp of another."""
    even = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
    frame = VideoFrame.from_ndarray(np.asarray(even), format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.pts, frame.time_base = like.pts, like.time_base
    return frame
