"""Videos: time stamps, sound and descriptions kept, conversions reported, strange files refused in one line."""

import os
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from src.errors import UserError
from src.photos.video import restore_video
from tests.conftest import full_disk
from tests.videos import TIME_BASE, TIMES, make_video, picture, read_video


def unchanged(pixels, path):
    assert pixels.dtype == np.uint8
    return pixels


def invert(pixels, path):
    return 255 - pixels


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def restored(source, restore=unchanged, **kwargs):
    """(notes, facts of the output)"""
    suffix = ".mkv" if source.suffix == ".avi" else source.suffix
    target = Path("out", source.with_suffix(suffix).name)
    notes = restore_video(source, target, restore, **kwargs)
    assert os.listdir("out") == [target.name]
    return notes, read_video(target)


def refusal(source, restore=unchanged, **kwargs):
    """The message without the file's name."""
    with pytest.raises(UserError) as caught:
        restore_video(Path(source), Path("out", Path(source).name), restore, **kwargs)
    assert not os.path.exists("out") or os.listdir("out") == []
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{source}: ")
    return str(caught.value).removeprefix(f"{source}: ")


def decibels(a, b):
    return 10 * np.log10(255**2 / max(np.square(np.asarray(a, float) - b).mean(), 1e-9))


# ---- what is kept


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v", ".mkv", ".webm", ".MP4"])
def test_time_stamps_and_sound_are_kept(suffix):
    source = make_video(f"in{suffix}", tags={"title": "a walk"})
    seen = []
    notes, after = restored(source, invert, on_frame=lambda *counts: seen.append(counts[0]))
    before = read_video(source)
    assert notes == () and seen == list(range(1, len(TIMES) + 1))
    assert after.times == before.times and after.time_base == before.time_base
    assert len(after.times) == len(TIMES)
    assert after.packets == before.packets and len(after.packets["audio"]) > 10
    assert after.codec == ("vp9" if suffix == ".webm" else "h264") and after.metadata["title"] == "a walk"
    assert min(decibels(255 - a, b) for a, b in zip(before.frames, after.frames, strict=True)) > 38


def test_avi_becomes_matroska():
    source = make_video("in.avi", range(9), Fraction(1, 24))
    notes, after = restored(source)
    before = read_video(source)
    assert notes == ("AVI is written as Matroska, .mkv",)
    np.testing.assert_allclose([float(t) for t in after.times], [float(t) for t in before.times], atol=0.0006)
    assert [p for _, p in after.packets["audio"]] == [p for _, p in before.packets["audio"]]


def test_quality():
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    source, sizes = make_video("in.mp4", [0, 30], sound=False), []
    for quality in (10, 17, 40):
        restore_video(source, Path("out.mp4"), lambda *args: noise, quality)
        sizes.append(Path("out.mp4").stat().st_size)
    assert sizes[0] > 1.1 * sizes[1] > 2 * sizes[2]


def test_rotation_place_and_colours_are_kept():
    tags = {"com.apple.quicktime.location.ISO6709": "+48.8577+002.295/", "creation_time": "2021-03-04T05:06:07.000000Z"}
    colours = {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 2}
    source = make_video("in.mov", tags=tags, options={"movflags": "use_metadata_tags"}, pix_fmt="yuvj420p", **colours)
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 44  # of the first stream
    assert struct.unpack(">9i", data[matrix : matrix + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 * 65536, 0, 2**30)
    source.write_bytes(data)
    notes, after = restored(source)
    before = read_video(source)
    assert notes == () and after.rotation == before.rotation == -90 and after.frames[0].shape == (48, 64, 3)
    assert after.colours == before.colours == (1, 1, 1, 2)
    assert {key: after.metadata[key] for key in tags} == tags
    assert min(decibels(a, b) for a, b in zip(before.frames, after.frames, strict=True)) > 38


def test_subtitles_chapters_and_languages_are_kept_and_a_second_video_is_named():
    plain = make_video("plain.mkv")
    Path("a.srt").write_text("1\n00:00:00,050 --> 00:00:00,300\nHello\n")
    with av.open(str(plain)) as clip, av.open("a.srt") as text, av.open("in.mkv", "w") as output:
        streams = [output.add_stream_from_template(s) for s in (*clip.streams, text.streams[0], clip.streams.video[0])]
        streams[1].metadata["language"], streams[2].metadata["language"] = "deu", "fra"
        output.set_chapters([{"id": 1, "start": 0, "end": 100, "time_base": Fraction(1, 1000), "metadata": {}}])
        packets = [(p, streams[p.stream.index]) for p in clip.demux() if p.dts is not None]
        packets += [(p, streams[2]) for p in text.demux() if p.dts is not None]
        for packet, stream in packets:
            packet.stream = stream
            output.mux(packet)
    notes, after = restored(Path("in.mkv"))
    before = read_video("in.mkv")
    assert notes == ("left out: 1 video",)
    assert after.kinds == ["video", "audio", "subtitle"] and after.languages == [None, "deu", "fra"]
    assert after.packets == {kind: before.packets[kind] for kind in ("audio", "subtitle")}
    assert len(after.packets["subtitle"]) == 1 and after.chapters == before.chapters != []


def test_a_name_that_is_not_utf8_or_an_address():
    for name in (os.fsdecode(b"caf\xe9.mp4"), "a:b.mp4"):
        make_video("in.mp4", [0], sound=False).rename(name)
        assert restore_video(Path(name), Path("out", name), unchanged) == ()


# ---- what is converted


@pytest.mark.parametrize(
    "name, options, note",
    [
        ("a.mkv", {"pix_fmt": "yuv420p10le"}, "10 bits are rounded to 8"),
        ("a.mov", {"pix_fmt": "yuv422p"}, "its colours are written with half the resolution (4:2:0)"),
        ("a.webm", {"pix_fmt": "yuva420p"}, "its transparency is left out"),
        ("a.mp4", {"size": (63, 47), "pix_fmt": "yuv444p"}, "written without reduced colours (4:4:4) for its odd size"),
    ],
)
def test_what_8_bit_420_cannot_hold_is_said(name, options, note):
    source = make_video(name, [0, 30, 60], sound=False, **options)
    (line,), after = restored(source)
    before = read_video(source)
    assert line.startswith(note) and after.times == before.times
    assert after.pix_fmt == ("yuv444p" if "size" in options else "yuv420p")
    assert min(decibels(a, b) for a, b in zip(before.frames, after.frames, strict=True)) > 38


def test_hdr_becomes_sdr():
    luma = np.full((72, 64), 512, np.uint16)
    luma[:24], luma[24:48] = 572, 721  # PQ: 203 and 1000 nits
    frame = av.VideoFrame.from_ndarray(luma, format="yuv420p10le")
    colours = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}
    source = make_video("a.mkv", [0], sound=False, pix_fmt="yuv420p10le", frames=[frame], **colours)
    notes, after = restored(source)
    assert notes == ("HDR is converted to SDR with 8 bits",) and after.colours == (1, 1, 1, 1)
    top, bottom = (after.frames[0][row].mean() for row in (10, 40))
    assert 215 < top < 240 and bottom > 252


def test_frames_of_other_sizes_are_scaled_to_the_first():
    with av.open("in.webm", "w") as output:
        stream = output.add_stream("libvpx-vp9", 24, width=64, height=48, time_base=TIME_BASE)
        output.start_encoding()
        smaller = av.CodecContext.create("libvpx-vp9", "w")
        smaller.width, smaller.height, smaller.pix_fmt, smaller.time_base = 32, 24, "yuv420p", TIME_BASE
        for context, times in ((stream.codec_context, TIMES[:5]), (smaller, TIMES[5:])):
            for time in (*times, None):
                frame = None
                if time is not None:
                    frame = av.VideoFrame.from_ndarray(picture(0, context.width, context.height), format="rgb24")
                    frame.pts, frame.time_base = time, TIME_BASE
                for packet in context.encode(frame):
                    packet.stream, packet.time_base = stream, TIME_BASE
                    output.mux(packet)
    shapes = []
    notes, after = restored(Path("in.webm"), lambda pixels, _: shapes.append(pixels.shape) or pixels)
    assert notes == ("frames of other sizes, scaled to 64x48: 4",) and set(shapes) == {(48, 64, 3), (24, 32, 3)}
    assert {frame.shape for frame in after.frames} == {(48, 64, 3)} and len(after.times) == len(TIMES)


# ---- files that are no whole video


def test_without_its_end_what_can_be_read_is_written():
    for name in ("a.mp4", "a.webm", "a.avi"):
        base = Fraction(1, 24) if name == "a.avi" else TIME_BASE
        times = [round(i / 24 / base) for i in range(24)]
        source = make_video(name, times, base, options={"movflags": "faststart"} if name == "a.mp4" else {})
        source.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
        notes, after = restored(source)
        Path("out", os.listdir("out")[0]).unlink()
        assert 5 < len(after.times) < 20 and len(after.packets["audio"]) > 5
        assert notes[-1].startswith("cut off or damaged, so that 0.") and notes[-1].endswith(" s are written")
    plain = make_video("b.mp4")  # its index is at the end
    plain.write_bytes(plain.read_bytes()[:-500])
    assert refusal("b.mp4").startswith("damaged or cut off, so that nothing in it can be read")


def test_no_rate_and_one_frame():
    data = bytearray(make_video("zero.avi", range(5), Fraction(1, 24)).read_bytes())
    rate, interval = data.index(b"strh") + 28, data.index(b"avih") + 8
    data[rate : rate + 8], data[interval : interval + 4] = bytes(8), bytes(4)
    Path("zero.avi").write_bytes(data)
    _, after = restored(Path("zero.avi"))
    assert len(after.times) == 5 and after.times == sorted(set(after.times))
    Path("out/zero.mkv").unlink()
    _, after = restored(make_video("one.mkv", [0], sound=False))
    assert after.times == [0]


def test_what_is_no_video_is_refused():
    sound = make_video("whole.mp4")
    with av.open(str(sound)) as clip, av.open("sound.mp4", "w") as output:
        stream = output.add_stream_from_template(clip.streams.audio[0])
        for packet in clip.demux(clip.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    with av.open("frameless.mp4", "w") as output:
        output.add_stream("libx264", 24)
        output.start_encoding()
    Path("unknown.mp4").write_bytes(sound.read_bytes().replace(b"avc1", b"zzz1"))
    Path("text.mp4").write_text("hello\n" * 100)
    Path("list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nwhole.mp4\n")
    Path("empty.mp4").touch()
    Path("link.mp4").symlink_to("nowhere.mp4")
    Image.fromarray(picture(0)).save("photo.mp4", "JPEG")
    Path("iphone.mp4").write_bytes(sound.read_bytes().replace(b"ftypisom", b"ftypheic"))
    for name, words in {
        "sound.mp4": "has no pictures (only 1 audio); expected",
        "frameless.mp4": "has no pictures; expected",
        "unknown.mp4": "FFmpeg cannot decode its pictures; convert",
        "text.mp4": "not a video; expected the content of an MP4",
        "list.mp4": "not a video; expected",
        "empty.mp4": "empty, 0 bytes",
        "link.mp4": "cannot be read (No such file or directory, a broken link)",
        "photo.mp4": "a JPEG photo under the name of a video; rename it",
        "iphone.mp4": "a HEIC or AVIF photo under the name of a video",
    }.items():
        assert refusal(name).startswith(words), name
    assert refusal("whole.mp4", max_pixels=1000).startswith("frames of 64x48 have 0.0 megapixels, expected")
    assert refusal("whole.mp4", max_seconds=0.2).startswith("lasts 0.4 s, expected 0.2 s at most")


def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch):
    source = make_video("in.mp4", range(0, 1600, 20), sound=False)
    Path("out").mkdir()
    Path("out/in.mp4").write_bytes(b"old")
    noise = np.random.default_rng(0).integers(0, 256, (80, 48, 64, 3), np.uint8)
    frames = iter(noise)
    with full_disk(50_000), pytest.raises(UserError, match="^cannot save out/in.mp4 .*Make room"):
        restore_video(source, Path("out/in.mp4"), lambda *args: next(frames))
    assert 0 < len(list(frames)) < 79
    restore_video(make_video("short.mp4", [0, 30]), Path("short.mp4.mp4"), unchanged)
    size = Path("short.mp4.mp4").stat().st_size
    for lacking in (1, 1000):  # the last bytes do not fit
        with full_disk(size - lacking), pytest.raises(UserError, match="^cannot save out/in.mp4 "):
            restore_video(Path("short.mp4"), Path("out/in.mp4"), unchanged)
    calls = iter(range(3))

    def stopped(pixels, path):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return pixels

    with pytest.raises(KeyboardInterrupt):
        restore_video(source, Path("out/in.mp4"), stopped)
    assert os.listdir("out") == ["in.mp4"] and Path("out/in.mp4").read_bytes() == b"old"
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="^videos need PyAV, which is not installed: bash scripts/setup.sh --video$"):
        restore_video(source, Path("out/in.mp4"), unchanged)
