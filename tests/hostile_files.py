"""A folder of inputs that nobody would hand a program on purpose, and some good ones beside them."""

import hashlib
import io
import json
import os
import pickle
import socket
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

LONGEST = "n" * 251 + ".png"
NAMES = (
    "new\nline.png",
    "$HOME.png",
    "`id`.png",
    "esc\x1b[31m.png",
    os.fsdecode(b"\xff\xfe.png"),
    LONGEST,
    "-dash.png",
    " blank .png",
    "tab\t.png",
    "*.png",
    "[a].png",
    "%s{0}.png",
    "\u202egnp.png",
    "quote'\".png",
    "back\\slash.png",
)
LOG = "epoch,step,loss,content,fft,lr,scale,grad_norm,skipped,seconds_per_step,data_wait,callbacks,psnr,psnr_input\n"
LOG_ROW = "0,10,0.5,0.4,1.0,1e-4,,0.3,0,0.2,0.01,0.01,,\n"


def noise(height: int = 20, width: int = 24, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def put(path: Path, content: bytes | str | Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Image.Image):
        content.save(path)
    else:
        path.write_bytes(os.fsencode(content) if isinstance(content, str) else content)
    return path


def make_inputs(root: Path) -> Path:
    """Everything below `root`, which must not exist; some files are pipes, sockets and links to devices."""
    for make in (
        make_photos,
        make_damaged_photos,
        make_special,
        make_data_sets,
        make_lists,
        make_settings,
        make_networks,
    ):
        make(root)
    make_logs(root / "runs")
    return root


def snapshot(root: Path, contents: bool = False) -> dict[bytes, tuple]:
    """Names, kinds, modes, sizes and times of everything below `root`; links and special files are not opened.

    Args:
        contents: also checksums.
    """
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            facts: list = [status.st_mode, status.st_ino]
            if stat.S_ISREG(status.st_mode):
                facts += [status.st_size, status.st_mtime_ns]
                if contents:
                    facts.append(hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest())
            elif stat.S_ISLNK(status.st_mode):
                facts.append(os.readlink(path))
            found[path] = tuple(facts)
    return found


# ---- images


def make_photos(root: Path) -> None:
    for i, suffix in enumerate((".png", ".jpg", ".tif", ".webp", ".bmp")):
        put(root / f"photos/{suffix[1:]}{suffix}", noise(seed=i))
    put(root / "photos/deep/er/grey.png", noise().convert("L"))
    for name in NAMES:
        put(root / "names" / name, noise())
    put(root / "hidden/.hidden.png", noise())
    put(root / "no_suffix/photo", (root / "photos/png.png").read_bytes())


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = (
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in (*chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_head(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def bytes_of(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def make_damaged_photos(root: Path) -> None:
    """Each file of `damaged` is none that can be restored."""
    image, rows = noise(64, 64), zlib.compress(bytes(64 * 193))
    files = {
        "empty.png": b"",
        "one_byte.png": b"\x89",
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "text.png": b"not an image\n",
        "zeros.png": bytes(4096),
        "html.jpg": b"<!DOCTYPE html><html>404</html>",
        "zip.png": b"PK\x05\x06" + bytes(18),
        "gif.png": bytes_of(image, "GIF"),
        "icon.png": bytes_of(image, "ICO"),
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "pdf.tif": b"%PDF-1.4\n%%EOF",
        "ps.bmp": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(w) (/tmp/x) file\n",
        "bomb.png": png(png_head(60000, 60000), (b"IDAT", rows)),
        "huge.png": png(png_head(2**31 - 1, 2**31 - 1), (b"IDAT", rows)),
        "no_width.png": png(png_head(0, 64), (b"IDAT", rows)),
        "no_data.png": png(png_head(64, 64)),
        "text_bomb.png": png(png_head(64, 64), (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26))), (b"IDAT", rows)),
        "not_zlib.png": png(png_head(64, 64), (b"IDAT", b"no deflate")),
        "tall.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        "int.tif": bytes_of(Image.fromarray(np.zeros((8, 8), np.int32)), "TIFF"),
        "endless.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "far.tif": b"II*\0\xff\xff\xff\x7f",
        "big.tif": b"II+\0\x08\0\0\0" + b"\xff" * 8,
    }
    crc = bytearray(bytes_of(image, "PNG"))
    crc[len(crc) // 2] ^= 255
    files["flipped_bit.png"] = bytes(crc)
    for kind, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif"), ("WEBP", "webp"), ("BMP", "bmp")):
        content = bytes_of(image, kind)
        for part in (10, 50, 95):
            files[f"cut_{part}.{suffix}"] = content[: len(content) * part // 100]
    for name, content in files.items():
        put(root / "damaged" / name, content)
    put(root / "hostile/new\nline\x1b[31m.png", "not an image")


def make_special(root: Path) -> None:
    folder = root / "special"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    here = os.open(folder, os.O_RDONLY)  # the name of a socket has 107 bytes at most
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(f"/proc/self/fd/{here}/socket.png")
    os.close(here)
    for name, target in (
        ("zero.png", "/dev/zero"),
        ("loop.png", "loop2.png"),
        ("loop2.png", "loop.png"),
        ("dangling.png", "gone.png"),
        ("null.yaml", "/dev/null"),
        ("zero.ckpt", "/dev/zero"),
        ("self", "."),
    ):
        (folder / name).symlink_to(target)
    (folder / "folder.png").mkdir()
    (folder / "folder.onnx").mkdir()
    (root / "empty").mkdir()
    for kind in ("pipe", "loop", "zero"):
        (root / f"only_{kind}").mkdir()
        if kind == "pipe":
            os.mkfifo(root / "only_pipe/a.png")
        else:
            (root / f"only_{kind}/a.png").symlink_to(f"../special/{kind}.png")
    (root / "circle").mkdir()
    (root / "circle/again").symlink_to("..")
    (root / "ring").mkdir()
    (root / "ring/again").symlink_to("../ring")
    put(root / "ring/a.png", noise())
    put(root / "file", "a file\n")


# ---- data sets and their lists


def data_set(root: Path, names: tuple[str, ...] = ("1", "2"), splits: tuple[str, ...] = ("train", "test")) -> Path:
    for split in splits:
        for kind in ("blur", "sharp"):
            for i, name in enumerate(names):
                put(root / split / kind / f"{name}.png", noise(64, 64, seed=len(split + kind) + 100 * i))
    return root


def make_data_sets(root: Path) -> None:
    data_set(root / "dataset")
    for i in range(2):
        put(root / f"sharp/{i}.png", noise(120, 120, seed=i))
    put(data_set(root / "other_size") / "test/blur/1.png", noise(60, 64))
    put(data_set(root / "two_names") / "test/blur/1.jpg", noise(64, 64))
    for name in ("lonely", "cut", "bomb", "piped", "looped", "zeroed"):
        folder = data_set(root / name)
        for path in (folder / split / "sharp/2.png" for split in ("train", "test")):
            path.unlink()
            if name == "piped":
                os.mkfifo(path)
            elif name in ("looped", "zeroed"):
                path.symlink_to({"looped": "2.png", "zeroed": "/dev/zero"}[name])
            elif name in ("cut", "bomb"):
                put(path, (root / f"damaged/{'cut_50' if name == 'cut' else name}.png").read_bytes())
    for split in ("train", "test"):
        for kind in ("blur", "sharp"):
            (root / "no_image" / split / kind).mkdir(parents=True)
            put(root / "kind_is_file" / split / kind, "a file")
    put(root / "split_is_file/train", "a file")
    put(data_set(root / "interrupted") / "manifest.csv.partial", "split,number\n")
    make_packed_sets(root)
    for kind in ("blur", "blur_gamma", "sharp"):
        for split, sequence in (("train", "GOPR0374_11_00"), ("test", "GOPR0384_11_00")):
            for i in range(2):
                image = noise(64, 64, seed=i + len(split + kind))
                put(root / f"gopro/{split}/{sequence}/{kind}/00000{i}.png", image)
        put(root / f"gopro_names/train/GOPR0374\n_$HOME/{kind}/a\n1.png", noise(64, 64))
        put(root / f"gopro_names/train/-x/{kind}" / os.fsdecode(b"\xff.png"), noise(64, 64))
        if kind != "sharp":
            put(root / f"gopro_half/train/GOPR0374_11_00/{kind}/000001.png", noise(64, 64))
        put(root / f"gopro_cut/train/GOPR0374_11_00/{kind}/000001.png", (root / "damaged/cut_50.png").read_bytes())
        put(root / f"gopro_empty/train/GOPR0374_11_00/{kind}/note.txt", "no image")
    put(data_set(root / "bad_manifest") / "manifest.csv", b"\xff\0,,\n\n\n")
    put(data_set(root / "other_manifest") / "manifest.csv", "a,b\n1,2\n")


def make_packed_sets(root: Path) -> None:
    from src.data.packing import pack

    pack(root / "dataset", root / "packed", progress=False)
    index, pixels = ((root / "packed" / name).read_bytes() for name in ("index.jsonl", "test.npy"))
    lines = index.splitlines(keepends=True)

    def forged(old: bytes, new: bytes) -> bytes:
        """The index with another value in it, and the checksum of that."""
        body = b"".join(lines[:-1]).replace(old, new)
        return body + b'{"entries":4,"crc32":%d}\n' % zlib.crc32(body)

    for name, changed in {
        "empty": b"",
        "binary": bytes(range(256)),
        "json": b"{}\n",
        "number": b"9" * 100_000,
        "deep": b"[" * 100_000,
        "cut": index[: len(index) // 2],
        "far": forged(b'"offset":0', b'"offset":1000000000000000'),
        "large": forged(b'"height":64', b'"height":6400000000'),
        "negative": forged(b'"height":64', b'"height":-64'),
        "text": forged(b'"width":64', b'"width":"64"'),
        "null": forged(b'"width":64', b'"width":null'),
        "list": forged(b'"name":"1"', b'"name":["1"]'),
        "up": forged(b'"split":"test"', b'"split":"../../x"'),
        "patch": forged(b'"patch_size":0', b'"patch_size":-3'),
        "source": forged(b'"../dataset"', b"[1]"),
    }.items():
        assert changed != index
        put(root / f"packed_{name}/index.jsonl", changed)
        put(root / f"packed_{name}/test.npy", pixels)
        put(root / f"packed_{name}/train.npy", pixels)
    for name, array in {
        "cut_array": pixels[: len(pixels) // 2],
        "pickle": pickle.dumps(Code(), 2),
    }.items():
        put(root / f"packed_{name}/index.jsonl", index)
        put(root / f"packed_{name}/test.npy", array)
        put(root / f"packed_{name}/train.npy", array)


def make_lists(root: Path) -> None:
    line = "test/sharp/1.png test/blur/1.png\n"
    second = "test/sharp/2.png test/blur/2.png\n"
    texts: dict[str, str | bytes] = {
        "crlf": line.replace("\n", "\r\n"),
        "bom": b"\xef\xbb\xbf" + line.encode(),
        "comments": f"# pairs\n\n{line}\n#\n",
        "absolute": f"{root}/dataset/test/sharp/1.png\t{root}/dataset/test/blur/1.png",
        "quoted": f'"{root}/dataset/test/sharp/1.png" "{root}/dataset/test/blur/1.png"\n',
        "empty": "",
        "one_column": "test/sharp/1.png\n",
        "absent": "test/sharp/9.png test/blur/9.png\n",
        "twice": line + second + line,
        "own": "a.png a.png\n",
        "swapped": "test/blur/1.png test/sharp/1.png\n",
        "nul": b"test/sharp/1.png test/blur/1.png\0\n",
        "binary": bytes(range(256)) * 8,
        "folders": "test/sharp test/blur\n",
        "devices": "/dev/zero /dev/null\n",
        "not_utf8": b"test/sharp/\xff.png test/blur/\xff.png\n",
        "up": "../" * 40 + "etc/passwd " + "../" * 40 + "etc/group\n",
        "damaged": f"{root}/damaged/cut_50.png {root}/damaged/text.png\n",
        "escape": "\x1b[31ma.png b.png\n",
        "sizes": f"{root}/dataset/test/sharp/1.png {root}/photos/png.png\n",
        "old_mac": line.replace("\n", "\r") * 2,
    }
    for name, text in texts.items():
        put(root / f"lists/{name}.txt", text)


# ---- settings


def make_settings(root: Path) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    texts: dict[str, str | bytes] = {
        "list": "- seed\n- 1\n",
        "unknown": "device_target: CPU\ncrop_sise: 32\n",
        "octal": "epochs_num: 0777\n",
        "sexagesimal": "epochs_num: 1:30\n",
        "laughs": laughs,
        "deep_blocks": "".join(" " * i + "a:\n" for i in range(1500)),
        "python": "seed: !!python/object/apply:os.system ['touch ran']\n",
        "recursive": "seed: &a [*a]\n",
        "type_list": "seed: [1]\n",
        "type_text": "crop_size: large\n",
        "type_null": "crop_size:\n",
        "nan": "learning_rate: .nan\n",
        "huge": f"seed: {'9' * 400}\n",
        "digits": f"seed: {'9' * 5000}\n",
        "tabs": "seed:\t1\n\tcrop_size: 2\n",
        "binary": bytes(range(256)),
        "nul": b"seed: 1\0\n",
        "nul_path": 'dataset_root: "a\\0b"\n',
        "newline_path": 'dataset_root: "a\\nb"\n',
        "null_key": "~: 3\n",
        "bad_choice": "model_name: MIMO-UNet+\n",
        "bool_text": "overwrite: maybe\n",
        "escape": 'model_name: "\\e[31m"\n',
    }
    for name, text in texts.items():
        put(root / f"settings/{name}.yaml", text)


# ---- networks


class Code:
    """Runs a command when it is unpickled by something careless."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def make_networks(root: Path) -> None:
    """`identity.onnx` passes for an exported network: it returns its input. The others are refused."""
    folder = root / "networks"
    good = put(folder / "identity.onnx", identity_onnx())
    content = good.read_bytes()
    put(folder / "cut_50.onnx", content[: len(content) // 2])
    described = {"variant": "MIMO-UNet", "multiple": "4"}
    for name, metadata in {
        "foreign": {},
        "unknown_variant": {"variant": "x\ny"},
        "multiple_0": described | {"multiple": "0"},
        "multiple_huge": described | {"multiple": "9" * 5000},
    }.items():
        put(folder / f"{name}.onnx", identity_onnx(metadata))
    put(folder / "external.onnx", identity_onnx(external="/etc/passwd"))
    put(folder / "grey.onnx", identity_onnx(channels=1))
    put(folder / "not_a_number.onnx", identity_onnx(factor=float("nan")))
    for suffix in ("onnx", "ckpt", "mindir", "safetensors", "pkl", "pth"):
        put(folder / f"empty.{suffix}", b"")
        put(folder / f"text.{suffix}", "<html>404 not found</html>\n")
        put(folder / f"noise.{suffix}", np.random.default_rng(0).bytes(5000))
    with zipfile.ZipFile(folder / "zip.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**24))
    put(folder / "zip.pth", (folder / "zip.ckpt").read_bytes())
    with zipfile.ZipFile(folder / "zip_code.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Code(), protocol=2))
        archive.writestr("archive/version", "3\n")
    for protocol in (0, 2, 4):
        put(folder / f"code_{protocol}.pkl", pickle.dumps({"model": Code()}, protocol))
    put(folder / "list.pkl", pickle.dumps([1, 2, 3], 2))
    for name, header in {
        "header_huge": struct.pack("<Q", 2**62),
        "header_text": struct.pack("<Q", 4) + b"text",
        "header_deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "beyond": tensor_header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        "negative": tensor_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
        "foreign": tensor_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
    }.items():
        put(folder / f"{name}.safetensors", header)
    put(folder / "weights.txt", "no weights")


def tensor_header(content: dict) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


def identity_onnx(
    metadata: dict[str, str] | None = None, channels: int = 3, factor: float = 1.0, external: str = ""
) -> bytes:
    """An ONNX file of one multiplication."""
    from onnx import TensorProto, helper

    if metadata is None:
        metadata = {"variant": "MIMO-UNet", "num_res": "1", "multiple": "4", "precision": "fp32"}
    shape = ["n", channels, "h", "w"]
    images, restored = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("images", "restored"))
    weight = helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])
    if external:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=external)
    node = helper.make_node("Mul", ["images", "factor"], ["restored"])
    graph = helper.make_graph([node], "identity", [images], [restored], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    return model.SerializeToString()


def make_checkpoints(folder: str) -> None:
    """Files of a network with one residual block a stage, with what may be wrong about them. Needs MindSpore."""
    from src import device
    from src.checkpoint import parameter_arrays, save_checkpoint
    from src.formats.torch_files import write_torch
    from src.mimo_unet import build_net

    device.setup("CPU")
    target = Path(folder)
    target.mkdir()
    arrays = parameter_arrays(build_net("MIMO-UNet", 1))
    first = next(iter(arrays))
    described = {"variant": "MIMO-UNet", "num_res": 1}
    save_checkpoint(target / "good.ckpt", arrays, described)
    save_checkpoint(target / "good.safetensors", arrays, described)
    write_torch(target / "good.pkl", arrays)
    content = (target / "good.ckpt").read_bytes()
    for part in (1, 50, 99):
        (target / f"cut_{part}.ckpt").write_bytes(content[: len(content) * part // 100])
    for suffix in ("safetensors", "pkl"):
        other = (target / f"good.{suffix}").read_bytes()
        (target / f"cut.{suffix}").write_bytes(other[: len(other) // 2])
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 255
    (target / "flipped.ckpt").write_bytes(flipped)
    bad = arrays[first].copy()
    bad.flat[0] = np.nan
    save_checkpoint(target / "nan.ckpt", arrays | {first: bad}, described)
    save_checkpoint(target / "nan.safetensors", arrays | {first: bad}, described)
    save_checkpoint(target / "other_shape.ckpt", arrays | {first: arrays[first][:1]}, described)
    save_checkpoint(target / "missing.ckpt", {k: v for k, v in arrays.items() if k != first}, described)
    for name, step in (("text", "many"), ("negative", -5), ("list", [1]), ("huge", 10**30), ("null", None)):
        state = described | {"step": step, "epoch": step, "steps_per_epoch": step, "launch": step, "best_psnr": step}
        save_checkpoint(target / f"step_{name}.ckpt", arrays, state)


# ---- logs


def make_logs(root: Path) -> None:
    rows = LOG + LOG_ROW
    texts: dict[str, str | bytes] = {
        "good": rows,
        "empty": "",
        "header": LOG,
        "binary": bytes(range(256)),
        "no_header": LOG_ROW,
        "other_columns": "a,b,c\n1,2,3\n",
        "short_row": rows + "0,2",
        "text": rows.replace("0.5", "half"),
        "semicolons": rows.replace(",", ";"),
        "nul": rows.encode() + b"\0\0\0\n",
        "latin1": rows.encode() + b"caf\xe9\n",
        "step_nan": rows.replace(",10,", ",nan,"),
        "psnr_inf": rows.replace("0.01,0.01,,", "0.01,0.01,inf,20"),
        "huge_number": rows.replace("0.5", "9" * 400),
        "huge_field": rows + "x" * 200_000 + "\n",
        "utf16": rows.encode("utf-16"),
        "quote": rows + '"never closed\n' * 3,
    }
    for name, text in texts.items():
        put(root / name / "log.csv", text)
    (root / "folder/log.csv").mkdir(parents=True)
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe/log.csv")
    (root / "loop").mkdir()
    (root / "loop/log.csv").symlink_to("log.csv")
