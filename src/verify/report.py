"""Verifies a dataset: a dry run that only reads.

    python src/preprocessing.py --verify --root_src GOPRO_Large
    python src/preprocessing.py --verify --root_dst dataset --report_file report.json
    python src/preprocessing.py --verify --root_src GOPRO_Large --root_dst dataset

`walk` lists a folder in either layout and decodes every file once; `checks` turns the collected data into `findings`.
An error certainly spoils training or scores; a warning needs human judgement. The command exits with status 1 after an
error, else with 0. With both folders, the pictures of the source are decoded, and the files of the arranged dataset are
compared with them byte by byte.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from src.data.pairs import SPLITS
from src.errors import first_few, need_json_name, need_writable_folder
from src.files import in_threads, need_apart, write_whole
from src.verify import checks
from src.verify.findings import Finding, count_of, size_of
from src.verify.walk import Look, by_half, items_of, look_at, need_layout, scan


@dataclass(frozen=True)
class Report:
    findings: list[Finding]
    summary: dict[str, dict[str, Any]]
    """Half -> number of pairs and sequences, sizes, PSNR of the blurred input."""


def verify(root_src: Path | None, root_dst: Path | None, progress: bool = True) -> Report:
    """Verify GOPRO_Large, an arranged dataset, or both and their correspondence.

    Raises:
        UserError: a folder is missing or has the other layout.
    """
    findings, items = [], []
    for root, option in ((root_src, "--root_src"), (root_dst, "--root_dst")):
        if root:
            need_layout(root, option)
    if root_src:
        places, found = scan(root_src, arranged=False)
        findings += found + checks.check_folders(places) + checks.check_partners(places)
        items = items_of(places)
    if root_dst:
        places, found = scan(root_dst, arranged=True)
        rows, found_in_manifest = checks.read_rows(root_dst)
        missing = checks.missing_files(root_dst, rows)
        findings += found + checks.check_folders(places) + checks.check_partners(places, missing) + found_in_manifest
        findings += checks.check_manifest(root_dst, rows, places, missing)
        if not root_src:
            gone = set(missing)  # broken links among them would also be unreadable
            items = [item for item in items_of(places, rows) if not {item.blur, item.sharp} & gone]
        elif not found_in_manifest:
            findings += checks.check_origin(root_src, root_dst, rows, items)
            findings += checks.check_copies(root_src, root_dst, rows, progress)
    findings += checks.check_counts(items) + checks.check_sequence_names(items)
    looks = in_threads(look_at, items, "pair", progress)
    for check in checks.PICTURE_CHECKS:
        findings += check(looks)
    findings.sort(key=lambda found: found.severity != "error")
    return Report(findings, {str(half): summarize(group) for half, group in by_half(looks)})


def summarize(looks: Sequence[Look]) -> dict[str, Any]:
    """Summary of one half. PSNR is the mean over the pairs of different images, dB, None without any."""
    psnr = [10 * math.log10(255**2 / look.mse) for look in looks if look.mse]
    return {
        "pairs": len(looks),
        "sequences": len({look.item.sequence for look in looks} - {""}),
        "sizes": dict(Counter(size_of(look.sizes[1]) for look in looks if look.sizes).most_common()),
        "psnr_input": sum(psnr) / len(psnr) if psnr else None,
    }


# ---- output


def run(root_src: Path | None, root_dst: Path | None, report_file: Path | None = None, progress: bool = True) -> int:
    """Print the result of `verify` and write it to a JSON file. Returns the exit status: 1 after an error, else 0.

    Raises:
        UserError: as `verify`, or the report cannot be written, which is checked before the pictures are read.
    """
    if report_file:
        need_json_name(report_file, "--report_file")
        splits = [root / split for root in (root_src, root_dst) if root for split in SPLITS]
        need_apart(splits, files=[("--report_file", report_file)])
        need_writable_folder(report_file.parent, "--report_file")
    report = verify(root_src, root_dst, progress)
    for half, facts in report.summary.items():
        print(f"{half}: {_describe(facts)}")
    if root_src and root_dst:
        print(f"{root_dst}: compared with {root_src}, byte by byte")
    for found in report.findings:
        print(found)
    found_of = {severity: [f for f in report.findings if f.severity == severity] for severity in ("error", "warning")}
    print(", ".join(count_of(group, kind) for kind, group in found_of.items() if group) or "nothing wrong was found")
    if report_file:
        content = {
            "root_src": str(root_src or ""),
            "root_dst": str(root_dst or ""),
            "errors": len(found_of["error"]),
            "warnings": len(found_of["warning"]),
        } | asdict(report)
        write_whole(report_file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print(f"report: {report_file}")
    return 1 if found_of["error"] else 0


def _describe(facts: dict[str, Any]) -> str:
    parts = [f"{facts['pairs']} pairs" + (f" of {facts['sequences']} sequences" if facts["sequences"] else "")]
    sizes = [f"{n} of {size}" for size, n in facts["sizes"].items()]
    parts.append(next(iter(facts["sizes"])) if len(sizes) == 1 else first_few(sizes) or "no size")
    if facts["psnr_input"] is not None:
        parts.append(f"blurred input {facts['psnr_input']:.2f} dB")
    return ", ".join(parts)
