"""Deblur photos on a web page, without sending them anywhere: it runs on this machine, for this machine alone.

    python app.py --model FILE          # then open http://127.0.0.1:7860

One photo at a time is restored, others wait; the result is the file that `deblur.py` writes. Uploads and results are
deleted after an hour, and when the page is stopped. Needs Gradio: bash scripts/setup.sh --app
"""

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from src.config import ArgumentParser
from src.deblur_options import add_options, check_options, choose_model, open_engine
from src.deblur_run import Restorer
from src.errors import UserError, run_main
from src.interrupts import Interrupts, interrupt_main
from src.web import restore_upload

KEEP = 3600  # seconds that uploads and results can be fetched


def make_parser() -> ArgumentParser:
    parser = ArgumentParser("A web page that deblurs photos on this machine.")
    add = parser.add_argument
    add_options(parser)
    add("--max_megabytes", type=int, default=100, metavar="N", help="larger files are refused (2**20 bytes) [100]")
    add("--host", default="127.0.0.1", help="address to serve; 0.0.0.0 lets in the whole network [127.0.0.1]")
    add("--port", type=int, default=7860, metavar="N", help="[7860]")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    tile = check_options(args, max_megabytes=1, port=1)
    model, why = choose_model(args.model)
    print(f"model: {model}{why}", flush=True)
    with Interrupts(interrupt_main), tempfile.TemporaryDirectory(prefix="deblur_page_") as folder:
        gradio = import_gradio(folder)
        engine = open_engine(model, args)
        print(f"engine: {engine.description}", flush=True)
        restorer = Restorer(engine, tile, args.tile_overlap, args.self_ensemble)
        serve(build_page(gradio, args, restorer, folder), args)


def import_gradio(folder: str) -> Any:
    """The module, told to keep its files in `folder` and to call nobody."""
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as e:
        raise UserError(f"the page needs {e.name}, which is not installed: bash scripts/setup.sh --app") from e
    return gradio


def build_page(gradio: Any, args: Any, restorer: Restorer, folder: str) -> Any:
    """Gradio's Blocks: drop a photo, compare, download."""

    def restore(upload: tuple[Path, str] | None, progress: Any = gradio.Progress()) -> tuple:  # noqa: B008
        if upload is None:
            return None, None, "error: no photo was given"
        progress(0, "reading")
        restore_one = dataclasses.replace(
            restorer, on_tile=lambda done, count: progress((done, count), "restoring", unit="tiles")
        )
        own_folder = Path(tempfile.mkdtemp(dir=folder))
        shown = restore_upload(*upload, own_folder, restore_one, args.quality, args.max_pixels, args.debug)
        if shown.target is None:
            return None, None, shown.line
        return (str(shown.before), str(shown.after)), str(shown.target), shown.line

    with gradio.Blocks(title="Deblur a photo", analytics_enabled=False, delete_cache=(KEEP // 4, KEEP)) as page:
        gradio.Markdown(
            "# Deblur a photo\nPNG, JPEG, TIFF, WebP or BMP, up to "
            f"{args.max_megabytes} MB and {args.max_pixels / 1e6:g} megapixels. It does not leave the machine that "
            "serves this page."
        )
        upload = gradio.File(label="Photo", elem_id="photo")
        # The file with the name that the user gave it, of which Gradio's own drops some characters.
        upload.preprocess = lambda payload: payload and (Path(payload.path), payload.orig_name or "")
        line = gradio.Textbox(label="Result", elem_id="line", interactive=False, lines=2)
        result = gradio.File(label="Download", elem_id="result", interactive=False)
        slider = gradio.ImageSlider(label="Before and after", elem_id="slider", interactive=False, type="filepath",
                                    buttons=["fullscreen"], max_height=900)  # fmt: skip
        # One at a time, whoever asks: each takes the memory and the cores that there are.
        upload.upload(restore, upload, [slider, result, line], api_name="restore", concurrency_limit=1)
        upload.clear(lambda: (None, None, ""), None, [slider, result, line], api_visibility="private", queue=False)
    return page


def serve(page: Any, args: Any) -> None:
    """Until Ctrl-C."""
    try:
        page.launch(
            server_name=args.host, server_port=args.port, share=False, inbrowser=False, ssr_mode=False, pwa=False,
            mcp_server=False, run_history=False, enable_monitoring=False, footer_links=[], quiet=True,
            max_file_size=args.max_megabytes * 2**20, prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as e:
        raise UserError(f"--host {args.host} --port {args.port}: cannot be served ({e}). Give another --port.") from e
    print(f"page: http://{args.host}:{args.port} (Ctrl-C ends it)", flush=True)
    try:
        while True:  # `interrupt_main` wakes no longer wait
            time.sleep(0.5)
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    run_main(main)
