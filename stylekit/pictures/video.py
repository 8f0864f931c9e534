"""Read, process and write videos frame by frame."""

from __future__ import annotations

import errno
from collections import deque
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

_MATROSKA = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
"""Ids of the header and of the segment, which has everything else."""

_MP4 = b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx", b"styp"
"""Kinds of boxes, of which a file consists."""


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
    with (
        _open(source) as reader,
        atomic_write(target) as file,
        av.open(file, "w", format=images.VIDEOS[target.suffix.lower()]) as writer,
        tqdm(total=reader.streams.video[0].frames or None, unit="frame", leave=False, disable=None, delay=1) as bar,
    ):
        video, is_avi = reader.streams.video[0], reader.format.name == "avi"
        audio = _copy_audio_streams(reader, writer, target)
        output: VideoStream | None = None
        pending: list[Packet[Any]] = []
        decoding_times: deque[int | None] = deque()
        last = -1
        for packet in reader.demux([video, *audio]):
            frames: list[VideoFrame] = []
            if packet.stream is video:
                decoding_times.append(packet.dts)
                frames = cast("list[VideoFrame]", packet.decode())
            elif packet.dts is not None:
                packet.stream = audio[packet.stream]
                pending.append(packet)
            for frame in frames:
                # AVI stores when to decode a frame, not when to show it: the first shown is the first in time.
                time = decoding_times.popleft() if is_avi and decoding_times else frame.pts
                last = frame.pts = last + 1 if time is None else max(last + 1, time)
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
    """Refuse a file that ends before its container says: the result would be shorter without a word."""
    size, end = source.stat().st_size, 0
    with source.open("rb") as file:
        while end < size:
            file.seek(end)
            head = file.read(16).ljust(16, b"\0")
            if head[:4] == b"RIFF":  # AVI
                end += 8 + int.from_bytes(head[4:8], "little")
            elif head[:4] in _MATROSKA and head[4]:
                width = 9 - head[4].bit_length()
                length = int.from_bytes(head[4 : 4 + width], "big") - (1 << 7 * width)
                if length == (1 << 7 * width) - 1:
                    return  # Recorded without an end.
                end += 4 + width + length
            elif head[4:8] in _MP4:
                length = int.from_bytes(head[:4], "big")
                end += max(8, int.from_bytes(head[8:], "big") if length == 1 else length or size - end)
            else:
                return  # What a camera appended.
    if end > size + 8:  # Some programs count the first eight bytes twice.
        raise ValueError(
            f"{source}: truncated: has {size:,} of {end:,} bytes; repair it, for example with "
            "`ffmpeg -i FILE -c copy NEW`"
        )


@contextmanager
def _open(source: Path) -> Iterator[InputContainer]:
    """Open a video and convert FFmpeg's errors to ValueError with a one-line message."""
    if not source.is_file():
        raise ValueError(f"{source}: not a file")
    _check_complete(source)
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
        without = {"bf": "0"} if target.suffix.lower() == ".avi" else {}  # B-frames, whose order AVI cannot store.
        stream = writer.add_stream("libx264", rate, {"crf": "18", **without})
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
