"""Restoring videos frame by frame: H.264, or VP9 in WebM. Sound, subtitles, time stamps, rotation and descriptions are
copied.

PyAV, which contains FFmpeg, reads and writes. Files are passed to it opened, so that any name is possible and a full
disk is Python's error, and only the formats below are read: others, such as playlists, could open further files.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from src.data.image_files import VIDEO_MARKS
from src.errors import UserError
from src.files import whole_file
from src.photos.hdr import HLG, PQ, light_of, to_sdr
from src.photos.read import read_header

CONTAINERS = {
    ".mp4": "mp4",
    ".mov": "mov",
    ".m4v": "mp4",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "matroska",
}
"""The format in which videos of each suffix are written, by FFmpeg's name."""
SUFFIX_OF = {".avi": ".mkv"}
"""The suffix of the output where it is another: AVI has no place for the time stamps of H.264."""
READ_AS = "mov,mp4,matroska,webm,avi"
PHOTO_BRANDS = ("avif", "avis", "heic", "heix", "mif1", "msf1")  # of photos that FFmpeg would read as videos
WORST_CRF, CRF = 51, 17  # H.264's measure of quality; 0 is lossless, 17 visually so
VP9_PER_H264 = 63 / 51  # the ratio of their CRF scales
FILE_KEYS = ("major_brand", "minor_version", "compatible_brands", "encoder", "ENCODER")  # not about the content
DESCRIPTIVE = ("language", "title", "handler_name", "creation_time")  # metadata of a stream, whatever its encoding
BT709, UNSPECIFIED, BT470BG, SMPTE170M, BT2020 = 1, 2, 5, 6, 9  # matrices and other colour values of ITU-T H.273
MATRICES = (BT709, 4, BT470BG, SMPTE170M, 7, BT2020)  # those that swscale computes
LIMITED, FULL = 1, 2  # ranges of YUV values
RATE = Fraction(25)  # frames per second of a video that does not state it
VP9 = {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}  # no bit rate: the quality alone decides
END_TOLERANCE = 0.1  # seconds by which the stated duration of a whole file may exceed its content


def is_video(path: Path) -> bool:
    return path.suffix.lower() in CONTAINERS


def import_av() -> Any:
    """PyAV. Raises a UserError if it is not installed."""
    try:
        import av
        import av.video.reformatter  # noqa: F401  # not an attribute otherwise
    except ImportError as e:
        raise UserError("videos need PyAV, which is not installed: bash scripts/setup.sh --video") from e
    return av


def restore_video(
    source: Path,
    target: Path,
    restore: Callable[[np.ndarray, Path], np.ndarray],
    quality: int = CRF,
    max_pixels: int = 2**31,
    max_seconds: float = math.inf,
    on_frame: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """Restore a video one frame at a time; returns notes on what was changed, converted or left out.

    Args:
        target: its suffix is a key of `CONTAINERS`. Written as by `whole_file`.
        restore: (pixels (H, W, 3) uint8, `source`) -> the same shape and type. Frames are passed as they are stored:
            players turn them.
        quality: CRF of H.264, 0 to `WORST_CRF`; its equivalent for VP9.
        max_pixels: a video with larger frames is refused.
        max_seconds: a longer video is refused.
        on_frame: called with (frames done, frames in all or 0 if unknown).

    Raises:
        UserError: PyAV is not installed; `source` cannot be read, has no frame or exceeds a limit; `target` cannot be
            written. Nothing was written.
    """
    limits = max_pixels, max_seconds
    first = _first_frame(source, *limits)
    with (
        _opened(source, *limits) as (clip, video),
        whole_file(target) as part,
        open(part, "xb+") as file,
        _Writer(file, CONTAINERS[target.suffix.lower()], clip, video, first, quality) as writer,
    ):
        start = (clip.start_time or 0) / 1e6
        seconds = clip.duration / 1e6 if clip.duration else 0.0
        if clip.format.name == "avi" and video.average_rate:  # a cut-off file has no index, from which it is computed
            seconds = max(seconds, float(video.frames / video.average_rate))
        total = video.frames or round(seconds * (video.average_rate or 0))
        for done, frame in enumerate(_frames(clip, video, writer.counts, writer.copy), 1):
            _check(source, frame.width, frame.height, (frame.time or 0) - start, *limits)
            try:
                restored = restore(writer.to_rgb(frame), source)
            except MemoryError as e:
                raise UserError(f"{source}: not enough memory; give a smaller --tile") from e
            writer.write(restored, frame)
            if on_frame:
                on_frame(done, total)
        end = writer.end - start
    notes = [*writer.notes, *(f"{what}: {count}" for what, count in writer.counts.items())]
    if seconds - end > END_TOLERANCE:
        notes.append(f"cut off or damaged, so that {max(end, 0):.2f} of {seconds:.2f} s are written")
    return tuple(notes)


def first_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8: the first frame as a player shows it, except for mirrored ones. Raises as `restore_video`."""
    frame = _first_frame(path, 2**31, math.inf)
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


# ---- reading


@contextlib.contextmanager
def _opened(source: Path, max_pixels: int, max_seconds: float) -> Iterator[tuple[Any, Any]]:
    """A video and its first stream of pictures, which can be decoded.

    Raises:
        UserError: the file cannot be read, or is no such video.
    """
    av = import_av()
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(source, "rb"))
        except OSError as e:
            broken = ", a broken link" if source.is_symlink() and not source.exists() else ""
            raise UserError(f"{source}: cannot be read ({e.strerror}{broken})") from e
        try:
            options = {"format_whitelist": READ_AS}
            clip = stack.enter_context(av.open(file, "r", container_options=options, metadata_errors="replace"))
        except (av.FFmpegError, OSError) as e:  # also from seeking in a file of few bytes
            raise UserError(f"{source}: {_what_it_is(source)}") from e
        if clip.metadata.get("major_brand", "").strip() in PHOTO_BRANDS:
            raise UserError(f"{source}: a HEIC or AVIF photo under the name of a video; rename it to .heic or .avif")
        videos = [s for s in clip.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not videos:
            rest = f" (only {_kinds(clip.streams)})" if len(clip.streams) else ""
            raise UserError(f"{source}: has no pictures{rest}; expected a video with frames")
        if (context := videos[0].codec_context) is None:
            raise UserError(f"{source}: FFmpeg cannot decode its pictures; convert it to H.264 first")
        _check(source, context.width, context.height, (clip.duration or 0) / av.time_base, max_pixels, max_seconds)
        yield clip, videos[0]


def _check(source: Path, width: int, height: int, seconds: float, max_pixels: int, max_seconds: float) -> None:
    if width * height > max_pixels:
        raise UserError(
            f"{source}: frames of {width}x{height} have {width * height / 1e6:.1f} megapixels, expected "
            f"{max_pixels / 1e6:g} at most; scale it down, or raise the limit"
        )
    if seconds > max_seconds:
        raise UserError(
            f"{source}: lasts {seconds:.1f} s, expected {max_seconds:g} s at most; cut it, or raise the limit"
        )


def _first_frame(source: Path, max_pixels: int, max_seconds: float) -> Any:
    """Raises like `restore_video`."""
    with _opened(source, max_pixels, max_seconds) as (clip, video):
        for frame in _frames(clip, video, Counter()):
            return frame
    raise UserError(f"{source}: no frame in it can be decoded. Fetch this file again.")


def _what_it_is(source: Path) -> str:
    """A message about a file that FFmpeg does not open, whatever its name is."""
    with contextlib.suppress(UserError):
        return f"a {read_header(source).file_format} photo under the name of a video; rename it"
    with open(source, "rb") as file:
        head = file.read(64)
    if not head:
        return "empty, 0 bytes. Fetch or save this file again."
    if any(head[start:].startswith(mark) for start, mark in VIDEO_MARKS):
        return "damaged or cut off, so that nothing in it can be read. Fetch or save this file again."
    return "not a video; expected the content of an MP4, MOV, Matroska, WebM or AVI file"


def _kinds(streams: Any) -> str:
    """'2 audio, 1 data'"""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(stream.type for stream in streams).items())


def _frames(clip: Any, video: Any, counts: Counter, copy: Callable[[Any], None] | None = None) -> Iterator[Any]:
    """The frames of `video`; `copy` gets every packet. Damage is counted, and an unreadable rest ends the video."""
    av = import_av()
    packets = clip.demux()
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:
            counts["unreadable places, where the video ends"] += 1
            packet = None
        if packet is not None and copy:
            copy(packet)
        if packet is not None and packet.stream is not video:
            continue
        try:
            frames = video.decode(packet)
        except av.FFmpegError:
            counts["damaged packets left out"] += 1
            frames = []
        yield from frames
        if packet is None:
            return


# ---- writing


class _Writer:
    """The new video. As a context manager: complete at the end, unless there was an error.

    Args:
        file: an empty file, open for writing and seeking.
        container: a value of `CONTAINERS`.
        clip, video: as from `_opened`; all other streams that `container` can hold are copied.
        first: the first frame, to which all others are fitted.
        quality: see `restore_video`.
    """

    def __init__(self, file: Any, container: str, clip: Any, video: Any, first: Any, quality: int):
        self.av = av = import_av()
        self.counts: Counter = Counter()
        """What was changed in how many frames or packets."""
        self.end = -math.inf
        """Seconds at which the last packet of the input ends."""
        flags = av.video.reformatter.Interpolation
        # Without the flags, a frame that the network does not change loses 10 dB.
        self.interpolation = flags.BICUBIC | flags.ACCURATE_RND | flags.FULL_CHR_H_INT | flags.FULL_CHR_H_INP
        self.curve = first.color_trc if first.color_trc in (PQ, HLG) else 0
        self.light = light_of(self.curve) if self.curve else np.empty(0)
        options = {}
        if container in ("mp4", "mov") and video.time_base.numerator == 1:
            options["video_track_timescale"] = str(video.time_base.denominator)
        if any(key.startswith("com.") for key in clip.metadata):  # place and camera of an iPhone's video
            options["movflags"] = "use_metadata_tags"
        self.output = av.open(file, "w", format=container, container_options=options)
        self.output.metadata.update({key: clip.metadata[key] for key in clip.metadata if key not in FILE_KEYS})
        self.rate = video.average_rate or video.guessed_rate or RATE
        self.stream = self._add_video(container, video, first, quality)
        self.notes = self._conversions(clip, video, first)
        self.copies = {}
        left_out = []
        for stream in clip.streams:
            if stream.index != video.index:
                try:
                    self.copies[stream.index] = self._add_copy(stream, container)
                except ValueError:
                    left_out.append(stream)
        if left_out:
            self.notes.append(f"left out: {_kinds(left_out)}")
        if chapters := clip.chapters():
            self.output.set_chapters(chapters)
        self.last = -math.inf

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is None:
            self.output.mux(self.stream.encode(None))
            self.output.close()
        else:
            with contextlib.suppress(Exception):
                self.output.close()

    def _add_video(self, container: str, video: Any, first: Any, quality: int) -> Any:
        if container == "webm":
            stream = self.output.add_stream("libvpx-vp9", self.rate, {"crf": str(round(quality * VP9_PER_H264)), **VP9})
        else:
            stream = self.output.add_stream("libx264", self.rate, {"crf": str(quality)})
        context = stream.codec_context
        context.width, context.height = first.width, first.height
        odd = container != "webm" and (first.width % 2 or first.height % 2)
        context.pix_fmt = "yuv444p" if odd else "yuv420p"
        context.time_base = video.time_base
        context.flags |= self.av.codec.context.Flags.frame_duration
        if video.sample_aspect_ratio:
            context.sample_aspect_ratio = video.sample_aspect_ratio
        if self.curve:
            context.colorspace = context.color_trc = context.color_primaries = self.matrix = BT709
        else:
            context.color_trc, context.color_primaries = first.color_trc, first.color_primaries
            guess = BT709 if first.height >= 720 else SMPTE170M  # as players guess
            self.matrix = first.colorspace if first.colorspace in MATRICES else guess
            context.colorspace = UNSPECIFIED if first.colorspace == UNSPECIFIED else self.matrix
        full = first.format.name.startswith("yuvj") or (first.color_range == FULL and not first.format.is_rgb)
        self.range = context.color_range = FULL if full and not self.curve else LIMITED
        if matrix := first.side_data.get(self.av.sidedata.sidedata.Type.DISPLAYMATRIX):
            stream.set_display_matrix(np.frombuffer(matrix, np.int32).tolist())
        stream.metadata.update({key: video.metadata[key] for key in DESCRIPTIVE if key in video.metadata})
        stream.disposition = video.disposition
        return stream

    def _add_copy(self, stream: Any, container: str) -> Any:
        """Raises a ValueError if the container cannot hold the stream."""
        kinds = ("audio", "subtitle", "attachment") if container == "matroska" else ("audio", "subtitle")
        if stream.type not in kinds:
            raise ValueError(stream.type)
        copy = self.output.add_stream_from_template(stream)
        copy.metadata.update(stream.metadata)
        copy.disposition = stream.disposition
        return copy

    def _conversions(self, clip: Any, video: Any, first: Any) -> list[str]:
        """Notes about what H.264 or VP9 with 8 bits cannot hold."""
        notes = ["AVI is written as Matroska, .mkv"] if clip.format.name == "avi" else []
        components = first.format.components
        bits = max(component.bits for component in components)
        if self.curve:
            notes.append("HDR is converted to SDR with 8 bits")
        elif bits > 8:
            notes.append(f"{bits} bits are rounded to 8")
        if video.metadata.get("alpha_mode") == "1" or any(component.is_alpha for component in components):
            notes.append("its transparency is left out")
        if self.stream.codec_context.pix_fmt == "yuv444p":
            notes.append("written without reduced colours (4:4:4) for its odd size, which some players do not show")
        elif len(components) > 2 and first.format.chroma_height(2) == 2:
            notes.append("its colours are written with half the resolution (4:2:0)")
        if first.interlaced_frame:
            notes.append("interlaced: two half-pictures are restored as one")
        return notes

    def to_rgb(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8 of a frame of the input."""
        if frame.colorspace not in MATRICES and not frame.format.is_rgb:
            frame.colorspace = BT2020 if self.curve else self.matrix
        kind = "rgb48le" if self.curve else "rgb24"
        pixels = frame.reformat(format=kind, interpolation=self.interpolation).to_ndarray()
        return to_sdr(pixels, self.curve, self.light) if self.curve else pixels

    def write(self, restored: np.ndarray, frame: Any) -> None:
        """Encode an (H, W, 3) uint8 picture at the time of `frame`."""
        context = self.stream.codec_context
        if restored.shape[:2] != (context.height, context.width):
            self.counts[f"frames of other sizes, scaled to {context.width}x{context.height}"] += 1
        picture = self.av.VideoFrame.from_ndarray(np.ascontiguousarray(restored), format="rgb24").reformat(
            context.width,
            context.height,
            context.pix_fmt,
            dst_colorspace=BT470BG if self.matrix == SMPTE170M else self.matrix,  # swscale has one name for both
            dst_color_range=self.range,
            interpolation=self.interpolation,
        )
        if frame.pts is None:
            self.counts[f"frames without a time stamp, written at {float(self.rate):g} a second"] += 1
            pts = 0 if self.last < 0 else self.last + round(1 / self.rate / context.time_base)
        else:
            pts = frame.pts
            if pts <= self.last:
                self.counts["time stamps not after the one before, moved"] += 1
                pts = self.last + 1
        picture.pts, picture.time_base, picture.duration = pts, context.time_base, frame.duration
        self.last = pts
        self.output.mux(self.stream.encode(picture))

    def copy(self, packet: Any) -> None:
        """Take a packet of the input: copies that of another stream than the pictures."""
        if packet.pts is not None:
            self.end = max(self.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        copy = self.copies.get(packet.stream.index)
        if copy is not None and packet.dts is not None:
            packet.stream = copy
            try:
                self.output.mux(packet)
            except self.av.FFmpegError:
                self.counts[f"{copy.type} packets left out, damaged or out of order"] += 1
