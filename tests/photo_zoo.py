"""Photos in every format, depth and layout, each with the pixels that readers must return.

The pixels come from NumPy, not from a reader. tifffile, Pillow, OpenCV and a few lines below write the files.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
import pyvips
import tifffile
from PIL import Image, ImageCms

RNG = np.random.default_rng(3)
HEIGHT, WIDTH = 26, 34
WIDE = RNG.integers(0, 65536, (HEIGHT, WIDTH, 5)).astype(np.uint16)
NARROW = RNG.integers(0, 256, (HEIGHT, WIDTH, 5)).astype(np.uint8)
SMOOTH = np.clip(np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH) * 4)[..., None] + (0, 20, 40), 0, 255)
SMOOTH = SMOOTH.astype(np.uint8)  # for lossy formats
FLOATS = (WIDE / np.float64(65535)).astype(np.float32)
INDEX = RNG.integers(0, 16, (HEIGHT, WIDTH)).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (256, 3)).astype(np.uint8)


@dataclass(frozen=True)
class Animal:
    """One file."""

    name: str
    path: Path
    values: np.ndarray
    """(H, W, channels): grey, grey and alpha, RGB or RGBA, as `src.photos.read` must return them before turning."""
    tolerance: int = 0
    notes: str = ""
    orientation: int = 1


# ---- writers


def png(depth: int, colour: int, values: np.ndarray, *early: tuple[bytes, bytes]) -> bytes:
    """A PNG of (H, W) or (H, W, channels) samples below 2**depth, with chunks before the pixels."""
    rows = values.reshape(len(values), -1)
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        bits = ((rows[..., None] >> np.arange(depth)[::-1]) & 1).reshape(len(rows), -1).astype(np.uint8)
        lines = [np.packbits(row).tobytes() for row in bits]
    head = struct.pack(">IIBBBBB", values.shape[1], len(values), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = [(b"IHDR", head), *early, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def by_pillow(file_format: str, image: Image.Image | np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, file_format, **options)
    return file.getvalue()


def tiff(values: np.ndarray, photometric: str = "rgb", byteorder: str = "<", **options) -> bytes:
    if options.get("planarconfig") == "separate":
        values = np.moveaxis(values, 2, 0)
    values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder(byteorder))
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric=photometric, byteorder=byteorder, **options)
    return file.getvalue()


def heic(values: np.ndarray, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    size = values.shape[1], values.shape[0]
    pillow_heif.from_bytes(mode, size, values.tobytes()).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


def cmyk_profile() -> bytes:
    """A small CMYK profile: the colour is white less cyan, magenta and yellow, all scaled by what black leaves."""
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    light = (1 - corners[:, :3]) * (1 - corners[:, 3:])
    linear = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7142]])  # to D50
    ratio = linear @ to_xyz.T / (0.9642, 1, 0.8249)
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    grid = np.clip(np.rint((lab + (0, 128, 128)) * (255 / 100, 1, 1)), 0, 255).astype(np.uint8)
    identity = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel().tolist())
    table += identity * 4 + grid.tobytes() + identity * 3
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"A2B0": table + bytes(-len(table) % 4),
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3I", 63190, 65536, 54061),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    start, entries, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        entries += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3I", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


# ---- the zoo


def make_zoo(folder: Path) -> list[Animal]:
    """Write every file into `folder`."""
    animals = []
    for name, content, values, *rest in (*pngs(), *jpegs(), *tiffs(), *others()):
        path = folder / name
        path.write_bytes(content)
        animals.append(Animal(name, path, values if values.ndim == 3 else values[..., None], *rest))
    return animals


def pngs() -> Iterator[tuple]:
    for depth in (1, 2, 4, 8, 16):
        samples = WIDE[..., 0] >> (16 - depth)
        grey = samples if depth == 16 else (samples * (255 // (2**depth - 1))).astype(np.uint8)
        yield f"grey{depth}.png", png(depth, 0, samples), grey
    for depth in (1, 2, 4, 8):
        index, palette = INDEX % 2**depth, (b"PLTE", COLOURS[: 2**depth].tobytes())
        yield f"palette{depth}.png", png(depth, 3, index, palette), COLOURS[index]
        alpha = np.full(2**depth, 255, np.uint8)
        alpha[:2] = 0, 99
        see_through = png(depth, 3, index, palette, (b"tRNS", bytes([0, 99])))
        yield f"palette{depth}_alpha.png", see_through, np.dstack([COLOURS[index], alpha[index]])
    for depth, samples in ((8, NARROW), (16, WIDE)):
        for colour, channels in ((2, 3), (4, 2), (6, 4)):
            yield f"colour{colour}_{depth}.png", png(depth, colour, samples[..., :channels]), samples[..., :channels]
        top = 2**depth - 1
        key = samples[3, 4].astype(">u2")
        alpha = np.where((samples[..., :3] == samples[3, 4, :3]).all(2), 0, top).astype(samples.dtype)
        content = png(depth, 2, samples[..., :3], (b"tRNS", key[:3].tobytes()))
        yield f"key_rgb{depth}.png", content, np.dstack([samples[..., :3], alpha])
        alpha = np.where(samples[..., 0] == samples[3, 4, 0], 0, top).astype(samples.dtype)
        content = png(depth, 0, samples[..., 0], (b"tRNS", key[:1].tobytes()))
        yield f"key_grey{depth}.png", content, np.dstack([samples[..., 0], alpha])
        image = pyvips.Image.new_from_array(samples[..., :3].copy())
        image = image.copy(interpretation="rgb16" if depth == 16 else "srgb")
        yield f"interlaced{depth}.png", image.pngsave_buffer(interlace=True), samples[..., :3]
    turned = by_pillow("PNG", NARROW[..., :3], exif=_turned(8))
    yield "turned.png", turned, NARROW[..., :3], 0, "", 8
    yield (
        "frames.png",
        by_pillow("PNG", NARROW[..., :3], save_all=True, append_images=[Image.fromarray(NARROW[..., 1:4])]),
        NARROW[..., :3],
        0,
        "the first of its 2 pictures only",
    )


def jpegs() -> Iterator[tuple]:
    for name, options in (
        ("444", {"subsampling": 0}),
        ("422", {"subsampling": 1}),
        ("420", {"subsampling": 2}),
        ("progressive", {"progressive": True}),
        ("restart", {"restart_marker_rows": 1}),
        ("rgb", {"keep_rgb": True}),
        ("quality100", {"quality": 100, "subsampling": 0}),
    ):
        content = by_pillow("JPEG", SMOOTH if name != "quality100" else NARROW[..., :3], **options)
        yield f"{name}.jpg", content, _by_opencv(content, cv2.IMREAD_COLOR)[..., ::-1]
    content = by_pillow("JPEG", SMOOTH[..., 0])
    yield "grey.jpg", content, _by_opencv(content, cv2.IMREAD_GRAYSCALE)
    yield "turned.jpg", by_pillow("JPEG", SMOOTH, quality=100, exif=_turned(6)), SMOOTH, 4, "", 6
    ink = Image.fromarray(SMOOTH).convert("CMYK")  # without black
    yield "cmyk.jpg", by_pillow("JPEG", ink, quality=100), SMOOTH, 4, "CMYK is written as RGB"
    note = "CMYK is converted to sRGB through its profile"
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    profiles = io.BytesIO(cmyk_profile()), ImageCms.createProfile("sRGB")
    rgb = ImageCms.profileToProfile(ink, *profiles, intent, "RGB", flags=flags)
    yield "profile.jpg", by_pillow("JPEG", ink, quality=100, icc_profile=cmyk_profile()), np.asarray(rgb), 4, note
    ink16 = np.asarray(ink).astype(np.uint16) * 257
    content = tiff(ink16, "separated", iccprofile=cmyk_profile())
    yield "profile16.tif", content, np.asarray(rgb).astype(np.uint16) * 257, 400, note
    pages = {"save_all": True, "append_images": [Image.fromarray(SMOOTH)]}
    note = "the first of its 2 pictures only"
    yield "mpo.jpg", by_pillow("MPO", SMOOTH, quality=100, **pages), SMOOTH, 4, note


def tiffs() -> Iterator[tuple]:
    for order, end in (("<", "le"), (">", "be")):
        for bits, samples in ((8, NARROW), (16, WIDE)):
            top, rgb = np.iinfo(samples.dtype).max, samples[..., :3]
            for name, values, options, expected in (
                ("grey", samples[..., 0], {"photometric": "minisblack"}, None),
                ("white", samples[..., 0], {"photometric": "miniswhite"}, top - samples[..., 0]),
                ("grey_alpha", samples[..., :2], {"photometric": "minisblack", "planarconfig": "contig"}, None),
                ("rgb", rgb, {}, None),
                ("planar", rgb, {"planarconfig": "separate"}, None),
                ("rgba", samples[..., :4], {"extrasamples": ["unassalpha"]}, None),
                ("rgba_planar", samples[..., :4], {"extrasamples": [2], "planarconfig": "separate"}, None),
                ("tiled", rgb, {"tile": (16, 16)}, None),
                ("predictor", rgb, {"compression": "zlib", "predictor": True}, None),
                ("cmyk", np.dstack([top - rgb, 0 * rgb[..., 0]]), {"photometric": "separated"}, rgb),
            ):
                if name == "grey_alpha":
                    options["extrasamples"] = ["unassalpha"]
                notes = "CMYK is written as RGB" if name == "cmyk" else ""
                expected = values if expected is None else expected
                yield f"{name}{bits}_{end}.tif", tiff(values, byteorder=order, **options), expected, 0, notes
        for kind in (np.float16, np.float32):
            floats, name = FLOATS.astype(kind), np.dtype(kind).name
            expected = np.rint(floats.astype(np.float64) * 65535).astype(np.uint16)
            note = "floating-point values are written as 16 bits"
            grey = tiff(floats[..., 0], "minisblack", order)
            yield f"{name}_grey_{end}.tif", grey, expected[..., 0], 0, note
            yield f"{name}_{end}.tif", tiff(floats[..., :3], "rgb", order), expected[..., :3], 0, note
        planar = tiff(FLOATS[..., :3], "rgb", order, planarconfig="separate")
        yield f"float_planar_{end}.tif", planar, expected[..., :3], 0, note
        lab, rgb = _lab()
        note = "CIELAB is converted to sRGB"
        yield f"lab16_{end}.tif", tiff(lab, "cielab", order), rgb, 300, note
    eight = np.dstack([np.rint(lab[..., 0] / 257), np.rint(lab[..., 1:].view(np.int16) / 256)]).astype(np.int16)
    eight = np.dstack([eight[..., 0].astype(np.uint8), eight[..., 1:].astype(np.int8).view(np.uint8)])
    yield "lab8.tif", tiff(eight, "cielab"), np.rint(rgb / 257).astype(np.uint8), 12, note
    for compression in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma"):
        yield f"{compression}.tif", by_pillow("TIFF", NARROW[..., :3], compression=compression), NARROW[..., :3]
    yield "jpeg.tif", by_pillow("TIFF", SMOOTH, compression="jpeg", quality=100), SMOOTH, 4
    black = NARROW[..., 0] > 127
    for compression in (None, "group3", "group4"):
        content = by_pillow("TIFF", Image.fromarray(black), compression=compression)
        yield f"bits_{compression}.tif", content, np.where(black, 255, 0).astype(np.uint8)
    palette = np.ascontiguousarray(COLOURS.T.astype(np.uint16) * 257)
    yield "palette.tif", tiff(INDEX, "palette", colormap=palette), COLOURS[INDEX]
    yield "bigtiff.tif", tiff(WIDE[..., :3], bigtiff=True), WIDE[..., :3]
    note = "its extra channels, which are no transparency, are left out"
    yield "extra.tif", tiff(WIDE, extrasamples=[2, 0]), WIDE[..., :4], 0, note
    yield "unspecified.tif", tiff(NARROW[..., :4], extrasamples=[0]), NARROW[..., :3], 0, note
    for name, samples in (("8", NARROW), ("16", WIDE)):
        alpha = np.maximum(samples[..., 3], samples[..., :3].max(2))  # no colour is more than its alpha
        top = np.iinfo(samples.dtype).max
        straight = np.rint(samples[..., :3] * float(top) / np.maximum(alpha, 1)[..., None]).astype(samples.dtype)
        content = tiff(np.dstack([samples[..., :3], alpha]), extrasamples=["assocalpha"])
        yield f"premultiplied{name}.tif", content, np.dstack([straight, alpha]), 1
    yield "turned.tif", tiff(WIDE[..., :3], extratags=[(274, "H", 1, 7, True)]), WIDE[..., :3], 0, "", 7
    pages = tiff(np.stack([WIDE[..., :3], WIDE[..., 1:4]]))
    yield "pages.tif", pages, WIDE[..., :3], 0, "the first of its 2 pictures only"


def others() -> Iterator[tuple]:
    rgb, rgba = NARROW[..., :3], NARROW[..., :4]
    yield "rgb.webp", by_pillow("WEBP", rgb, lossless=True), rgb
    yield "rgba.webp", by_pillow("WEBP", rgba, lossless=True, exact=True), rgba
    yield "lossy.webp", by_pillow("WEBP", SMOOTH, quality=95), SMOOTH, 12
    yield "rgb.bmp", by_pillow("BMP", rgb), rgb
    yield "grey.bmp", by_pillow("BMP", rgb[..., 0]), rgb[..., 0]
    yield "bits.bmp", by_pillow("BMP", Image.fromarray(rgb[..., 0] > 9)), np.where(rgb[..., 0] > 9, 255, 0).astype("u1")
    paletted = Image.fromarray(INDEX)
    paletted.putpalette(COLOURS.tobytes())
    yield "palette.bmp", by_pillow("BMP", paletted), COLOURS[INDEX]
    lossless = {"quality": 100, "subsampling": "4:4:4"}
    yield "rgb.avif", by_pillow("AVIF", SMOOTH, **lossless), SMOOTH, 3
    yield (
        "rgba.avif",
        by_pillow("AVIF", np.dstack([SMOOTH, SMOOTH[..., 0]]), **lossless),
        np.dstack([SMOOTH, SMOOTH[..., 0]]),
        3,
    )
    yield "turned.avif", by_pillow("AVIF", SMOOTH, exif=_turned(6), **lossless), SMOOTH, 3, "", 6
    deep = pyvips.Image.new_from_array(SMOOTH.astype(np.uint16) * 257).copy(interpretation="rgb16")
    content = deep.heifsave_buffer(compression="av1", bitdepth=10, lossless=True)
    yield "ten.avif", content, SMOOTH, 3, "its 10 bits are read as 8"
    yield "rgb.heic", heic(SMOOTH), SMOOTH, 3
    yield "rgba.heic", heic(np.dstack([SMOOTH, SMOOTH[..., 0]]), "RGBA"), np.dstack([SMOOTH, SMOOTH[..., 0]]), 3
    ten = heic((SMOOTH.astype("<u2") * 257), "RGB;16")
    yield "ten.heic", ten, SMOOTH, 3, "its 10 bits are read as 8"


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _by_opencv(content: bytes, flag: int) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)


def _lab() -> tuple[np.ndarray, np.ndarray]:
    """CIELAB of 16 bits as TIFF stores it, relative to D50, and its sRGB by the formulas."""
    light = np.linspace(0.02, 0.98, HEIGHT * WIDTH * 3).reshape(3, HEIGHT, WIDTH).transpose(1, 2, 0)[:, ::-1]
    linear = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.43607, 0.38515, 0.14308], [0.22249, 0.71687, 0.06062], [0.01392, 0.09708, 0.71410]])
    ratio = linear @ to_xyz.T / (0.96420, 1.0, 0.82491)
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    lab = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
    stored = np.rint(lab * (65535 / 100, 256, 256)).astype(np.int64) & 0xFFFF
    return stored.astype(np.uint16), np.rint(light * 65535).astype(np.uint16)
