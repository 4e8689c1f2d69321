"""Synthetic pairs from sharp photographs: the blur of a moving camera, of moving objects, or both.

    python -m src.data.synthetic_blur --photos photographs --root synthetic --count 20 --seed 1

writes a fixed set of such pairs, `root`/test/{blur,sharp}, for `eval.py`. `train.py --blur synthetic` and
`--sharp_photos` make them on the fly, differently in every epoch.

The blurred image is the mean of many frames and the sharp image is the middle one, as in GOPRO_Large and REDS. Some
pairs have the 7 to 13 frames of a fast camera, which leave ghosts of fast objects as in GOPRO_Large; others have one
frame per pixel of the path, like a long exposure. The mean is taken of the pixel values (`blur`) or of the light
(`blur_gamma`). Images are (H, W, 3) uint8 RGB.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from src.command_line import COUNT, ArgumentParser
from src.config import LARGEST_SEED, LARGEST_SIDE
from src.data.images import read_upright
from src.data.pairs import KINDS, SharpPhoto, check_pairs, list_image_tree
from src.errors import UserError, need_writable_folder, run_main
from src.files import need_apart, whole_folder

GAMMA = 2.2  # of the GoPro dataset's blur_gamma
INTERPOLATION_REACH = 2  # pixels around a point that cubic interpolation uses

# Ranges of `random_pair`, chosen by comparison with real pairs of GOPRO_Large and REDS.
NUM_FRAMES = (7, 9, 11, 13)  # fast camera
MAX_FRAMES = 61  # long exposure
OPEN_SHUTTER = 0.5  # share of pairs with a long exposure
OBJECT_LENGTH = (5.0, 50.0)  # motion of an object relative to the scene, pixels, log-uniformly distributed
CAMERA_TURN = 0.025  # radians between the outermost frames, at most
OBJECT_TURN = 0.06
STILL_CAMERA = 0.4  # share of these in which only the object moves
LINEAR_LIGHT = 0.5  # share of pairs with the mean of the light
MAX_REDUCTION = 2.0  # photographs are downscaled by up to this factor, which varies and sharpens their contents
MARGIN = 64  # pixels that a downscaled photograph keeps at each side of the window
# Noise is weak: averaging removes most of it in real pairs, and with more a network learns to denoise, not to deblur.
READ_NOISE = 0.5  # standard deviation in levels of 255, at most
SHOT_NOISE = 1.0  # the same, at full light
JPEG = 0.2  # share of blurred images compressed by JPEG
JPEG_QUALITY = (80, 97)
MAX_PIXELS = 1_500_000  # larger photographs are downscaled when read


@dataclass(frozen=True)
class Motion:
    """Ranges of the motion in `random_pair`."""

    camera_length: tuple[float, float]
    """Pixels, log-uniformly distributed."""
    smoothness: tuple[float, float]
    """As in `shake_path`."""
    with_object: float
    """Share of pairs with a moving object."""


MOTIONS = {
    "shake": Motion((2.5, 40.0), (0.2, 1.0), 0.35),
    # A first stage of training: almost straight paths, whose blur has one direction. From shaken cameras alone, a small
    # network learns nothing but to sharpen in all directions for tens of thousands of steps.
    "lines": Motion((5.0, 15.0), (4.0, 4.0), 0.0),
}


# ---- paths


def shake_path(
    rng: np.random.Generator, num_frames: int, length: float, turn: float = 0.0, smoothness: float = 0.3
) -> np.ndarray:
    """Path of a hand-held camera during one exposure.

    Args:
        rng: the number of draws does not depend on `length` and `turn`, so that these can be varied alone.
        num_frames: number of frames, evenly spaced in time.
        length: length along the path, pixels; a curved path reaches less far.
        turn: difference of the outermost angles, radians.
        smoothness: correlation time of the velocity as a fraction of the exposure: 0 a random walk, 1 almost a line.

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
    """Pixels (above, below, left, right) that the frames along `path` need around the middle frame.

    The corners of a turned window reach furthest; the reach of interpolation is included.
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
    """Frames of a camera that moves over `image` along `path`.

    Args:
        image: (H, W, C) or (H, W) uint8, mirrored beyond its edges.
        path: (num_frames, 3) as from `shake_path`. The window is turned about its centre, then moved.
        height, width: size of the frames, pixels.
        top, left: position of the window in `image` at path zero, where the frame equals the window.

    Yields:
        (height, width, C) or (height, width) uint8, rounded as in a recording.
    """
    # The loader has its own workers, and OpenCV's thread pool does not survive a fork.
    cv2.setNumThreads(1)
    # Bilinear resampling smooths slightly: among a few frames the middle one would stand out, among many it does not.
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
    """Frames with `foreground` over `background` where `mask`, (H, W) uint8, is 255."""
    for far, near, cover in zip(background, foreground, mask, strict=True):
        weight = cover[..., None].astype(np.float32) / 255
        yield np.rint(far + weight * (near.astype(np.float32) - far)).astype(np.uint8)


def mean_frame(frames: Iterable[np.ndarray], gamma: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Exposure and middle frame of an odd number of frames, (H, W, 3) uint8 each.

    Args:
        gamma: 1 averages the values, as GOPRO_Large's `blur` does, 2.2 the light, as its `blur_gamma` does.

    Returns:
        255 * mean((x / 255) ^ gamma) ^ (1 / gamma), (H, W, 3) float32, not rounded, and the middle frame, uint8.
    """
    frames = list(frames)
    light = ((np.arange(256) / 255) ** gamma).astype(np.float32)
    total = np.zeros(frames[0].shape, np.float32)
    for frame in frames:
        cv2.accumulate(cv2.LUT(frame, light), total)
    return 255 * (total / len(frames)) ** (1 / gamma), frames[len(frames) // 2]


# ---- one random pair


def random_pair(
    rng: np.random.Generator, photo: np.ndarray, height: int, width: int, motion: Motion = MOTIONS["shake"]
) -> tuple[np.ndarray, np.ndarray]:
    """Blurred and sharp image, (height, width, 3) uint8 each, at a random place of `photo`.

    The camera shakes, an object moves, or both. Only the blurred image has weak sensor noise and sometimes JPEG
    artefacts.

    Args:
        photo: (H, W, 3) uint8, sharp, at least as large as the window. With 30 more pixels at each side most paths have
            room; the others see the mirrored photo beyond its edges.

    Raises:
        ValueError: the window is larger than the photo.
    """
    if photo.shape[0] < height or photo.shape[1] < width:
        raise ValueError(f"a window of {(height, width)} does not fit into a photo of {photo.shape[:2]}")
    photo = randomly_reduced(rng, photo, height, width)
    has_object = rng.random() < motion.with_object
    camera_length = 0.0 if rng.random() < STILL_CAMERA and has_object else log_uniform(rng, *motion.camera_length)
    object_length = log_uniform(rng, *OBJECT_LENGTH) if has_object else 0.0
    num_frames = int(rng.choice(NUM_FRAMES))
    if rng.random() < OPEN_SHUTTER:
        num_frames = min(MAX_FRAMES, max(num_frames, math.ceil(camera_length + object_length) // 2 * 2 + 1))
    turn = rng.uniform(0, CAMERA_TURN) if camera_length else 0.0
    camera = shake_path(rng, num_frames, camera_length, turn, rng.uniform(*motion.smoothness))
    frames = frames_along(photo, camera, height, width, *random_place(rng, photo, camera, height, width))
    if has_object:
        own = shake_path(rng, num_frames, object_length, rng.uniform(0, OBJECT_TURN), 1.0)
        path = camera + own  # the camera relative to the object
        texture = frames_along(photo, path, height, width, *random_place(rng, photo, path, height, width))
        shape = frames_along(random_shape(rng, height, width), path, height, width, 0, 0)
        frames = with_object(frames, texture, shape)
    exposure, sharp = mean_frame(frames, GAMMA if rng.random() < LINEAR_LIGHT else 1.0)
    return recorded(rng, exposure), sharp


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def randomly_reduced(rng: np.random.Generator, photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """A random part of `photo`, downscaled by up to `MAX_REDUCTION`: the window with up to `MARGIN` pixels around it.

    Downscaling the whole photo would take most of the time.
    """
    wanted = height + 2 * MARGIN, width + 2 * MARGIN
    most = min(photo.shape[0] / wanted[0], photo.shape[1] / wanted[1], MAX_REDUCTION)
    factor = rng.uniform(1.0, max(1.0, most))
    rows, columns = (min(size, math.ceil(side * factor)) for size, side in zip(photo.shape[:2], wanted, strict=True))
    top = int(rng.integers(photo.shape[0] - rows, endpoint=True))
    left = int(rng.integers(photo.shape[1] - columns, endpoint=True))
    return shrunk(photo[top : top + rows, left : left + columns], factor)


def shrunk(image: np.ndarray, factor: float) -> np.ndarray:
    """`image`, (H, W, 3) uint8, downscaled by `factor` if that exceeds 1; each pixel is the mean of its area."""
    size = (max(1, round(image.shape[1] / factor)), max(1, round(image.shape[0] / factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if factor > 1 else image


def random_place(
    rng: np.random.Generator, photo: np.ndarray, path: np.ndarray, height: int, width: int
) -> tuple[int, int]:
    """Random (top, left) of a window in `photo`, with the frames along `path` inside the photo if there is room."""
    up, down, before, after = reach(path, height, width)
    place = []
    for size, window, low, high in ((photo.shape[0], height, up, down), (photo.shape[1], width, before, after)):
        if low + window + high > size:
            low = high = 0
        place.append(int(rng.integers(low, size - window - high, endpoint=True)))
    return place[0], place[1]


def random_shape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Mask of an object, (height, width) uint8: 255 inside a dented ellipse, 0 outside, with an edge of one pixel."""
    side = min(height, width)
    radius_y, radius_x = side * rng.uniform(0.12, 0.5, 2)
    y, x = np.ogrid[:height, :width]
    distance = np.hypot((y - rng.uniform(0, height)) / radius_y, (x - rng.uniform(0, width)) / radius_x)
    dents = cv2.resize(0.25 * rng.standard_normal((6, 6)), (width, height), interpolation=cv2.INTER_CUBIC)
    inside = (1 - distance + dents) * min(radius_y, radius_x)  # pixels from the edge
    return np.rint(255 * (inside + 0.5).clip(0, 1)).astype(np.uint8)


def recorded(rng: np.random.Generator, exposure: np.ndarray) -> np.ndarray:
    """Camera image of an exposure, (H, W, 3) float in [0, 255]: with noise, rounded, sometimes with JPEG artefacts."""
    read, shot = rng.uniform(0, (READ_NOISE, SHOT_NOISE))
    deviation = np.sqrt(read**2 + shot**2 * exposure.astype(np.float32) / 255)
    noisy = exposure + deviation * rng.standard_normal(exposure.shape, np.float32)
    image = np.rint(noisy).clip(0, 255).astype(np.uint8)
    through_jpeg, quality = rng.random() < JPEG, int(rng.integers(*JPEG_QUALITY))
    if not through_jpeg:
        return image
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]  # OpenCV uses BGR
    return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])


# ---- photographs


@lru_cache(maxsize=100)  # at most 450 MB per process: decoding takes longer than blurring
def read_sharp_photo(path: Path, min_side: int) -> np.ndarray:
    """A photograph as (H, W, 3) uint8, read-only, downscaled to at most `MAX_PIXELS`.

    Args:
        min_side: smallest side after downscaling, pixels.

    Raises:
        UserError: as `read_upright`.
    """
    photo = read_upright(path)
    height, width = photo.shape[:2]
    photo = shrunk(photo, min(math.sqrt(height * width / MAX_PIXELS), min(height, width) / min_side))
    photo.flags.writeable = False
    return photo


def write_set(
    folder: Path, photos: Sequence[Path], count: int, height: int, width: int, seed: int, motion: str = "shake"
) -> None:
    """Write `folder`/{blur,sharp}/1.png, ... and the list file `folder`/pairs.txt, `sharp blur` per line.

    Pair i is drawn from (seed, i) and photograph i modulo their number, so a larger set includes a smaller one.
    """
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        photo = read_sharp_photo(photos[i % len(photos)], max(height, width))
        images = random_pair(np.random.default_rng([seed, i]), photo, height, width, MOTIONS[motion])
        for kind, image in zip(KINDS, images, strict=True):
            Image.fromarray(image).save(folder / kind / f"{i + 1}.png")
    lines = [f"sharp/{i + 1}.png blur/{i + 1}.png\n" for i in range(count)]
    (folder / "pairs.txt").write_text("".join(lines), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; `argv` has the arguments without the program name, None means those of the process."""
    parser = ArgumentParser("Write a test set of synthetic blur, made from a folder of sharp photographs.")
    parser.add_argument("--photos", metavar="FOLDER", required=True, help="sharp photographs, sub-folders included")
    parser.add_argument(
        "--root", metavar="FOLDER", required=True, help="output folder, gets test/{blur,sharp} and pairs.txt"
    )
    for name, default, low, high, text in (
        ("count", 20, 1, COUNT, "number of pairs"),
        ("height", 256, 16, LARGEST_SIDE, "height of the images, pixels"),
        ("width", 256, 16, LARGEST_SIDE, "width of the images, pixels"),
        ("seed", 1, 0, LARGEST_SEED, "seed of all random numbers"),
    ):
        text = f"{text} [{default}]"
        parser.add_argument(f"--{name}", type=int, low=low, high=high, metavar="INT", default=default, help=text)
    parser.add_argument("--motion", choices=MOTIONS, default="shake", help="as train.py's --synthetic_motion [shake]")
    args = parser.parse_args(argv)
    source, folder = Path(args.photos), Path(args.root) / "test"
    photos = list(list_image_tree(source, "--photos").values())
    changes = check_pairs(
        [SharpPhoto(path.name, path, path) for path in photos],
        min_side=max(args.height, args.width),
        remedy=lambda side: f"--height and --width {side} or less",
    )
    if folder.exists():
        raise UserError(f"--root: {folder} already exists. Choose another folder.")
    need_apart([source], folders=[("--root", folder)])
    need_writable_folder(folder.parent, "--root")
    with whole_folder(folder) as made:
        write_set(made, photos, args.count, args.height, args.width, args.seed, args.motion)
    print(f"{folder}: {args.count} pairs of {args.width}x{args.height} pixels from {len(photos)} photographs{changes}")
    print(f"next: python eval.py --dataset_root {args.root} --ckpt_file FILE")
    return 0


if __name__ == "__main__":
    run_main(main)
