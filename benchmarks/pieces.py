"""Splits a file into compressed pieces of a limited size, and joins them again bit by bit.

    python benchmarks/pieces.py split FILE FOLDER [--mib 16]
    python benchmarks/pieces.py join FOLDER FILE

Meant for checkpoints, which are mostly float32 numbers: the bytes of equal rank are compressed together, because the
exponents of weights are alike and their other bits are not. Every piece names the file, its SHA-256 and the number of
pieces, so that a folder which was copied while the pieces were replaced still gives the newest complete file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MIB = 2**20
PIECE_MIB = 16.0
SUFFIX = ".piece"
_WORD = 4  # bytes of a float32
_HEADER_BYTES = 512


class PieceError(Exception):
    """Pieces that cannot be written or joined; the message says what to do."""


def compressed(data: bytes) -> bytes:
    """The bytes without loss: those of equal rank in words of 4 bytes together, each rank stored or Huffman-coded."""
    whole = len(data) // _WORD * _WORD
    ranks = np.frombuffer(data[:whole], np.uint8).reshape(-1, _WORD)
    parts = [np.ascontiguousarray(ranks[:, i]).tobytes() for i in range(_WORD)] + [data[whole:]]
    out = []
    for part in parts:
        coder = zlib.compressobj(6, strategy=zlib.Z_HUFFMAN_ONLY)  # random bits: repeats are not worth a search
        deflated = coder.compress(part) + coder.flush()
        is_smaller = len(deflated) < len(part)
        out += [bytes([is_smaller]), (len(deflated) if is_smaller else len(part)).to_bytes(8, "little")]
        out.append(deflated if is_smaller else part)
    return b"".join(out)


def decompressed(data: bytes) -> bytes:
    """The inverse of `compressed`.

    Raises
    ------
    PieceError
        If the bytes are not those of `compressed`.
    """
    parts, position = [], 0
    try:
        for _ in range(_WORD + 1):
            length = int.from_bytes(data[position + 1 : position + 9], "little")
            part = data[position + 9 : position + 9 + length]
            parts.append(zlib.decompress(part) if data[position] else part)
            position += 9 + length
        ranks = np.stack([np.frombuffer(part, np.uint8) for part in parts[:_WORD]], axis=1)
    except (IndexError, ValueError, zlib.error) as error:
        raise PieceError(f"the compressed file is damaged ({error}); copy it again") from error
    return ranks.tobytes() + parts[_WORD]


@dataclass(frozen=True)
class Piece:
    """A piece on disk: the file that it belongs to (``name``, ``sha256``), its number from 1, and when it was made."""

    path: Path
    name: str
    sha256: str
    number: int
    count: int
    made: float

    def content(self) -> bytes:
        """The bytes after the header."""
        return self.path.read_bytes()[_HEADER_BYTES:]


def write_pieces(path: Path, folder: Path, mib: float = PIECE_MIB) -> list[Path]:
    """Write a file as pieces of at most ``mib`` MiB, ``NAME-HASH.1of3.piece``, then remove older pieces of the file.

    The folder always contains all pieces of one version, as the older ones are removed last.

    Raises
    ------
    PieceError
        If ``mib`` is too small.
    """
    size = int(mib * MIB) - _HEADER_BYTES
    if size < 1:
        raise PieceError(f"pieces of {mib} MiB are too small; give a larger number")
    data, made = path.read_bytes(), time.time()
    sha256, packed = hashlib.sha256(data).hexdigest(), compressed(data)
    count = -(-len(packed) // size)
    earlier = [piece.path for piece in pieces_of(folder) if piece.name == path.name]
    written = []
    for number in range(1, count + 1):
        fields = {"name": path.name, "sha256": sha256, "number": number, "count": count, "made": made}
        header = json.dumps(fields).encode().ljust(_HEADER_BYTES - 1) + b"\n"
        target = folder / f"{path.name}-{sha256[:8]}.{number}of{count}{SUFFIX}"
        partial = target.with_suffix(".part")
        partial.write_bytes(header + packed[(number - 1) * size : number * size])
        written.append((partial, target))
    for partial, target in written:
        partial.replace(target)
    targets = [target for _, target in written]
    for old in earlier:
        if old not in targets:
            old.unlink()
    return targets


def pieces_of(folder: Path) -> list[Piece]:
    """The pieces in a folder; other files are left out.

    Raises
    ------
    PieceError
        If a piece has no header.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with path.open("rb") as file:
                found.append(Piece(path, **json.loads(file.read(_HEADER_BYTES))))
        except (ValueError, TypeError) as error:
            raise PieceError(f"{path} is not a piece of a file, or damaged; copy it again") from error
    return found


def joined(folder: Path) -> tuple[str, bytes]:
    """Name and content of the newest file of which a folder contains all pieces.

    Raises
    ------
    PieceError
        If pieces are missing, or the content does not have its SHA-256.
    """
    files: dict[tuple[float, str], dict[int, Piece]] = defaultdict(dict)
    for piece in pieces_of(folder):
        files[piece.made, piece.sha256][piece.number] = piece
    missing = []
    for _, pieces in sorted(files.items(), reverse=True):
        first = next(iter(pieces.values()))
        absent = sorted(set(range(1, first.count + 1)) - set(pieces))
        if absent:
            missing.append(f"piece {', '.join(map(str, absent))} of {first.count} of {first.name}")
            continue
        data = decompressed(b"".join(pieces[number].content() for number in sorted(pieces)))
        if hashlib.sha256(data).hexdigest() != first.sha256:
            raise PieceError(f"{first.name} in {folder} does not have its SHA-256; copy its pieces again")
        return first.name, data
    found = "; missing: " + "; ".join(missing) if missing else f", no *{SUFFIX} there"
    raise PieceError(f"{folder} contains no complete file in pieces{found}; copy the folder again")


def join(folder: Path, path: Path) -> None:
    """Join the newest complete file of a folder, under a temporary name until it is written; see `joined`."""
    _, data = joined(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(path)


def main() -> None:
    """Split or join, and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands: Any = parser.add_subparsers(dest="command", required=True)
    split_command = commands.add_parser("split", help="write FILE to FOLDER in pieces")
    split_command.add_argument("file", type=Path)
    split_command.add_argument("folder", type=Path)
    split_command.add_argument("--mib", type=float, default=PIECE_MIB, help="largest size of a piece")
    join_command = commands.add_parser("join", help="write FILE from its pieces in FOLDER")
    join_command.add_argument("folder", type=Path)
    join_command.add_argument("file", type=Path)
    options = parser.parse_args()
    try:
        if options.command == "split":
            options.folder.mkdir(parents=True, exist_ok=True)
            written = write_pieces(options.file, options.folder, options.mib)
            sizes = ", ".join(f"{path.name} {path.stat().st_size / MIB:.1f} MiB" for path in written)
            print(f"{options.file}, {options.file.stat().st_size / MIB:.1f} MiB: {sizes}")
        else:
            join(options.folder, options.file)
            print(f"{options.file}: {options.file.stat().st_size / MIB:.1f} MiB, SHA-256 as before")
    except (OSError, PieceError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
