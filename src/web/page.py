"""The page of `app.py`, made with Gradio: drop a photo or a short video, compare, download."""

import base64
import dataclasses
import math
import os
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.photos.run import Restorer
from src.photos.video import import_av, is_video
from src.web.folder import WebFolder, duration
from src.web.uploads import VideoOptions, restore_upload

# A blurred photo for people who have none at hand: docs/serving.md names its source and licence.
SAMPLE = Path(__file__).with_name("sample.jpg")
STYLE = Path(__file__).with_name("page.css")
# Runs in the browser.
MARK_ERRORS = "line => document.querySelector('#line').classList.toggle('error', line.startsWith('error: '))"


def import_gradio() -> Any:
    """The module, set up to send nothing anywhere."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as e:
        raise UserError(f"the page needs {e.name}, which is not installed: bash scripts/setup.sh --app") from e
    return gradio


def time_left(seconds: float) -> str:
    """'about 40 seconds left': rounded up, the more coarsely the longer it takes."""
    step = 60 if seconds > 90 else 10 if seconds > 20 else 1
    return f"about {duration(max(1, math.ceil(seconds / step)) * step)} left"


def build_page(gradio: Any, args: Namespace, restorer: Restorer, folder: WebFolder) -> Any:
    """Gradio's Blocks: drop a photo or a short video, compare, download."""
    try:
        import_av()
        seconds, pixels = args.max_video_seconds, args.max_video_pixels / 1e6
        videos = f", or a video (MP4, MOV, MKV, WebM, AVI) of up to {seconds} seconds and {pixels:g} megapixels a frame"
    except UserError:
        videos = ""

    def restore_into(own_folder: Path, upload: Path, name: str, quality: int, progress: Any) -> tuple:
        """The values of slider, download and line."""

        start = 0.0

        def moved(done: int, count: int, unit: str) -> None:
            left = (time.monotonic() - start) / done * (count - done)  # count is 0 where it is unknown
            line = time_left(left) if left > 0 else "writing" if count else "restoring"
            progress((done, count or None), line, unit=unit)

        def restore_pixels(pixels: np.ndarray, path: Path) -> np.ndarray:
            nonlocal start
            if not start:
                progress(0, "restoring")
                start = time.monotonic()
            return restore_one(pixels, path)

        on_tile = None if is_video(Path(name)) else partial(moved, unit="tiles")
        restore_one = dataclasses.replace(restorer, on_tile=on_tile)
        limits = args.video_quality, args.max_video_pixels, args.max_video_seconds
        video = VideoOptions(*limits, on_frame=partial(moved, unit="frames"))
        progress(0, "reading")
        restored = restore_upload(upload, name, own_folder, restore_pixels, quality, args.max_pixels, args.debug, video)
        if restored.target is None:
            return None, None, restored.line
        return (str(restored.before), str(restored.after)), str(restored.target), restored.line

    def restore(upload: tuple[Path, str] | None, quality: int, progress: Any = gradio.Progress()) -> tuple:  # noqa: B008
        if upload is None:
            return None, None, "error: no photo was given"
        try:
            with folder.using(upload[0]) as own_folder:
                return restore_into(own_folder, *upload, quality, progress)
        except UserError as e:
            return None, None, f"error: {e}"

    def restore_sample(quality: int, progress: Any = gradio.Progress()) -> tuple:  # noqa: B008
        try:
            with folder.new_results() as own_folder:
                upload = own_folder / SAMPLE.name
                upload.write_bytes(SAMPLE.read_bytes())
                return str(upload), *restore_into(own_folder, upload, SAMPLE.name, quality, progress)
        except UserError as e:
            return None, None, None, f"error: {e}"

    with gradio.Blocks(title="Deblur a photo", analytics_enabled=False) as page:
        gradio.Markdown(
            "# Deblur a photo\nRemoves motion blur on the machine that serves this page; your photo goes nowhere else.",
            elem_id="title",
        )
        with gradio.Row(equal_height=True):
            upload = gradio.File(label="Photo", elem_id="photo", height=120, scale=3, min_width=280)
            sample = gradio.Button("No photo at hand? Try this one.", elem_id="sample", scale=1, min_width=280)
        slider = gradio.ImageSlider(
            label="Before and after",
            elem_id="slider",
            interactive=False,
            type="filepath",
            buttons=["fullscreen"],
            max_height=900,
        )
        with gradio.Row(equal_height=True):
            line = gradio.Textbox(
                elem_id="line", interactive=False, lines=1, placeholder=" ", container=False, scale=3, min_width=280
            )
            result = gradio.DownloadButton("Download", elem_id="result", variant="primary", scale=1, min_width=200)
        with gradio.Accordion("Settings and limits", open=False, elem_id="settings"):
            quality = gradio.Slider(1, 100, args.quality, step=1, precision=0, label="Quality of JPEG and WebP results")
            gradio.Markdown(
                f"PNG, JPEG, TIFF, WebP, BMP, HEIC or AVIF, up to {args.max_megabytes} MB and "
                f"{args.max_pixels / 1e6:g} megapixels{videos}. Files and results are deleted after "
                f"{duration(folder.keep)}."
            )
        # The file with the user's name for it, from which Gradio drops some characters.
        upload.preprocess = lambda payload: payload and (Path(payload.path), payload.orig_name or "")

        async def uploaded(path: str) -> str:
            """Replaces Gradio's function, which also downloads from addresses."""
            if not folder.holds(Path(path)):
                raise gradio.Error("the photo was not uploaded to this page", print_exception=False)
            return path

        upload.async_move_resource_to_block_cache = uploaded
        outputs = [slider, result, line]
        # One at a time, because each takes all memory and cores.
        one = {"concurrency_limit": 1, "concurrency_id": "restore", "show_progress_on": slider}
        upload.upload(restore, [upload, quality], outputs, api_name="restore", **one)
        sample.click(restore_sample, quality, [upload, *outputs], api_visibility="private", **one)
        upload.clear(lambda: (None, None, ""), None, outputs, api_visibility="private", queue=False)
        line.change(None, line, None, js=MARK_ERRORS, api_visibility="private", queue=False)
    return page


def mount(gradio: Any, page: Any, max_bytes: int) -> Any:
    """The page as an ASGI application."""
    from fastapi import FastAPI

    page.has_launched = True  # otherwise Gradio assumes that it is in preparation and reads any requested file
    names = "run_history", "ssr_mode", "pwa", "mcp_server", "enable_monitoring", "show_error"
    features = dict.fromkeys(names, False)
    picture = base64.b64encode(SAMPLE.read_bytes()).decode()
    look = {
        "css": f"{STYLE.read_text()}\n:root {{ --sample: url(data:image/jpeg;base64,{picture}) }}",
        "theme": gradio.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"]),
    }
    server = FastAPI(openapi_url=None)
    return gradio.mount_gradio_app(server, page, "/", footer_links=[], max_file_size=max_bytes, **look, **features)
