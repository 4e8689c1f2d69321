"""Deblur photos on a web page, without sending them anywhere: it runs on this machine, for this machine alone.

    python app.py --model FILE          # then open http://127.0.0.1:7860

One photo at a time is restored, others wait; the result is the file that `deblur.py` writes. Uploads and results are
deleted after --keep_seconds, and when the page is stopped. Needs Gradio: bash scripts/setup.sh --app
"""

import argparse
import dataclasses
import os
import re
import time
from pathlib import Path
from typing import Any

from src.config import ArgumentParser, shown
from src.errors import UserError, run_main
from src.interrupts import Interrupts, interrupt_main
from src.photos.options import add_options, check_overlap, choose_model, open_engine
from src.photos.run import Restorer
from src.web.folder import WebFolder, duration
from src.web.server import Gate, HostNames, open_socket, serving
from src.web.uploads import restore_upload

KEEP = 3600  # seconds that uploads and results can be fetched


def make_parser() -> ArgumentParser:
    parser = ArgumentParser("A web page that deblurs photos on this machine.")
    add = parser.add_argument
    add_options(parser)
    size, total = "larger files are refused (2**20 bytes) [100]", "of all uploads and results; more are refused [2000]"
    add("--max_megabytes", type=int, low=1, high=100_000, default=100, metavar="N", help=size)
    add("--max_total_megabytes", type=int, low=1, high=100_000_000, default=2000, metavar="N", help=total)
    lifetime = f"lifetime of uploads and results [{KEEP}]"
    add("--keep_seconds", type=int, low=1, high=10**8, default=KEEP, metavar="N", help=lifetime)
    address = "address to serve; 0.0.0.0 lets in the whole network [127.0.0.1]"
    add("--host", type=host_name, default="127.0.0.1", help=address)
    add("--port", type=int, low=1, high=65535, default=7860, metavar="N", help="[7860]")
    allowed = "names of this page behind a reverse proxy or in the local network; others are refused"
    add("--allowed_host", nargs="+", default=[], metavar="NAME", help=allowed)
    return parser


def host_name(text: str) -> str:
    """Raises an ArgumentTypeError for what no resolver takes."""
    if not re.fullmatch(r"[0-9A-Za-z:_-]{1,63}(\.[0-9A-Za-z_-]{1,63}){,30}", text):
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected an address or a name of this machine")
    return text


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    check_overlap(args)
    if args.max_total_megabytes < args.max_megabytes:
        raise UserError(
            f"--max_total_megabytes: got {args.max_total_megabytes}, expected {args.max_megabytes} or more, the "
            "--max_megabytes of a file"
        )
    names = HostNames(args.host, args.allowed_host)
    model, why = choose_model(args.model)
    print(f"model: {model}{why}", flush=True)
    limit = args.max_total_megabytes * 2**20
    with (
        Interrupts(interrupt_main) as interrupts,
        open_socket(args.host, args.port) as bound,
        WebFolder(args.keep_seconds, limit) as folder,
    ):
        gradio = import_gradio()
        engine = open_engine(model, args)
        print(f"engine: {engine.description}", flush=True)
        restorer = Restorer(engine, args.tile, args.tile_overlap, args.self_ensemble)
        page = mount(gradio, build_page(gradio, args, restorer, folder), args.max_megabytes * 2**20)
        with serving(Gate(page, names, folder, args.max_megabytes * 2**20), bound) as server:
            print(
                f"uploads and results: deleted {duration(args.keep_seconds)} after their last change, within "
                f"{duration(folder.interval)} more, and at the end; at most {args.max_total_megabytes} MB together"
            )
            print(f"page: http://{shown_host(args.host)}:{args.port} (Ctrl-C ends it)", flush=True)
            while server.is_alive():
                if interrupts.received:  # and its KeyboardInterrupt was lost in a library, as in some `__del__`
                    raise KeyboardInterrupt
                time.sleep(0.5)  # `interrupt_main` wakes no longer wait
    raise UserError("the server of the page has ended; its reason stands above")


def shown_host(host: str) -> str:
    """As addresses have it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def import_gradio() -> Any:
    """The module, set up to call nobody."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as e:
        raise UserError(f"the page needs {e.name}, which is not installed: bash scripts/setup.sh --app") from e
    return gradio


def build_page(gradio: Any, args: Any, restorer: Restorer, folder: WebFolder) -> Any:
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
        # The file with the name that the user gave it, of which Gradio's own drops some characters.
        upload.preprocess = lambda payload: payload and (Path(payload.path), payload.orig_name or "")
        line = gradio.Textbox(label="Result", elem_id="line", interactive=False, lines=2)
        result = gradio.File(label="Download", elem_id="result", interactive=False)
        slider = gradio.ImageSlider(label="Before and after", elem_id="slider", interactive=False, type="filepath",
                                    buttons=["fullscreen"], max_height=900)  # fmt: skip

        async def uploaded(path: str) -> str:
            """In the place of Gradio's own, which fetches addresses, too."""
            if not folder.holds(Path(path)):
                raise gradio.Error("the photo was not uploaded to this page", print_exception=False)
            return path

        upload.async_move_resource_to_block_cache = uploaded
        # One at a time, whoever asks: each takes the memory and the cores that there are.
        upload.upload(restore, upload, [slider, result, line], api_name="restore", concurrency_limit=1)
        upload.clear(lambda: (None, None, ""), None, [slider, result, line], api_visibility="private", queue=False)
    return page


def mount(gradio: Any, page: Any, max_bytes: int) -> Any:
    """The page as an ASGI application."""
    from fastapi import FastAPI

    page.has_launched = True  # else Gradio takes itself to be in preparation and reads any file it is asked to
    return gradio.mount_gradio_app(
        FastAPI(openapi_url=None), page, "/", footer_links=[], run_history=False, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, show_error=False, max_file_size=max_bytes,
    )  # fmt: skip


if __name__ == "__main__":
    run_main(main)
