"""Small videos, made with PyAV, for the tests that restore them."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
from av.codec.context import Flags

WIDTH, HEIGHT = 64, 48
TIME_BASE = Fraction(1, 600)
TIMES = [0, 20, 40, 65, 90, 130, 150, 175, 200]  # in TIME_BASE; the rate varies
SOUND = {".webm": "libopus", ".avi": "mp2"}


def picture(number, width=WIDTH, height=HEIGHT):
    """(H, W, 3) uint8, smooth, so that codecs hardly change it."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 3 + number * 5, y * 4, x + y + 60], axis=2).clip(0, 255).astype(np.uint8)


def make_video(
    path,
    times=TIMES,
    time_base=TIME_BASE,
    sound=True,
    codec="",
    size=(WIDTH, HEIGHT),
    tags=(),
    options=(),
    frames=(),
    pix_fmt="yuv420p",
    container="",
    **attributes,
):
    """A video of `picture(0)`, `picture(1)`, ..., or of `frames` (VideoFrames), with a sine as sound.

    Args:
        times: of the frames, in `time_base`.
        tags, options: of the file.
        attributes: of the video's codec context.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    codec = codec or {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    container = container or {".m4v": "mp4", ".mkv": "matroska"}.get(suffix, suffix[1:])
    with av.open(str(path), "w", format=container, options=dict(options)) as output:
        output.metadata.update(dict(tags))
        video = output.add_stream(codec, Fraction(24), {"crf": "0"} if codec == "libx264" else {})
        context = video.codec_context
        context.width, context.height = size
        context.pix_fmt, context.time_base = pix_fmt, time_base
        context.flags |= Flags.frame_duration
        for name, value in attributes.items():
            setattr(context, name, value)
        audio = add_sound(output, suffix) if sound else None
        for i, time in enumerate(times):
            frame = frames[i] if frames else av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            frame.pts, frame.time_base, frame.duration = time, time_base, round(1 / (24 * time_base))
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if audio:
            write_sine(output, audio, float(times[-1] * time_base) + 1 / 24)
    return path


def add_sound(output, suffix):
    audio = output.add_stream(SOUND.get(suffix, "aac"), 48000)
    audio.codec_context.layout = "mono"
    return audio


def write_sine(output, audio, seconds):
    wave = (np.sin(np.arange(round(48000 * seconds)) * 0.05) * 8000).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    fifo = av.AudioFifo()
    for resampled in av.AudioResampler(audio.codec_context.format, "mono", 48000).resample(frame):
        fifo.write(resampled)
    while chunk := fifo.read(audio.codec_context.frame_size, partial=True):
        output.mux(audio.encode(chunk))
    output.mux(audio.encode(None))


def read_video(path):
    """The first video stream decoded, and the packets of all others."""
    with av.open(str(path)) as clip:
        video = clip.streams.video[0]
        facts = SimpleNamespace(
            times=[],
            frames=[],
            packets={},
            metadata=dict(clip.metadata),
            kinds=[stream.type for stream in clip.streams],
            languages=[stream.language for stream in clip.streams],
            codec=video.codec_context.name,
            pix_fmt=video.codec_context.pix_fmt,
            time_base=video.time_base,
            chapters=clip.chapters(),
        )
        for packet in clip.demux():
            if packet.stream is video:
                for frame in packet.decode():
                    facts.times.append(frame.pts * frame.time_base)
                    facts.frames.append(frame.to_ndarray(format="rgb24"))
                    facts.rotation = frame.rotation
                    facts.colours = frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range
            elif packet.dts is not None:
                facts.packets.setdefault(packet.stream.type, []).append((packet.pts * packet.time_base, bytes(packet)))
    return facts
