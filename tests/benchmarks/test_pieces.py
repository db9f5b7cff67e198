"""Pieces join to the same bytes, and damaged or missing ones are errors."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest

KIB = 1 / 1024  # of a MiB


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """The module, which is not part of the package."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    with patch.object(sys, "path", [str(folder), *sys.path]):
        return importlib.import_module("pieces")


def weights(seed: int = 0, count: int = 5000) -> bytes:
    """Bytes of float32 numbers, and some more."""
    return np.random.default_rng(seed).normal(0, 0.1, count).astype(np.float32).tobytes() + b"end"


@pytest.mark.parametrize("data", [b"", b"ab", b"abcd", bytes(1000), weights()], ids=["0", "2", "4", "zeros", "weights"])
def test_compression_is_exact(module: ModuleType, data: bytes) -> None:
    assert module.decompressed(module.compressed(data)) == data


def test_weights_and_zeros_become_smaller(module: ModuleType) -> None:
    assert len(module.compressed(weights())) < 0.9 * len(weights())
    assert len(module.compressed(bytes(8000))) < 0.2 * 8000


def test_pieces_join_to_the_same_file(module: ModuleType, tmp_path: Path) -> None:
    path, out = tmp_path / "whole.pt", tmp_path / "out"
    path.write_bytes(weights())
    out.mkdir()

    written = module.write_pieces(path, out, 8 * KIB)

    assert len(written) == 3
    assert sorted(out.iterdir()) == written
    assert max(piece.stat().st_size for piece in written) <= 8 * 1024
    module.join(out, tmp_path / "joined.pt")
    assert (tmp_path / "joined.pt").read_bytes() == path.read_bytes()


def test_new_pieces_replace_those_of_the_same_file(module: ModuleType, tmp_path: Path) -> None:
    path, other, out = tmp_path / "whole.pt", tmp_path / "model.tar", tmp_path / "out"
    path.write_bytes(weights(0))
    other.write_bytes(b"another file")
    out.mkdir()
    kept, old = module.write_pieces(other, out), module.write_pieces(path, out, 8 * KIB)
    path.write_bytes(weights(1))

    new = module.write_pieces(path, out, 8 * KIB)

    assert not set(old) & set(new)
    assert sorted(out.iterdir()) == sorted([*kept, *new])
    assert module.joined(out) == ("whole.pt", weights(1))


def test_the_newest_complete_file_is_joined(module: ModuleType, tmp_path: Path) -> None:
    path, out, both = tmp_path / "whole.pt", tmp_path / "out", tmp_path / "both"
    out.mkdir()
    both.mkdir()
    for seed in (0, 1):
        path.write_bytes(weights(seed))
        for piece in module.write_pieces(path, out, 8 * KIB):
            (both / piece.name).write_bytes(piece.read_bytes())
    assert module.joined(both)[1] == weights(1)

    next(both.glob(f"{next(out.iterdir()).name.partition('.1of')[0]}*")).unlink()

    assert module.joined(both)[1] == weights(0)


def test_missing_and_damaged_pieces_are_errors(module: ModuleType, tmp_path: Path) -> None:
    path, out = tmp_path / "whole.pt", tmp_path / "out"
    path.write_bytes(weights())
    out.mkdir()
    with pytest.raises(module.PieceError, match="contains no complete file"):
        module.joined(out)
    first, second, _ = module.write_pieces(path, out, 8 * KIB)
    content = bytearray(second.read_bytes())
    content[-100] ^= 1
    second.write_bytes(content)
    with pytest.raises(module.PieceError, match=r"damaged|SHA-256"):
        module.joined(out)
    second.unlink()
    with pytest.raises(module.PieceError, match=r"missing: piece 2 of 3 of whole\.pt"):
        module.joined(out)
    first.write_bytes(b"something else")
    with pytest.raises(module.PieceError, match="is not a piece"):
        module.joined(out)
    with pytest.raises(module.PieceError, match="too small"):
        module.write_pieces(path, out, 0.0001)
