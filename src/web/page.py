"""The page of `app.py`, made with Gradio: drop a photo, compare, download."""

import dataclasses
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.photos.run import Restorer
from src.web.folder import WebFolder
from src.web.uploads import restore_upload


def import_gradio() -> Any:
    """The module, set up to send nothing anywhere."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as e:
        raise UserError(f"the page needs {e.name}, which is not installed: bash scripts/setup.sh --app") from e
    return gradio


def build_page(gradio: Any, args: Namespace, restorer: Restorer, folder: WebFolder) -> Any:
    """Gradio's Blocks: drop a photo, compare, download."""

    def restore(upload: tuple[Path, str] | None, progress: Any = gradio.Progress()) -> tuple:  # noqa: B008
        if upload is None:
            return None, None, "error: no photo was given"
        progress(0, "reading")
        restore_one = dataclasses.replace(
            restorer, on_tile=lambda done, count: progress((done, count), "restoring", unit="tiles")
        )
        try:
            with folder.using(upload[0]) as own_folder:
                shown = restore_upload(*upload, own_folder, restore_one, args.quality, args.max_pixels, args.debug)
        except UserError as e:
            return None, None, f"error: {e}"
        if shown.target is None:
            return None, None, shown.line
        return (str(shown.before), str(shown.after)), str(shown.target), shown.line

    with gradio.Blocks(title="Deblur a photo", analytics_enabled=False) as page:
        gradio.Markdown(
            "# Deblur a photo\nPNG, JPEG, TIFF, WebP or BMP, up to "
            f"{args.max_megabytes} MB and {args.max_pixels / 1e6:g} megapixels. It does not leave the machine that "
            "serves this page."
        )
        upload = gradio.File(label="Photo", elem_id="photo")
        # The file with the user's name for it, from which Gradio drops some characters.
        upload.preprocess = lambda payload: payload and (Path(payload.path), payload.orig_name or "")
        line = gradio.Textbox(label="Result", elem_id="line", interactive=False, lines=2)
        result = gradio.File(label="Download", elem_id="result", interactive=False)
        slider = gradio.ImageSlider(
            label="Before and after",
            elem_id="slider",
            interactive=False,
            type="filepath",
            buttons=["fullscreen"],
            max_height=900,
        )

        async def uploaded(path: str) -> str:
            """Replaces Gradio's function, which also downloads from addresses."""
            if not folder.holds(Path(path)):
                raise gradio.Error("the photo was not uploaded to this page", print_exception=False)
            return path

        upload.async_move_resource_to_block_cache = uploaded
        # One at a time, because each takes all memory and cores.
        upload.upload(restore, upload, [slider, result, line], api_name="restore", concurrency_limit=1)
        upload.clear(lambda: (None, None, ""), None, [slider, result, line], api_visibility="private", queue=False)
    return page


def mount(gradio: Any, page: Any, max_bytes: int) -> Any:
    """The page as an ASGI application."""
    from fastapi import FastAPI

    page.has_launched = True  # otherwise Gradio assumes that it is in preparation and reads any requested file
    names = "run_history", "ssr_mode", "pwa", "mcp_server", "enable_monitoring", "show_error"
    features = dict.fromkeys(names, False)
    server = FastAPI(openapi_url=None)
    return gradio.mount_gradio_app(server, page, "/", footer_links=[], max_file_size=max_bytes, **features)
