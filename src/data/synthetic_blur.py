"""Blurred and sharp pairs out of sharp photographs: what a camera records while it, or what it looks at, moves.

    python src/data/synthetic_blur.py --photos photographs --root synthetic --count 20 --seed 1

writes a fixed set of such pairs, `root`/test/{blur,sharp}, for `eval.py`. `train.py --blur synthetic` and
`--sharp_photos` make them on the fly, other ones in every epoch.

The exposure is the mean of many frames and the sharp image is the middle one, as in GOPRO_Large and REDS. Some pairs
have the 7 to 13 frames of a fast camera, which leave ghosts of fast things as they do in GOPRO_Large, some as many as
the path has pixels, like the open shutter of a slow one. The mean is taken of the pixel values (`blur`) or of the light
(`blur_gamma`). Images are (H, W, 3) uint8 RGB.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

if not __package__:  # run as a file: Python has put src/ on its path, where the package itself cannot be found
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from src.config import COUNT, LARGEST_SEED, LARGEST_SIDE, ArgumentParser
from src.data.images import read_upright
from src.data.pairs import SharpPhoto, check_pairs, list_image_tree
from src.errors import UserError, need_writable_folder, run_main
from src.files import need_apart, whole_folder

GAMMA = 2.2  # of the GoPro dataset's blur_gamma
INTERPOLATION_REACH = 2  # pixels that cubic interpolation looks at around a point

# What `random_pair` draws. The ranges were chosen by looking at real pairs of GOPRO_Large and REDS beside it.
NUM_FRAMES = (7, 9, 11, 13)  # of the fast camera
MAX_FRAMES = 61  # of the slow one
OPEN_SHUTTER = 0.5  # share of pairs by the slow one
CAMERA_LENGTH = (2.5, 40.0)  # pixels, drawn evenly on a logarithmic scale
OBJECT_LENGTH = (5.0, 50.0)  # likewise, what an object moves by itself
CAMERA_TURN = 0.025  # radians between the outermost frames, at most
OBJECT_TURN = 0.06
WITH_OBJECT = 0.35  # share of pairs in which an object moves by itself
STILL_CAMERA = 0.4  # share of these in which nothing else does
LINEAR_LIGHT = 0.5  # share of pairs whose mean is that of the light
MAX_REDUCTION = 2.0  # photographs are made smaller by up to this factor: other contents, and sharper ones
MARGIN = 64  # pixels at each side of the window that a reduced photograph keeps
# Little noise: the mean of many frames has hardly any, and a network that sees more learns to remove noise, not blur.
READ_NOISE = 0.5  # standard deviation in levels of 255, at most
SHOT_NOISE = 1.0  # likewise, at full light
JPEG = 0.2  # share of blurred images that went through JPEG
JPEG_QUALITY = (80, 97)
MAX_PIXELS = 1_500_000  # to which larger photographs are reduced on reading


# ---- paths


def shake_path(
    rng: np.random.Generator, num_frames: int, length: float, turn: float = 0.0, smoothness: float = 0.3
) -> np.ndarray:
    """Where a shaking hand points the camera during one exposure.

    Args:
        rng: advanced by the same amount whatever `length` and `turn`, so that these can be varied alone.
        num_frames: moments of the exposure, evenly spaced in time.
        length: of the whole path, pixels. It is the sum of the steps, so a bent path reaches less far.
        turn: between the outermost angles, radians.
        smoothness: how long the velocity stays alike, as a fraction of the exposure: 0 a random walk, 1 almost a line.

    Returns:
        (num_frames, 3) float64: dx in pixels to the right, dy in pixels down, angle in radians clockwise, of the camera
        relative to the middle frame (number num_frames // 2), which is all zeros.
    """
    if num_frames < 1 or length < 0 or turn < 0 or smoothness < 0:
        raise ValueError(f"expected num_frames >= 1 and the rest >= 0, got {(num_frames, length, turn, smoothness)}")
    path = np.zeros((num_frames, 3))
    if num_frames == 1:
        return path
    sigma = smoothness * (num_frames - 1)  # of the Gaussian window over time, frames
    half = math.ceil(3 * sigma)
    white = rng.standard_normal((num_frames - 1 + 2 * half, 3))
    window = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2) if half else np.ones(1)
    velocity = np.stack([np.convolve(white[:, k], window, mode="valid") for k in range(3)], axis=1)
    velocity[:, :2] *= length / np.hypot(velocity[:, 0], velocity[:, 1]).sum()
    path[1:] = np.cumsum(velocity, axis=0)
    path[:, 2] *= turn / np.ptp(path[:, 2])
    return path - path[num_frames // 2]


def reach(path: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """Whole pixels (above, below, left, right) that the frames along `path` need around the one at path zero.

    The corners of a turned window reach furthest; what interpolation looks at is included.
    """
    y = np.array([-1, -1, 1, 1]) * (height - 1) / 2  # (4 corners,), from the centre
    x = np.array([-1, 1, -1, 1]) * (width - 1) / 2
    dx, dy, angle = (path[:, k, None] for k in range(3))  # (num_frames, 1)
    drift_y = dy + np.cos(angle) * y + np.sin(angle) * x - y  # (num_frames, 4 corners)
    drift_x = dx - np.sin(angle) * y + np.cos(angle) * x - x
    sides = (-drift_y.min(), drift_y.max(), -drift_x.min(), drift_x.max())
    return tuple(math.ceil(max(0.0, side)) + INTERPOLATION_REACH for side in sides)


# ---- frames and their mean


def frames_along(
    image: np.ndarray, path: np.ndarray, height: int, width: int, top: int, left: int
) -> Iterator[np.ndarray]:
    """What a camera sees that moves over `image` along `path`, one frame after the other.

    Args:
        image: (H, W, C) or (H, W) uint8. Beyond its edges it goes on as its mirror image.
        path: (num_frames, 3) as from `shake_path`. The window is turned about its centre, then moved.
        height, width: of the frames, pixels.
        top, left: the window's place in `image` at path zero, where the frame is the very window.

    Yields:
        (height, width, C) or (height, width) uint8, rounded as in a recording.
    """
    # OpenCV splits nothing among threads of its own: the loader has its workers, and its pool does not survive a fork.
    cv2.setNumThreads(1)
    # Bilinear resampling smooths a little, which would tell the middle frame from the few others; among many, no more.
    interpolation = cv2.INTER_CUBIC if len(path) <= max(NUM_FRAMES) else cv2.INTER_LINEAR
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    for dx, dy, angle in path:
        cos, sin = math.cos(angle), math.sin(angle)
        from_frame = np.array(
            [
                [cos, -sin, left + dx + centre_x - cos * centre_x + sin * centre_y],
                [sin, cos, top + dy + centre_y - sin * centre_x - cos * centre_y],
            ]
        )  # (x, y) of the frame -> (x, y) of the image
        flags = interpolation | cv2.WARP_INVERSE_MAP
        yield cv2.warpAffine(image, from_frame, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def with_object(
    background: Iterable[np.ndarray], foreground: Iterable[np.ndarray], mask: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """Frames in which `foreground` covers `background` where `mask`, (H, W) uint8, is 255."""
    for far, near, cover in zip(background, foreground, mask, strict=True):
        weight = cover[..., None].astype(np.float32) / 255
        yield np.rint(far + weight * (near.astype(np.float32) - far)).astype(np.uint8)


def mean_frame(frames: Iterable[np.ndarray], gamma: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Exposure and middle frame of an odd number of frames, (H, W, 3) uint8 each.

    Args:
        gamma: 1 averages the values as GOPRO_Large's `blur` does, 2.2 the light, as its `blur_gamma`.

    Returns:
        255 * mean((x / 255) ^ gamma) ^ (1 / gamma), (H, W, 3) float32 not yet rounded, and the middle frame, uint8.
    """
    frames = list(frames)
    light = ((np.arange(256) / 255) ** gamma).astype(np.float32)
    total = np.zeros(frames[0].shape, np.float32)
    for frame in frames:
        cv2.accumulate(cv2.LUT(frame, light), total)
    return 255 * (total / len(frames)) ** (1 / gamma), frames[len(frames) // 2]


# ---- one random pair


def random_pair(rng: np.random.Generator, photo: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Blurred and sharp image, (height, width, 3) uint8 each, at a random place of `photo`.

    The camera shakes, or an object moves, or both; some light noise of the sensor and sometimes JPEG fall on the
    blurred image alone. Everything is drawn from `rng`.

    Args:
        photo: (H, W, 3) uint8, sharp, at least as large as the window; with 30 pixels more at each side most paths find
            room, where they do not the photo goes on as its mirror image.

    Raises:
        ValueError: the window is larger than the photo.
    """
    if photo.shape[0] < height or photo.shape[1] < width:
        raise ValueError(f"a window of {(height, width)} does not fit into a photo of {photo.shape[:2]}")
    photo = randomly_reduced(rng, photo, height, width)
    has_object = rng.random() < WITH_OBJECT
    camera_length = 0.0 if rng.random() < STILL_CAMERA and has_object else log_uniform(rng, *CAMERA_LENGTH)
    object_length = log_uniform(rng, *OBJECT_LENGTH) if has_object else 0.0
    num_frames = int(rng.choice(NUM_FRAMES))
    if rng.random() < OPEN_SHUTTER:
        num_frames = min(MAX_FRAMES, max(num_frames, math.ceil(camera_length + object_length) // 2 * 2 + 1))
    turn = rng.uniform(0, CAMERA_TURN) if camera_length else 0.0
    camera = shake_path(rng, num_frames, camera_length, turn, rng.uniform(0.2, 1.0))
    frames = frames_along(photo, camera, height, width, *random_place(rng, photo, camera, height, width))
    if has_object:
        own = shake_path(rng, num_frames, object_length, rng.uniform(0, OBJECT_TURN), 1.0)
        path = camera + own  # where the camera is as the object sees it
        texture = frames_along(photo, path, height, width, *random_place(rng, photo, path, height, width))
        shape = frames_along(random_shape(rng, height, width), path, height, width, 0, 0)
        frames = with_object(frames, texture, shape)
    exposure, sharp = mean_frame(frames, GAMMA if rng.random() < LINEAR_LIGHT else 1.0)
    return recorded(rng, exposure), sharp


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def randomly_reduced(rng: np.random.Generator, photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """A random part of `photo`, up to `MAX_REDUCTION` times smaller: the window with `MARGIN` pixels around it, as far
    as the photo has them. Only that part is reduced, which is most of the work with a large photo."""
    wanted = height + 2 * MARGIN, width + 2 * MARGIN
    most = min(photo.shape[0] / wanted[0], photo.shape[1] / wanted[1], MAX_REDUCTION)
    factor = rng.uniform(1.0, max(1.0, most))
    rows, columns = (min(size, math.ceil(side * factor)) for size, side in zip(photo.shape[:2], wanted, strict=True))
    top = int(rng.integers(photo.shape[0] - rows, endpoint=True))
    left = int(rng.integers(photo.shape[1] - columns, endpoint=True))
    return shrunk(photo[top : top + rows, left : left + columns], factor)


def shrunk(image: np.ndarray, factor: float) -> np.ndarray:
    """`image`, (H, W, 3) uint8, `factor` times smaller, each pixel the mean of those that it covers."""
    size = (max(1, round(image.shape[1] / factor)), max(1, round(image.shape[0] / factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if factor > 1 else image


def random_place(
    rng: np.random.Generator, photo: np.ndarray, path: np.ndarray, height: int, width: int
) -> tuple[int, int]:
    """(top, left) of a window in `photo`, so that the frames along `path` stay within the photo if they can."""
    up, down, before, after = reach(path, height, width)
    place = []
    for size, window, low, high in ((photo.shape[0], height, up, down), (photo.shape[1], width, before, after)):
        if low + window + high > size:
            low = high = 0
        place.append(int(rng.integers(low, size - window - high, endpoint=True)))
    return place[0], place[1]


def random_shape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An object's outline, (height, width) uint8: 255 within a dented ellipse, 0 without, with an edge of one pixel."""
    side = min(height, width)
    radius_y, radius_x = side * rng.uniform(0.12, 0.5, 2)
    y, x = np.ogrid[:height, :width]
    distance = np.hypot((y - rng.uniform(0, height)) / radius_y, (x - rng.uniform(0, width)) / radius_x)
    dents = cv2.resize(0.25 * rng.standard_normal((6, 6)), (width, height), interpolation=cv2.INTER_CUBIC)
    inside = (1 - distance + dents) * min(radius_y, radius_x)  # pixels from the edge
    return np.rint(255 * (inside + 0.5).clip(0, 1)).astype(np.uint8)


def recorded(rng: np.random.Generator, exposure: np.ndarray) -> np.ndarray:
    """What a camera's file holds of an exposure, (H, W, 3) float in [0, 255]: with noise, rounded, sometimes JPEG."""
    read, shot = rng.uniform(0, (READ_NOISE, SHOT_NOISE))
    deviation = np.sqrt(read**2 + shot**2 * exposure.astype(np.float32) / 255)
    noisy = exposure + deviation * rng.standard_normal(exposure.shape, np.float32)
    image = np.rint(noisy).clip(0, 255).astype(np.uint8)
    through_jpeg, quality = rng.random() < JPEG, int(rng.integers(*JPEG_QUALITY))
    if not through_jpeg:
        return image
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]  # OpenCV speaks BGR
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


# ---- photographs


@lru_cache(maxsize=100)  # at most 450 MB a process: decoding takes longer than blurring
def read_sharp_photo(path: Path, min_side: int) -> np.ndarray:
    """A photograph as (H, W, 3) uint8, read-only; one of more than `MAX_PIXELS` is reduced to that.

    Args:
        min_side: the reduction keeps each side at least so long, pixels.

    Raises:
        UserError: as `read_upright`.
    """
    photo = read_upright(path)
    height, width = photo.shape[:2]
    photo = shrunk(photo, min(math.sqrt(height * width / MAX_PIXELS), min(height, width) / min_side))
    photo.flags.writeable = False
    return photo


def write_set(folder: Path, photos: Sequence[Path], count: int, height: int, width: int, seed: int) -> None:
    """`folder`/{blur,sharp}/1.png, ... and the list file `folder`/pairs.txt, `sharp blur` on each line.

    Pair i is drawn from (seed, i) and photograph i, starting over after the last, so a larger set begins with the pairs
    of a smaller one.
    """
    for kind in ("blur", "sharp"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        photo = read_sharp_photo(photos[i % len(photos)], max(height, width))
        images = random_pair(np.random.default_rng([seed, i]), photo, height, width)
        for kind, image in zip(("blur", "sharp"), images, strict=True):
            Image.fromarray(image).save(folder / kind / f"{i + 1}.png")
    lines = [f"sharp/{i + 1}.png blur/{i + 1}.png\n" for i in range(count)]
    (folder / "pairs.txt").write_text("".join(lines), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; `argv` without the program's name, None reads the process's own."""
    parser = ArgumentParser("Write pairs of synthetic blur, made from a folder of sharp photographs, as a test set.")
    parser.add_argument("--photos", metavar="FOLDER", required=True, help="sharp photographs, sub-folders included")
    parser.add_argument("--root", metavar="FOLDER", required=True, help="gets test/{blur,sharp} and test/pairs.txt")
    for name, default, low, high, text in (
        ("count", 20, 1, COUNT, "pairs"),
        ("height", 256, 16, LARGEST_SIDE, "of the images, pixels"),
        ("width", 256, 16, LARGEST_SIDE, "of the images, pixels"),
        ("seed", 1, 0, LARGEST_SEED, "of everything that is drawn"),
    ):
        help_text = f"{text} [{default}]"
        parser.add_argument(f"--{name}", type=int, low=low, high=high, metavar="INT", default=default, help=help_text)
    args = parser.parse_args(argv)
    source, folder = Path(args.photos), Path(args.root) / "test"
    photos = list(list_image_tree(source, "--photos").values())
    if not photos:
        raise UserError(f"--photos: got {source}, expected a folder with photographs")
    changes = check_pairs(
        [SharpPhoto(path.name, path) for path in photos],
        min_side=max(args.height, args.width),
        remedy=lambda side: f"--height and --width {side} or less",
    )
    if folder.exists():
        raise UserError(f"--root: {folder} is there already. Choose another folder.")
    need_apart([source], folders=[("--root", folder)])
    need_writable_folder(folder.parent, "--root")
    with whole_folder(folder) as made:
        write_set(made, photos, args.count, args.height, args.width, args.seed)
    print(f"{folder}: {args.count} pairs of {args.width}x{args.height} pixels from {len(photos)} photographs{changes}")
    print(f"next: python eval.py --dataset_root {args.root} --ckpt_file FILE")
    return 0


if __name__ == "__main__":
    run_main(main)
