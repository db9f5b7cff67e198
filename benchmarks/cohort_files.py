"""SHA-256 of the files of a cohort, less what tells when and how fast they were made, to compare two runs by.

Byte for byte: label maps, confidence, masks, volumes, transforms, pictures, sidecars, thumbnails, descriptions.
Without these parts: records (seconds and memory of the stages, number of threads), pages (the same, and the record in
them), ``volumes.tsv`` and the dashboard (the seconds of each scan), the index (times of files; each scan's last line).
Only by name: logs, which hold times, machine and process; pages as PDF.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PARTS = __doc__.partition("\n\n")[2].strip()

_PAGE = re.compile(
    r"<div><dt>(?:Seconds|Settings)</dt>.*?</div>|<summary>The whole record</summary><pre.*?</pre>", re.S
)
_MEDIAN = re.compile(r" · median [^<]*")


def digests(out: Path) -> dict[str, str]:
    """Of every file of an output folder, by its path there; empty folders are left out."""
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(_lasting(path, out)).hexdigest() for path in paths}


def differing(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Paths that one of them lacks, or whose digests differ."""
    return sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))


def _lasting(path: Path, out: Path) -> bytes:
    name, top = path.name, path.relative_to(out).parts[0]
    if top == "logs" or path.suffix == ".pdf":
        return b""
    for ending, without in _WITHOUT.items():
        if name.endswith(ending):
            return without(path.read_text(encoding="utf-8")).encode()
    return path.read_bytes()


def _record(text: str) -> str:
    record: dict[str, Any] = json.loads(text)
    del record["stages"], record["settings"]["threads"], record["requested"]["threads"]
    return json.dumps(record)


def _table(text: str) -> str:
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    return json.dumps([{column: row[column] for column in row if column != "seconds"} for row in rows])


def _dashboard(text: str) -> str:
    data: dict[str, Any] = json.loads(text.partition("=")[2].rstrip().rstrip(";"))
    at = data["columns"].index("seconds")
    for scan in data["scans"]:
        del scan[-1][at]
    return json.dumps(data)


def _index(text: str) -> str:
    entries = {entry["id"]: entry for entry in map(json.loads, text.splitlines())}
    lasting = ("id", "scan", "name", "folder", "key", "sha256")
    return json.dumps([{field: entries[i][field] for field in lasting} for i in sorted(entries)])


_WITHOUT: dict[str, Callable[[str], str]] = {
    "_record.json": _record,
    "_report.html": lambda text: _PAGE.sub("", text),
    "group.html": lambda text: _MEDIAN.sub("", text),
    "group_data.js": _dashboard,
    "index.jsonl": _index,
    "volumes.tsv": lambda text: _table(text) if "\tseconds\t" in text.partition("\n")[0] else text,
}
