"""Clips made on the fly, with each frame's number drawn into it: 16 bits as black and white blocks
under a strip that is red on the left and blue on the right."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, STRIP = 160, 96, 16
BITS = 16
os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder writes its settings to stderr
MILLISECOND = Fraction(1, 1000)
Frame = np.ndarray


def drawn(number: int, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    """Frame `number`, uint8 [height, width, 3]."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    strip, size = height // 6, width // 8
    blocks = np.array(bits, np.uint8).reshape(2, 8).repeat(size, 1)
    frame = np.zeros((height, width, 3), np.uint8)
    frame[strip:, : 8 * size] = blocks.repeat(-(-(height - strip) // 2), 0)[
        : height - strip, :, None
    ]
    frame[:strip, : width // 2, 0] = 255
    frame[:strip, width // 2 :, 2] = 255
    return frame


def number_of(frame: Frame) -> int:
    """The number drawn in a decoded frame; fails if it is turned, or its colours are swapped."""
    height, width, _ = frame.shape
    strip, size = height // 6, width // 8
    left, right = (
        frame[2 : strip - 2, 4 : width // 2 - 4],
        frame[2 : strip - 2, width // 2 + 4 : -4],
    )
    assert left[..., 0].mean() > 150 > 90 > left[..., 2].mean(), "no red at the top left"
    assert right[..., 2].mean() > 150 > 90 > right[..., 0].mean(), "no blue at the top right"
    blocks = frame[strip:, : 8 * size].mean(2)
    half = blocks.shape[0] // 2
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 8)
        middle = blocks[row * half + half // 4 : row * half + 3 * half // 4]
        value = middle[:, column * size + size // 4 : column * size + 3 * size // 4].mean()
        assert not 90 < value < 165, f"bit {bit} is grey ({value})"
        number |= int(value > 128) << bit
    return number


def numbers_of(frames: Iterable[Frame]) -> list[int]:
    return [number_of(frame) for frame in frames]


def make_clip(
    path: Path,
    frames: int | Sequence[Frame] = 90,
    fps: int = 30,
    *,
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    audio_s: float = 0.0,
    rotation: int = 0,
) -> Path:
    """A video file; `times` are the frames' milliseconds, n / fps without.

    Frame n shows the number n, or `frames[n]`.
    """
    pictures = [drawn(n) for n in range(frames)] if isinstance(frames, int) else frames
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        base = MILLISECOND if times else Fraction(1, fps)
        stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        sound = output.add_stream("aac", rate=16000, layout="mono") if audio_s else None
        if sound:
            for start in range(0, int(audio_s * 16000), 1024):
                samples = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), "fltp", "mono"
                )
                samples.sample_rate, samples.pts = 16000, start
                output.mux(sound.encode(samples))
            output.mux(sound.encode(None))
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = times[index] if times else index, base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def shift(source: Path, target: Path, milliseconds: int, options: dict[str, str]) -> Path:
    """Copy a clip without encoding it, shown earlier; what would be before 0 is hidden by an edit
    list."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as output:
        stream = given.streams.video[0]
        copied = output.add_stream_from_template(stream)
        by = int(Fraction(milliseconds, 1000) / stream.time_base)
        for packet in given.demux(stream):
            if packet.size:
                packet.pts, packet.dts = packet.pts - by, packet.dts - by
                packet.stream = copied
                output.mux(packet)
    return target


def make_sound(path: Path) -> Path:
    """Half a second of silence, without a picture."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 8192, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
