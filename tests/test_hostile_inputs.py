"""Hostile inputs at every script a user runs.

Each is refused in one line that names the option or the file, with status 2, or does what it says; none ends in a
traceback or a hang, and none changes an input. `IN` stands for the folder of `hostile_files`; the working directory is
empty and so relative paths are outputs.
"""

import os
import re
import shlex
from dataclasses import dataclass

import hostile_files
import pytest
from script_fork import ForkServer

DIGITS = "9" * 5000


@dataclass(frozen=True)
class Row:
    """One input and what has to come of it."""

    id: str
    script: str
    args: list[str]
    says: str
    """Part of the error, or of all output if `status` is not 2."""
    status: int = 2
    makes: tuple[str, ...] = ()
    """Files that have to be there afterwards; no others may, below the working directory."""
    file_size: int = 0
    """Bytes that a file may have, as on a full disk."""


def rows(script, common, *table, status=2):
    """Rows of (id, further arguments, expected text[, files that are made]), the arguments as in a shell."""
    name = script.removesuffix(".py").replace("/", ".").rpartition(".")[2]
    return [
        Row(f"{name} {row[0]}", script, shlex.split(f"{common} {row[1]}"), row[2], status, tuple(row[3:]))
        for row in table
    ]


def short(value):
    return value if 0 < len(value) < 16 else f"of {len(value)} characters"


# ---- deblur.py and app.py

NETWORK = "--model IN/networks/identity.onnx"
DEBLUR_OPTIONS = (
    ("quality 0", "--quality 0", "--quality"),
    ("quality nan", "--quality nan", "--quality"),
    ("quality fraction", "--quality 9.5", "--quality"),
    ("quality huge", f"--quality {DIGITS}", "--quality"),
    ("tile small", "--tile 1", "--tile"),
    ("tile text", "--tile automatic", "--tile"),
    ("tile digits", f"--tile {DIGITS}", "--tile"),
    ("overlap negative", "--tile_overlap=-1", "--tile_overlap"),
    ("overlap half the tile", "--tile 64 --tile_overlap 32", "--tile_overlap"),
    ("overlap huge", "--tile_overlap 99999999", "--tile_overlap"),
    ("threads negative", "--threads=-1", "--threads"),
    ("max_pixels infinite", "--max_pixels inf", "--max_pixels"),
    ("ensemble near miss", "--self_ensemble rot", "--self_ensemble"),
    ("model_name near miss", "--model_name mimo-unet", "--model_name"),
    ("model_name other", "--model_name MIMO-UNetPlus", "MIMO-UNetPlus"),
    ("unknown option", "--colour", "--colour"),
    ("near miss", "--qualty 90", "Did you mean --quality"),
    ("single dash", "-quality 90", "-quality"),
)
NETWORKS = (
    ("absent", "IN/networks/no.onnx", "no.onnx"),
    ("near miss", "IN/networks/identity.onx", "identity.onx"),
    ("empty text", "''", "--ckpt_file"),
    ("folder", "IN/networks", "networks"),
    ("folder by the name", "IN/special/folder.onnx", "folder.onnx"),
    ("photo", "IN/photos/png.png", "png.png"),
    ("pipe", "IN/special/pipe", "special/pipe"),
    ("device", "/dev/zero", "/dev/zero"),
    ("newline", "'IN/networks/a\nb.onnx'", "b.onnx"),
    ("not UTF-8", "IN/networks/\udcff.onnx", "udcff.onnx"),
    ("too long a name", f"IN/networks/{'n' * 300}.onnx", "nnn"),
    ("PyTorch", "IN/networks/code_2.pkl", "convert.py"),
    ("html", "IN/networks/text.onnx", "text.onnx"),
    ("cut at 50 %", "IN/networks/cut_50.onnx", "cut_50.onnx"),
    ("foreign", "IN/networks/foreign.onnx", "foreign.onnx"),
    ("grey", "IN/networks/grey.onnx", "grey.onnx"),
    ("weights elsewhere", "IN/networks/external.onnx", "external.onnx"),
    ("unknown variant", "IN/networks/unknown_variant.onnx", "unknown_variant.onnx"),
    ("multiple 0", "IN/networks/multiple_0.onnx", "multiple_0.onnx"),
    ("multiple huge", "IN/networks/multiple_huge.onnx", "multiple_huge.onnx"),
)
DEBLUR = [
    *rows(
        "deblur.py",
        f"IN/photos/png.png {NETWORK} --output out",
        *DEBLUR_OPTIONS,
        ("format unknown", "--format gif", "--format"),
    ),
    *rows(
        "deblur.py",
        "IN/photos/png.png --output out",
        *((f"model {name}", f"--model {path}", says) for name, path, says in NETWORKS),
    ),
    *rows(
        "deblur.py",
        NETWORK,
        ("nothing", "", "INPUT"),
        ("no output", "IN/photos", "--output"),
        ("output empty", "IN/photos --output ''", "--output"),
        ("output a file", "IN/photos --output IN/file", "--output"),
        ("output below a file", "IN/photos --output IN/file/out", "--output"),
        ("output a device", "IN/photos --output /dev/null", "--output"),
        ("output a pipe", "IN/photos --output IN/special/pipe", "--output"),
        ("output a loop", "IN/photos --output IN/special/loop.png", "--output"),
        ("output a dangling link", "IN/photos --output IN/special/dangling.png/out", "--output"),
        ("output too long", f"IN/photos --output {'n' * 300}", "--output"),
        ("output the input", "IN/photos --output IN/photos", "--output"),
        ("output the input by another path", "IN/photos --output IN/special/self/../photos", "--output"),
        ("output in a link to the input", "IN/photos --output IN/circle/again/photos", "--output"),
        ("output the photo", "IN/photos/png.png --output IN/photos/png.png", "--output"),
        ("input absent", "IN/none.png --output out", "none.png"),
        ("input near miss", "IN/photos/pngg.png --output out", "png.png"),
        ("input empty", "'' --output out", "INPUT"),
        ("input with a newline", "'a\nb.png' --output out", "b.png"),
        ("input not UTF-8", "a\udcffb.png --output out", "udcffb.png"),
        ("input with a leading dash", "-photo.png --output out", "INPUT"),
        ("input too long", f"{'n' * 300}.png --output out", "nnn"),
        ("folder without photos", "IN/empty --output out", "empty"),
        ("folder of a pipe", "IN/only_pipe --output out", "only_pipe"),
        ("folder of a device", "IN/only_zero --output out", "only_zero"),
        ("hidden photos", "IN/hidden --output out", "hidden"),
        ("pattern without a match", "'IN/photos/*.gif' --output out", "*.gif"),
    ),
    *rows(
        "deblur.py",
        f"--output out {NETWORK}",
        ("pipe", "IN/special/pipe.png", "pipe.png"),
        ("socket", "IN/special/socket.png", "socket.png"),
        ("device", "/dev/zero", "/dev/zero"),
        ("loop", "IN/special/loop.png", "loop.png"),
        ("folder of a loop", "IN/only_loop", "a.png"),
        ("damaged, with a newline in its name", "'IN/hostile/new\nline\x1b[31m.png'", "line\\x1b[31m.png"),
        ("unreadable by anyone", "/proc/self/mem", "/proc/self/mem"),
        ("too large", "--max_pixels 100 IN/photos/png.png", "--max_pixels"),
        ("a good one among bad ones", "IN/photos/png.png IN/damaged/text.png", "1 restored, 1 failed", "out/png.png"),
        status=1,
    ),
    *rows(
        "deblur.py",
        f"--output out {NETWORK}",
        ("all names", "IN/names", "15 restored", *(f"out/{name}" for name in hostile_files.NAMES)),
        ("a name with a dollar", "'IN/names/$HOME.png'", "1 restored", "out/$HOME.png"),
        ("a name with a star", "'IN/names/*.png'", "1 restored", "out/*.png"),
        ("a name with a newline", "'IN/names/new\nline.png'", "1 restored", "out/new\nline.png"),
        ("a name not UTF-8", "IN/names/\udcff\udcfe.png", "1 restored", "out/\udcff\udcfe.png"),
        (
            "the longest name, compared",
            f"--compare IN/names/{hostile_files.LONGEST}",
            "1 restored",
            f"out/{hostile_files.LONGEST}",
            f"out/{'n' * 243}_compare.png",
        ),
        ("circle of links", "IN/ring", "1 restored", "out/a.png"),
        ("no suffix", "IN/no_suffix/photo", "1 restored", "out/photo.png"),
        (
            "the same twice",
            "IN/photos/png.png IN/photos/png.png IN/photos/../photos/png.png",
            "1 restored",
            "out/png.png",
        ),
        (
            "output among inputs' folders",
            "IN/photos --overwrite",
            "6 restored",
            *(f"out/{suffix}.{suffix}" for suffix in ("png", "jpg", "tif", "webp", "bmp")),
            "out/deep/er/grey.png",
        ),
        status=0,
    ),
    *rows(
        "app.py",
        NETWORK,
        ("quality 0", "--quality 0", "--quality"),
        ("tile of 5000 digits", f"--tile {DIGITS}", "--tile"),
        ("near miss", "--qualty 90", "Did you mean --quality"),
        ("port 0", "--port 0", "--port"),
        ("port beyond", "--port 65536", "--port"),
        ("megabytes nan", "--max_megabytes nan", "--max_megabytes"),
        ("host empty", "--host ''", "--host"),
        ("an argument", "IN/photos", "IN/photos"),
    ),
    *rows(
        "app.py",
        "",
        *((f"model {name}", f"--model {path}", says) for name, path, says in NETWORKS if name in ("absent", "folder")),
    ),
]

# ---- eval.py

SCORED = "--ckpt_file IN/networks/identity.onnx"
LISTS = (
    ("absent list", "none", "none.txt"),
    ("empty", "empty", "empty.txt"),
    ("one column", "one_column", "one_column.txt"),
    ("absent files", "absent", "absent.txt"),
    ("a pair twice", "twice", "twice.txt"),
    ("own partner", "own", "own.txt"),
    ("swapped", "swapped", "swapped.txt"),
    ("NUL", "nul", "nul.txt"),
    ("binary", "binary", "binary.txt"),
    ("folders", "folders", "folders.txt"),
    ("devices", "devices", "devices.txt"),
    ("names not UTF-8", "not_utf8", "not_utf8.txt"),
    ("a path upwards", "up", "passwd"),
    ("damaged images", "damaged", "cut_50.png"),
    ("escape", "escape", "escape.txt"),
    ("two sizes", "sizes", "photos_png"),
    ("old line ends", "old_mac", "old_mac.txt"),
)
SETS = (
    ("no folder", "none", "none"),
    ("file", "file", "file"),
    ("empty", "empty", "empty"),
    ("no images", "no_image", "no_image"),
    ("kind is a file", "kind_is_file", "kind_is_file"),
    ("split is a file", "split_is_file", "split_is_file"),
    ("a partner lacks", "lonely", "lonely"),
    ("cut image", "cut", "2.png"),
    ("bomb", "bomb", "2.png"),
    ("pipe", "piped", "piped"),
    ("loop", "looped", "2.png"),
    ("device", "zeroed", "zeroed"),
    ("interrupted", "interrupted", "interrupted"),
    ("gopro", "gopro", "gopro"),
    *(
        (f"packed {name.replace('_', ' ')}", f"packed_{name}", f"packed_{name}")
        for name in "binary deep far cut large negative up source cut_array pickle".split()
    ),
)
EVAL = [
    *rows(
        "eval.py",
        SCORED,
        *((f"set {name}", f"--dataset_root IN/{folder}", says) for name, folder, says in SETS),
        ("set two sizes", "--dataset_root IN/other_size", "other_size"),
        ("set two of a name", "--dataset_root IN/two_names", "two images of one name"),
    ),
    *rows(
        "eval.py",
        f"{SCORED} --dataset_root IN/dataset",
        *((f"list {name}", f"--test_list IN/lists/{file}.txt", says) for name, file, says in LISTS),
        ("list is a folder", "--test_list IN/lists", "lists"),
        ("list is a pipe", "--test_list IN/special/pipe", "pipe"),
        ("list is a device", "--test_list /dev/zero", "/dev/zero"),
    ),
    *rows(
        "eval.py",
        "--dataset_root IN/dataset",
        *(
            (f"network {name}", f"--ckpt_file {path}", says)
            for name, path, says in NETWORKS
            if name in ("near miss", "cut at 50 %", "foreign", "unknown variant")
        ),
    ),
    *rows(
        "eval.py",
        f"--dataset_root IN/dataset {SCORED}",
        ("metric unknown", "--metrics psnr,mse", "--metrics"),
        ("metrics a comma", "--metrics ,", "--metrics"),
        ("border negative", "--crop_border=-1", "--crop_border"),
        ("border huge", f"--crop_border {'9' * 30}", "crop_border"),
        ("centre negative", "--center_crop=-8", "--center_crop"),
        ("batch 0", "--eval_batch_size 0", "--eval_batch_size"),
        ("slice negative", "--slice_dataset=-1", "--slice_dataset"),
        ("device unknown", "--device_target TPU", "--device_target"),
        ("device_id negative", "--device_id=-1", "--device_id"),
        ("report no JSON", "--report_file report.txt", "--report_file"),
        ("report a folder", "--report_file IN/empty", "--report_file"),
        ("report below a file", "--report_file IN/file/report.json", "--report_file"),
        ("images into a file", "--img_save_directory IN/file", "--img_save_directory"),
        ("images onto the data set", "--img_save_directory IN/dataset/test/blur", "--img_save_directory"),
        ("strips into a file", "--strip_save_directory IN/file", "--strip_save_directory"),
        ("strips onto the data set", "--strip_save_directory IN/dataset/test/sharp", "--strip_save_directory"),
        ("an option of train.py", "--seed 1", "--seed"),
        ("near miss", "--metric psnr", "--metrics"),
        ("an argument", "extra", "extra"),
        ("blur_directory alone", "--blur_directory IN/dataset/test/blur", "--sharp_directory"),
        (
            "directories swapped",
            "--blur_directory IN/dataset/test/sharp --sharp_directory IN/dataset/test/blur",
            "swapped",
        ),
        ("directories nested", "--blur_directory IN/dataset --sharp_directory IN/dataset/test", "contains the other"),
        ("directory a file", "--blur_directory IN/file --sharp_directory IN/dataset/test/sharp", "--blur_directory"),
        ("network of NaN", "--ckpt_file IN/networks/not_a_number.onnx", "not_a_number.onnx"),
        ("variant of another", "--model_name MIMO-UNetPlus", "MIMO-UNetPlus"),
    ),
    *rows(
        "eval.py",
        f"{SCORED} --dataset_root IN/dataset --report_file report.json",
        *(
            (f"list {name}", f"--test_list IN/lists/{file}.txt", "1 images", "report.json", "report.csv")
            for name, file in (
                ("with CRLF", "crlf"),
                ("with comments", "comments"),
                ("of absolute paths", "absolute"),
                ("with quotes", "quoted"),
            )
        ),
        ("packed", "--dataset_root IN/packed", "2 images", "report.json", "report.csv"),
        status=0,
    ),
]

# ---- train.py: all before MindSpore is imported

RUN = "--ckpt_save_directory run"
TRAINED = f"--device_target CPU --crop_size 32 --max_steps 1 --num_res 1 {RUN}"
SETTINGS = (
    ("unknown key", "unknown", "Did you mean crop_size"),
    ("octal", "octal", "epochs_num"),
    ("sexagesimal", "sexagesimal", "epochs_num"),
    ("a list", "list", "list.yaml"),
    ("billion laughs", "laughs", "laughs.yaml"),
    ("deep blocks", "deep_blocks", "deep_blocks.yaml"),
    ("Python", "python", "python.yaml"),
    ("recursive", "recursive", "recursive.yaml"),
    ("list for a number", "type_list", "seed"),
    ("text for a number", "type_text", "crop_size"),
    ("nothing for a number", "type_null", "crop_size"),
    ("nan", "nan", "learning_rate"),
    ("huge", "huge", "seed"),
    ("5000 digits", "digits", "digits.yaml"),
    ("tabs", "tabs", "tabs.yaml"),
    ("binary", "binary", "binary.yaml"),
    ("NUL", "nul", "nul.yaml"),
    ("NUL in a path", "nul_path", r"a\x00b"),
    ("newline in a path", "newline_path", r"a\nb"),
    ("nothing for a key", "null_key", "null_key.yaml"),
    ("unknown choice", "bad_choice", "model_name"),
    ("text for a bool", "bool_text", "overwrite"),
    ("escape", "escape", "model_name"),
    ("absent", "none", "none.yaml"),
)
NUMBERS = (
    ("crop_size", "16.5"),
    ("crop_size", "33"),
    ("crop_size", "9" * 30),
    ("num_res", "9" * 12),
    ("val_fraction", "nan"),
    ("num_worker", "0"),
    ("seed", DIGITS),
    ("epochs_num", "1e3"),
    ("max_steps", "-1"),
    ("train_batch_size", "9" * 30),
    ("learning_rate", "inf"),
    ("learning_rate", "1,5"),
    ("learning_rate", ""),
    ("ema_decay", "1"),
    ("loss_scale", "nan"),
    ("model_name", "MIMO-UNet+"),
    ("amp_level", "O1"),
    ("overwrite", "maybe"),
)
TRAIN = [
    *rows(
        "train.py",
        f"--dataset_root IN/dataset {TRAINED}",
        *(
            (f"settings {name}", f"--config_path IN/settings/{file}.yaml", says)
            for name, file, says in SETTINGS
            if name not in ("NUL in a path", "newline in a path")
        ),
        ("settings a folder", "--config_path IN/settings", "settings"),
        ("settings a pipe", "--config_path IN/special/pipe", "pipe"),
        ("settings a device", "--config_path /dev/zero", "/dev/zero"),
        ("settings a loop", "--config_path IN/special/loop.png", "loop.png"),
        ("settings without a name", "--config_path ''", "--config_path"),
        ("recipe absent", "--recipe improve", "--recipe"),
        ("recipe unknown key", "--recipe IN/settings/unknown.yaml", "unknown.yaml"),
        ("recipe upwards", "--recipe ../../../etc/passwd", "--recipe"),
    ),
    *rows(
        "train.py",
        TRAINED,
        *(
            (f"settings {name}", f"--config_path IN/settings/{file}.yaml", says)
            for name, file, says in SETTINGS
            if name in ("NUL in a path", "newline in a path")
        ),
        *((f"set {name}", f"--dataset_root IN/{folder}", says) for name, folder, says in SETS[:12]),
        ("photos absent", "--blur synthetic --val_acc_monitor_interval 0 --dataset_root IN/none", "--dataset_root"),
        ("photos damaged", "--blur synthetic --val_acc_monitor_interval 0 --dataset_root IN/damaged", "damaged"),
    ),
    *rows(
        "train.py",
        f"--dataset_root IN/dataset {TRAINED}",
        *((f"{name} {short(value)}", f"--{name}='{value}'", f"--{name}") for name, value in NUMBERS),
        *(
            (f"list {name}", f"--val_acc_monitor_interval 0 --train_list IN/lists/{file}.txt", says)
            for name, file, says in LISTS[-8:]
        ),
        ("near miss", "--lr 0.1", "--learning_rate"),
        ("unknown option", "--momentum 0.9", "--momentum"),
        ("an argument", "extra", "extra"),
        ("crop larger than the images", "--crop_size 128", "--crop_size"),
        ("val_list absent", "--val_list IN/lists/none.txt", "none.txt"),
        ("val_list of no pair", "--val_list IN/lists/escape.txt", "escape.txt"),
        ("both validations", "--test_list IN/lists/bom.txt --val_fraction 0.5", "--val_fraction"),
        ("sharp_photos absent", "--sharp_photos IN/none", "--sharp_photos"),
        ("synthetic_fraction 1", "--sharp_photos IN/sharp --synthetic_fraction 1", "--synthetic_fraction"),
        ("run a file", "--ckpt_save_directory IN/file", "--ckpt_save_directory"),
        ("run below a file", "--ckpt_save_directory IN/file/run", "--ckpt_save_directory"),
        ("run a device", "--ckpt_save_directory /dev/null", "--ckpt_save_directory"),
        ("run in the data set", "--ckpt_save_directory IN/dataset/train/blur", "--ckpt_save_directory"),
        ("resume and overwrite", "--resume auto --overwrite", "--resume"),
        ("resume absent", "--resume IN/networks/none.ckpt", "none.ckpt"),
        ("resume a folder", "--resume IN/networks", "networks"),
        ("resume a device", "--resume /dev/zero", "/dev/zero"),
        ("resume a pipe", "--resume IN/special/pipe", "pipe"),
    ),
]

# ---- export.py and convert.py: before MindSpore is imported

CONVERTED = "IN/networks/good.ckpt"
PLACES = [
    *rows(
        "export.py",
        "",
        ("nothing", "", "--ckpt_file"),
        ("size text", "--ckpt_file a.ckpt --export_size large", "--export_size"),
        ("size odd", "--ckpt_file a.ckpt --export_size 721x1280", "--export_size"),
        ("size huge", f"--ckpt_file a.ckpt --export_size {'9' * 30}x4", "--export_size"),
        ("size empty", "--ckpt_file a.ckpt --export_size ''", "--export_size"),
        ("batch huge", f"--ckpt_file a.ckpt --export_batch_size {'9' * 30}", "--export_batch_size"),
        ("format near miss", "--ckpt_file a.ckpt --export_file_format onnx", "--export_file_format"),
        ("name below a file", "--ckpt_file a.ckpt --export_file_name IN/file/a", "--export_file_name"),
        ("name too long", f"--ckpt_file a.ckpt --export_file_name {'n' * 300}/a", "--export_file_name"),
        ("AIR", "--ckpt_file a.ckpt --export_file_format AIR", "AIR"),
        ("near miss", "--ckpt a.ckpt", "--ckpt_file"),
        ("settings unknown key", "--ckpt_file a.ckpt --config_path IN/settings/unknown.yaml", "unknown.yaml"),
    ),
    *rows(
        "convert.py",
        "",
        ("nothing", "", "SOURCE"),
        ("no target", "IN/networks/noise.ckpt", "TARGET"),
        ("source absent", "none.ckpt a.pkl", "none.ckpt"),
        ("source empty", "IN/networks/empty.ckpt a.pkl", "empty.ckpt"),
        ("source a folder", "IN/networks a.pkl", "SOURCE"),
        ("source a link to a device", "IN/special/zero.ckpt a.pkl", "zero.ckpt"),
        ("source other suffix", "IN/networks/weights.txt a.pkl", "SOURCE"),
        ("target other suffix", "IN/networks/noise.ckpt a.onnx", "TARGET"),
        ("target the source", "IN/networks/noise.ckpt IN/networks/noise.ckpt --overwrite", "TARGET"),
        (
            "target the source by another path",
            "IN/networks/noise.ckpt IN/special/../networks/noise.ckpt --overwrite",
            "TARGET",
        ),
        ("target there", "IN/networks/noise.ckpt IN/networks/noise.pkl", "--overwrite"),
        ("weights unknown", "IN/networks/noise.ckpt a.pkl --weights emma", "--weights"),
        ("near miss", "IN/networks/noise.ckpt a.pkl --overwrit", "--overwrite"),
    ),
]

# ---- the data scripts

PREPARED = "--root_dst out"
DATA = [
    *rows(
        "src/preprocessing.py",
        PREPARED,
        *(
            (f"source {name}", f"--root_src {folder}", says)
            for name, folder, says in (
                ("absent", "IN/none", "--root_src"),
                ("a file", "IN/file", "--root_src"),
                ("empty", "IN/empty", "--root_src"),
                ("arranged", "IN/dataset", "arranged"),
                ("half", "IN/gopro_half", "sharp"),
                ("without images", "IN/gopro_empty", "no image"),
                ("a device", "/dev/zero", "--root_src"),
                ("a loop", "IN/special/loop.png", "--root_src"),
                ("with a newline", "'a\nb'", "--root_src"),
            )
        ),
        *(
            (f"pack {name}", f"--pack --root_src IN/{folder}", says)
            for name, folder, says in (
                ("absent", "none", "none"),
                ("empty", "empty", "empty"),
                ("cut", "cut", "2.png"),
                ("bomb", "bomb", "2.png"),
                ("pipe", "piped", "partner in sharp: 2"),
                ("loop", "looped", "2.png"),
                ("a partner lacks", "lonely", "lonely"),
                ("two sizes", "other_size", "other_size"),
                ("device", "zeroed", "partner in sharp: 2"),
                ("cut frames", "gopro_cut", "000001.png"),
            )
        ),
        ("patch 1", "--pack --patch_size 1 --root_src IN/dataset", "--patch_size"),
        ("patch alone", "--patch_size 64 --root_src IN/gopro", "--pack"),
        ("link and pack", "--link --pack --root_src IN/gopro", "--link"),
        ("report alone", "--report_file a.json --root_src IN/gopro", "--verify"),
        ("unknown option", "--root_scr IN/gopro", "--root_src"),
    ),
    *rows(
        "src/preprocessing.py",
        "",
        ("nothing", "", "--root_src"),
        ("target the source", "--root_src IN/gopro --root_dst IN/gopro", "--root_dst"),
        ("target in the source", "--root_src IN/gopro --root_dst IN/gopro/out", "--root_dst"),
        ("target in the source by a link", "--root_src IN/gopro --root_dst IN/circle/again/gopro/out", "--root_dst"),
        ("target a file", "--root_src IN/gopro --root_dst IN/file", "--root_dst"),
        ("target below a file", "--root_src IN/gopro --root_dst IN/file/out", "--root_dst"),
        ("target a device", "--root_src IN/gopro --root_dst /dev/null", "--root_dst"),
        ("target empty text", "--root_src IN/gopro --root_dst ''", "--root_dst"),
        ("target of another", "--root_src IN/gopro --root_dst IN/dataset", "--root_dst"),
        ("target of a bad manifest", "--root_src IN/gopro --root_dst IN/bad_manifest", "bad_manifest"),
        ("target of another manifest", "--root_src IN/gopro --root_dst IN/other_manifest", "other_manifest"),
        ("pack into the source", "--pack --root_src IN/dataset --root_dst IN/dataset", "--root_dst"),
        ("pack into a file", "--pack --root_src IN/dataset --root_dst IN/file", "--root_dst"),
        ("verify nothing there", "--verify", "--root_dst"),
        ("verify a file", "--verify --root_dst IN/file", "--root_dst"),
        ("verify the other layout", "--verify --root_src IN/dataset", "--root_src"),
        ("verify a report of no JSON", "--verify --root_dst IN/dataset --report_file a.txt", "--report_file"),
        (
            "verify a report below a file",
            "--verify --root_dst IN/dataset --report_file IN/file/a.json",
            "--report_file",
        ),
        ("verify and pack", "--verify --pack --root_dst IN/dataset", "--pack"),
        *(
            (f"verify packed {name}", f"--verify --root_dst IN/packed_{name}", f"packed_{name}")
            for name in "empty json number text null list patch".split()
        ),
    ),
    *rows(
        "src/preprocessing.py",
        "--verify",
        *(
            (f"verify {name}", f"--root_dst IN/{folder}", says)
            for name, folder, says in (
                ("cut", "cut", "2.png"),
                ("bomb", "bomb", "2.png"),
                ("pipe", "piped", "2.png"),
                ("loop", "looped", "2.png"),
                ("device", "zeroed", "2.png"),
                ("a partner lacks", "lonely", "2"),
                ("two sizes", "other_size", "1"),
                ("no images", "no_image", "error"),
                ("bad manifest", "bad_manifest", "manifest.csv"),
                ("other manifest", "other_manifest", "manifest.csv"),
                ("interrupted", "interrupted", "interrupted"),
            )
        ),
        status=1,
    ),
    *rows(
        "src/preprocessing.py",
        "",
        (
            "hostile names",
            "--root_src IN/gopro_names --root_dst out",
            "2 train pairs",
            "out/manifest.csv",
            *(f"out/train/{kind}/{i}.png" for kind in ("blur", "sharp") for i in (1, 2)),
        ),
        (
            "hostile names packed",
            "--pack --root_src IN/gopro_names --root_dst out",
            "train 0.00 GB",
            "out/train.npy",
            "out/index.jsonl",
            "out/manifest.csv",
        ),
        (
            "linked",
            "--link --root_src IN/gopro_names --root_dst out",
            "2 train pairs",
            "out/manifest.csv",
            *(f"out/train/{kind}/{i}.png" for kind in ("blur", "sharp") for i in (1, 2)),
        ),
        ("verify packed", "--verify --root_dst IN/packed", "nothing wrong"),
        status=0,
    ),
    *rows(
        "src.data.sample_data",
        "--root out --train 1 --test 1",
        *(
            (f"{name} {short(value)}", f"--{name}='{value}'", f"--{name}")
            for name, value in (
                ("seed", DIGITS),
                ("train", "many"),
                ("test", "-1"),
                ("height", "33"),
                ("width", ""),
                ("width", "9" * 12),
                ("frames", "2"),
            )
        ),
        ("unknown option", "--frame 3", "--frames"),
    ),
    *rows(
        "src.data.sample_data",
        "--train 1 --test 1 --height 32 --width 32 --frames 3",
        ("root a file", "--root IN/file", "--root"),
        ("root below a file", "--root IN/file/a", "--root"),
        ("root of another", "--root IN/dataset", "--root"),
        ("root a device", "--root /dev/null", "--root"),
        ("root empty text", "--root ''", "--root"),
        ("root a loop", "--root IN/special/loop.png", "loop.png"),
        ("root too long", f"--root {'n' * 300}", "--root"),
    ),
    *rows(
        "src.data.synthetic_blur",
        "--photos IN/sharp --root out --height 32 --width 32",
        *(
            (f"{name} {short(value)}", f"--count 1 --{name}='{value}'", f"--{name}")
            for name, value in (
                ("count", "0"),
                ("seed", "-1"),
                ("seed", DIGITS),
                ("height", "15"),
                ("width", ""),
                ("width", "9" * 12),
            )
        ),
    ),
    *rows(
        "src.data.synthetic_blur",
        "--count 1 --height 32 --width 32",
        ("nothing", "", "--photos"),
        ("no root", "--photos IN/sharp", "--root"),
        ("photos absent", "--root out --photos IN/none", "--photos"),
        ("photos a file", "--root out --photos IN/file", "--photos"),
        ("photos none", "--root out --photos IN/empty", "--photos"),
        ("photos empty text", "--root out --photos ''", "--photos"),
        ("photos damaged", "--root out --photos IN/damaged", "damaged"),
        ("photos a pipe", "--root out --photos IN/only_pipe", "no image in it"),
        ("photos a loop", "--root out --photos IN/only_loop", "a.png"),
        ("photos a device", "--root out --photos IN/only_zero", "no image in it"),
        ("photos small", "--root out --photos IN/photos", "--height"),
        ("root there", "--root IN/dataset --photos IN/sharp", "--root"),
        ("root a file", "--root IN/file --photos IN/sharp", "--root"),
        ("root a device", "--root /dev/full --photos IN/sharp", "--root"),
        ("root among the photos", "--root IN/sharp --photos IN/sharp", "--root"),
        ("root empty text", "--root '' --photos IN/sharp", "--root"),
    ),
]

# ---- scripts

SCRIPTS = [
    *rows(
        "scripts/compare_runs.py",
        "--output out.png",
        *(
            (f"log {name.replace('_', ' ')}", f"IN/runs/{name}", name)
            for name in "empty header binary no_header other_columns text step_nan utf16 folder pipe loop".split()
        ),
        ("run absent", "IN/none", "none"),
        ("run a file", "IN/file", "file"),
        ("run no run", "IN/empty", "empty"),
        ("run empty text", "''", "RUN"),
        ("run a pipe", "IN/special/pipe", "pipe"),
        ("one bad run of two", "IN/runs/good IN/runs/text", "text"),
    ),
    *rows(
        "scripts/compare_runs.py",
        "IN/runs/good",
        ("output a folder", "--output IN/empty", "--output"),
        ("output below a file", "--output IN/file/a.png", "a.png"),
        ("output of another format", "--output a.exe", "--output"),
        ("output a log", "--output IN/runs/good/log.csv", "--output"),
        ("output too long", f"--output {'n' * 300}.png", "--output"),
        ("near miss", "--outptu a.png", "--output"),
    ),
    *rows("scripts/compare_runs.py", "", ("nothing", "", "RUN")),
    *rows(
        "scripts/compare_runs.py",
        "--output out.png",
        ("short row", "IN/runs/good IN/runs/short_row", "short_row", "out.png"),
        (
            "logs read in part",
            "IN/runs/nul IN/runs/latin1 IN/runs/huge_field IN/runs/quote IN/runs/semicolons --output named",
            "quote/log.csv: got line 3",
            "named.png",
        ),
        ("infinite score", "IN/runs/psnr_inf", "inf", "out.png"),
        ("huge loss", "IN/runs/huge_number", "inf", "out.png"),
        status=0,
    ),
    *rows(
        "scripts/doctor.py",
        "--quick",
        ("probe unknown", "--probe TPU", "--probe"),
        ("json a folder", "--json IN/empty", "--json"),
        ("json below a file", "--json IN/file/a.json", "--json"),
        ("json a loop", "--json IN/special/loop.png", "--json"),
        ("json of an input", "--json IN/photos/png.png", "--json"),
        ("near miss", "--quik", "--quick"),
        ("an argument", "extra", "extra"),
    ),
]

# ---- full disks: no file may have more than some bytes

FULL = [
    Row(
        "deblur full disk",
        "deblur.py",
        shlex.split(f"IN/sharp {NETWORK} --output out"),
        "File too large",
        1,
        file_size=4096,
    ),
    Row(
        "eval full disk",
        "eval.py",
        shlex.split(f"{SCORED} --dataset_root IN/dataset --img_save_directory out"),
        "out",
        file_size=4096,
    ),
    Row(
        "preprocessing full disk",
        "src/preprocessing.py",
        shlex.split("--root_src IN/gopro --root_dst out"),
        "--root_dst",
        makes=("out/manifest.csv.partial",),
        file_size=4096,
    ),
    Row(
        "preprocessing packs onto a full disk",
        "src/preprocessing.py",
        shlex.split("--pack --root_src IN/dataset --root_dst out"),
        "--root_dst",
        file_size=4096,
    ),
    Row(
        "sample_data full disk",
        "src.data.sample_data",
        shlex.split("--root out --train 1 --test 1 --height 96 --width 96 --frames 3"),
        "work/out (File too large",
        file_size=4096,
    ),
    Row(
        "synthetic_blur full disk",
        "src.data.synthetic_blur",
        shlex.split("--photos IN/sharp --root out --count 1 --height 64 --width 64"),
        "out/test (File too large",
        file_size=4096,
    ),
    Row(
        "compare_runs full disk",
        "scripts/compare_runs.py",
        shlex.split("IN/runs/good --output out.png"),
        "cannot save",
        file_size=4096,
    ),
]

# ---- what needs MindSpore or PyTorch

HEAVY_ROWS = [
    *rows(
        "convert.py",
        "",
        *(
            (f"source {name}", f"IN/{file} a.ckpt --overwrite", says)
            for name, file, says in (
                ("text", "networks/text.ckpt", "text.ckpt"),
                ("noise", "networks/noise.ckpt", "noise.ckpt"),
                ("cut at 1 %", "weights/cut_1.ckpt", "cut_1.ckpt"),
                ("cut at 50 %", "weights/cut_50.ckpt", "cut_50.ckpt"),
                ("cut at 99 %", "weights/cut_99.ckpt", "cut_99.ckpt"),
                ("flipped bit", "weights/flipped.ckpt", "flipped.ckpt"),
                ("zip", "networks/zip.ckpt", "zip.ckpt"),
                ("zip bomb", "networks/zip.pth", "zip.pth"),
                ("code in a zip", "networks/zip_code.pth", "zip_code.pth"),
                ("code 0", "networks/code_0.pkl", "system"),
                ("code 2", "networks/code_2.pkl", "system"),
                ("code 4", "networks/code_4.pkl", "system"),
                ("list", "networks/list.pkl", "list.pkl"),
                ("empty pickle", "networks/empty.pkl", "empty.pkl"),
                ("text pickle", "networks/text.pkl", "text.pkl"),
                ("noise pickle", "networks/noise.pth", "noise.pth"),
                ("cut pickle", "weights/cut.pkl", "cut.pkl"),
                ("cut safetensors", "weights/cut.safetensors", "cut.safetensors"),
                ("text safetensors", "networks/text.safetensors", "text.safetensors"),
                ("huge header", "networks/header_huge.safetensors", "header_huge.safetensors"),
                ("text header", "networks/header_text.safetensors", "header_text.safetensors"),
                ("deep header", "networks/header_deep.safetensors", "header_deep.safetensors"),
                ("tensor beyond the end", "networks/beyond.safetensors", "beyond.safetensors"),
                ("negative side", "networks/negative.safetensors", "negative.safetensors"),
                ("other tensors", "networks/foreign.safetensors", "foreign.safetensors"),
                ("NaN", "weights/nan.ckpt", "NaN"),
                ("NaN in safetensors", "weights/nan.safetensors", "NaN"),
                ("another shape", "weights/other_shape.ckpt", "shape"),
                ("a parameter lacks", "weights/missing.ckpt", "missing"),
            )
        ),
        ("target in a file", "IN/weights/good.ckpt IN/file/a.pkl", "TARGET"),
        ("target in /proc", "IN/weights/good.ckpt /proc/a.safetensors", "TARGET"),
    ),
    *rows(
        "convert.py",
        "",
        ("good", "IN/weights/good.ckpt a.safetensors", "parameters", "a.safetensors"),
        ("good pickle", "IN/weights/good.pkl a.ckpt", "parameters", "a.ckpt"),
        status=0,
    ),
    *rows(
        "export.py",
        "",
        ("checkpoint absent", "--ckpt_file none.ckpt", "none.ckpt"),
        ("a folder", "--ckpt_file IN/networks", "networks"),
        ("text", "--ckpt_file IN/networks/text.ckpt", "text.ckpt"),
        ("device", "--ckpt_file /dev/zero", "/dev/zero"),
        ("an export", "--ckpt_file IN/networks/identity.onnx", "identity.onnx"),
        ("another variant", "--ckpt_file IN/weights/good.ckpt --model_name MIMO-UNetPlus", "MIMO-UNetPlus"),
        ("NaN", "--ckpt_file IN/weights/nan.ckpt --export_file_format ONNX", "nan.ckpt"),
        (
            "onto the checkpoint",
            "--ckpt_file IN/weights/cut_50.ckpt --export_file_name IN/weights/cut_50",
            "cut_50.ckpt",
        ),
    ),
    *rows(
        "deblur.py",
        "IN/photos/png.png --output out",
        ("checkpoint cut", "--model IN/weights/cut_50.ckpt", "cut_50.ckpt"),
        ("text as mindir", "--model IN/networks/text.mindir", "text.mindir"),
        ("noise as mindir", "--model IN/networks/noise.mindir", "noise.mindir"),
        ("MindSpore in bf16", "--model IN/weights/good.ckpt --engine mindspore --precision bf16", "--precision"),
    ),
    *rows(
        "train.py",
        f"--dataset_root IN/dataset {TRAINED} --train_batch_size 2 --val_acc_monitor_interval 0",
        *(
            (f"{option} {name}", f"--{option} IN/{file}", says)
            for option in ("pretrained", "resume")
            for name, file, says in (
                ("cut", "weights/cut_50.ckpt", "cut_50.ckpt"),
                ("text", "networks/text.ckpt", "text.ckpt"),
                ("export", "networks/identity.onnx", "identity.onnx"),
            )
        ),
        *(
            (f"resume step {name}", f"--resume IN/weights/step_{name}.ckpt", f"step_{name}.ckpt")
            for name in ("text", "negative", "list", "huge", "null")
        ),
        ("pretrained absent", "--pretrained none.ckpt", "none.ckpt"),
        ("run in /proc", "--ckpt_save_directory /proc/run", "--ckpt_save_directory"),
    ),
]

# ---- broken standard streams

GOOD = f"IN/photos/png.png {NETWORK} --output out"
BAD = f"IN/damaged/text.png {NETWORK} --output out"
SCORES = f"--dataset_root IN/dataset {SCORED}"
ARRANGED = "--root_src IN/gopro --root_dst out"
STREAMS = [  # (script, arguments, streams that are lost, status, a file that is made)
    ("deblur.py", GOOD, {"stdout": "closed", "stderr": "closed"}, 0, "out/png.png"),
    ("deblur.py", GOOD, {"stdout": "full"}, 0, "out/png.png"),
    ("deblur.py", GOOD, {"stdout": "unread", "stderr": "unread"}, 0, "out/png.png"),
    ("deblur.py", GOOD, {"stderr": "full"}, 0, "out/png.png"),
    ("deblur.py", "none.png", {"stderr": "closed"}, 2, ""),
    ("deblur.py", "none.png", {"stderr": "unread"}, 2, ""),
    ("deblur.py", BAD, {"stderr": "full"}, 1, ""),
    ("eval.py", SCORES, {"stdout": "closed"}, 2, ""),
    ("eval.py", SCORES, {"stdout": "unread"}, 141, ""),
    ("eval.py", f"{SCORES} --report_file a.json", {"stdout": "unread"}, 0, "a.json"),
    ("src/preprocessing.py", ARRANGED, {"stdout": "closed"}, 0, "out/manifest.csv"),
    ("src/preprocessing.py", ARRANGED, {"stderr": "full"}, 0, "out/manifest.csv"),
    ("scripts/compare_runs.py", "IN/runs/good --output out.png", {"stdout": "full"}, 2, ""),
    ("scripts/compare_runs.py", "IN/runs/good --output out.png", {"stdout": "unread"}, 141, ""),
    ("scripts/doctor.py", "--quick", {"stdout": "unread"}, 141, ""),
]

LIGHT_ROWS = [*DEBLUR, *EVAL, *TRAIN, *PLACES, *DATA, *SCRIPTS, *FULL]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The folder, whose contents are compared at the end once more."""
    folder = hostile_files.make_inputs(tmp_path_factory.mktemp("hostile") / "in")
    before = hostile_files.snapshot(folder, contents=True)
    yield folder
    after = hostile_files.snapshot(folder, contents=True)
    later = os.fsencode(folder / "weights")  # of `heavy_server`
    assert {path: facts for path, facts in after.items() if not path.startswith(later)} == before


@pytest.fixture(scope="module")
def state(inputs):
    """The snapshot of the inputs after the latest row, so that each row takes one."""
    return {"snapshot": hostile_files.snapshot(inputs)}


@pytest.fixture(scope="module")
def server():
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="module")
def heavy_server(inputs, state):
    """One that has imported MindSpore; adds files of networks to the inputs."""
    with ForkServer(heavy=True) as server:
        folder = inputs.parent
        ended = server.run("hostile_files:make_checkpoints", [str(inputs / "weights")], folder, folder, timeout=300)
        assert ended.status == 0, ended.stderr
        state["snapshot"] = hostile_files.snapshot(inputs)
        yield server


@pytest.mark.parametrize("row", LIGHT_ROWS, ids=lambda row: row.id)
def test_hostile_input(row, server, inputs, state, tmp_path):
    check(row, server, inputs, state, tmp_path)


DAMAGED = (
    *(
        "big.tif bomb.png empty.png endless.tif far.tif flipped_bit.png gif.png html.jpg huge.png "
        "icon.png int.tif no_data.png no_width.png not_zlib.png one_byte.png pdf.tif ps.bmp signature.png "
        "svg.png tall.bmp text.png zeros.png zip.png"
    ).split(),
    *(f"cut_{part}.{suffix}" for part in (10, 50, 95) for suffix in ("png", "jpg", "tif", "webp", "bmp")),
)


def test_damaged_photos(server, inputs, tmp_path):
    """One line for each, and nothing in its place; the photo with a bomb in its texts is whole."""
    (tmp_path / "work").mkdir()
    args = shlex.split(f"IN/damaged {NETWORK} --output out".replace("IN/", f"{inputs}/"))
    ended = server.run("deblur.py", args, tmp_path / "work", tmp_path, timeout=120)
    assert ended.status == 1 and "Traceback" not in ended.stdout + ended.stderr
    failed = re.findall(r"^failed: .*/damaged/([^:]+): .*$", ended.stderr, re.MULTILINE)
    assert sorted(failed) == sorted(DAMAGED) and len(ended.stderr.splitlines()) == len(DAMAGED), ended.stderr
    assert sorted([*DAMAGED, "text_bomb.png"]) == sorted(os.listdir(inputs / "damaged"))
    assert f"1 restored, {len(DAMAGED)} failed" in ended.stdout
    assert [path.name for path in (tmp_path / "work/out").glob("[!.]*")] == ["text_bomb.png"]


@pytest.mark.slow
@pytest.mark.parametrize("row", HEAVY_ROWS, ids=lambda row: row.id)
def test_hostile_input_of_mindspore_or_pytorch(row, heavy_server, inputs, state, tmp_path):
    check(row, heavy_server, inputs, state, tmp_path, timeout=120)
    assert not (tmp_path / "work/ran").exists(), "code of a pickle was run"


@pytest.mark.parametrize(("script", "args", "broken", "status", "made"), STREAMS)
def test_broken_streams(script, args, broken, status, made, server, inputs, tmp_path):
    """Work goes on without its streams; a script whose printout is its product ends."""
    (tmp_path / "work").mkdir()
    args = shlex.split(args.replace("IN/", f"{inputs}/"))
    ended = server.run(script, args, tmp_path / "work", tmp_path, broken=broken)
    assert ended.status == status, f"{ended}"
    assert not re.search("Traceback|Exception ignored", ended.stdout + ended.stderr), ended.stderr
    assert not made or (tmp_path / "work" / made).stat().st_size


def check(row, server, inputs, state, folder, timeout=30):
    work = folder / "work"
    work.mkdir()
    args = [arg.replace("IN/", f"{inputs}/") for arg in row.args]
    ended = server.run(row.script, args, work, folder, timeout, file_size=row.file_size)
    shown = (
        f"{row.script} {shlex.join(args)[:400]}\nstatus {ended.status}\n{ended.stdout[-1500:]}\n{ended.stderr[-1500:]}"
    )
    before, state["snapshot"] = state["snapshot"], hostile_files.snapshot(inputs)
    assert state["snapshot"] == before, f"an input was changed\n{shown}"
    assert ended.status == row.status, shown
    assert "Traceback" not in ended.stdout + ended.stderr, shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", re.sub("\r[^\n]*it/s|\r", "", ended.stderr)), shown
    if row.status == 2:
        *before, last = ended.stderr.splitlines() or [""]
        assert last.startswith("error: ") and not any("error: " in line for line in before), shown
        assert row.says.replace("IN/", f"{inputs}/") in last, shown
        assert len(last) < 3000, shown
    else:
        assert row.says in ended.stdout + ended.stderr, shown
    there = {os.path.relpath(os.path.join(f, name), work) for f, _, names in os.walk(work) for name in names}
    assert set(row.makes) <= there, shown
    if row.status == 2:
        assert not there - set(row.makes), f"left behind: {there}\n{shown}"
    assert all(os.path.getsize(work / name) for name in row.makes), shown
