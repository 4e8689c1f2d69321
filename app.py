"""Deblur photos and short videos on a web page of this machine, which sends them nowhere else.

    python app.py --model FILE          # then open http://127.0.0.1:7860

Photos are restored one at a time, to the same file as with `deblur.py`. Uploads and results are deleted after
--keep_seconds, and when the page is stopped. Needs Gradio, and PyAV for videos: bash scripts/setup.sh --app --video
"""

import argparse
import re
import time

from src.command_line import ArgumentParser, shown
from src.errors import UserError, run_main
from src.interrupts import Interrupts, interrupt_main
from src.photos.options import add_options, check_overlap, choose_model, engine_for, open_engine
from src.photos.run import Restorer
from src.web.folder import WebFolder, duration
from src.web.page import build_page, import_gradio, mount
from src.web.server import Gate, HostNames, open_socket, serving

KEEP = 3600  # seconds that uploads and results can be fetched


def make_parser() -> ArgumentParser:
    parser = ArgumentParser("A web page that deblurs photos on this machine.")
    add_options(parser)

    def add(name: str, help: str, **kwargs) -> None:
        parser.add_argument(name, group="server", help=help, **kwargs)

    size, total = "largest upload in MB of 2**20 bytes [100]", "largest sum of all uploads and results in MB [2000]"
    add("--max_megabytes", size, type=int, low=1, high=100_000, default=100, metavar="N")
    add("--max_total_megabytes", total, type=int, low=1, high=100_000_000, default=2000, metavar="N")
    length, frame = "longest video in seconds [20]", "largest frame of a video in pixels [2100000: 1080p]"
    add("--max_video_seconds", length, type=int, low=1, high=10**6, default=20, metavar="N")
    add("--max_video_pixels", frame, type=int, low=1, high=10**10, default=2_100_000, metavar="N")
    lifetime = f"lifetime of uploads and results [{KEEP}]"
    add("--keep_seconds", lifetime, type=int, low=1, high=10**8, default=KEEP, metavar="N")
    address = "address to serve; 0.0.0.0 opens the page to the whole network [127.0.0.1]"
    add("--host", address, type=host_name, default="127.0.0.1")
    add("--port", "port of the page [7860]", type=int, low=1, high=65535, default=7860, metavar="N")
    names = "further names of this page, behind a reverse proxy or in the local network; all others are refused"
    add("--allowed_host", names, nargs="+", default=[], metavar="NAME")
    return parser


def host_name(text: str) -> str:
    """An address or a name. Raises an ArgumentTypeError for what no resolver takes."""
    if not re.fullmatch(r"[0-9A-Za-z:_-]{1,63}(\.[0-9A-Za-z_-]{1,63}){,30}", text):
        raise argparse.ArgumentTypeError(f"got {shown(text)}, expected an address or a name of this machine")
    return text


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    check_overlap(args)
    total, largest = args.max_total_megabytes, args.max_megabytes
    if total < largest:
        raise UserError(f"--max_total_megabytes: got {total}, expected {largest} or more, as --max_megabytes allows")
    names = HostNames(args.host, args.allowed_host)
    model, why = choose_model(args.ckpt_file)
    choice = engine_for(model, args)
    print(f"engine: {choice}\nmodel: {model}{why}", flush=True)
    with (
        Interrupts(interrupt_main) as interrupts,
        open_socket(args.host, args.port) as bound,
        WebFolder(args.keep_seconds, total * 2**20) as folder,
    ):
        gradio = import_gradio()
        engine = open_engine(model, args, choice)
        print(f"network: {engine.description}", flush=True)
        restorer = Restorer(engine, args.tile, args.tile_overlap, args.self_ensemble)
        page = mount(gradio, build_page(gradio, args, restorer, folder), largest * 2**20)
        with serving(Gate(page, names, folder, largest * 2**20), bound) as server:
            print(
                f"uploads and results: deleted {duration(args.keep_seconds)} after their last change, within "
                f"{duration(folder.interval)} more, and at the end; at most {total} MB together"
            )
            print(f"page: http://{shown_host(args.host)}:{args.port} (Ctrl-C ends it)", flush=True)
            while server.is_alive():
                if interrupts.received:  # a library, as in some `__del__`, swallowed the KeyboardInterrupt
                    raise KeyboardInterrupt
                time.sleep(0.5)  # short, because `interrupt_main` does not interrupt it
    raise UserError("the server of the page has ended; its reason stands above")


def shown_host(host: str) -> str:
    """The host of an address, with brackets around IPv6."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


if __name__ == "__main__":
    run_main(main)
