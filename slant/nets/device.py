"""Chooses the device and the precision of the networks."""

from __future__ import annotations

import torch

from slant.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """The device with this name; ``auto`` selects CUDA, then MPS, then the CPU.

    Raises
    ------
    DeviceError
        If the device is unknown or not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} was asked for, but {torch.cuda.device_count()} CUDA devices are visible; "
            "use --device cpu, or install a CUDA build of torch and a driver"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' was asked for, but it is not available here; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda, cuda:N or mps")
    return device


def has_fast_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16; without them it is hundreds of times slower than float32."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def inference_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Data type of the networks for inference; on a GPU, where autocast chooses half precision, always float32.

    Raises
    ------
    DeviceError
        If bfloat16 was asked for and the CPU has no instructions for it.
    """
    if precision == "float32" or device.type != "cpu":
        return torch.float32
    if not has_fast_bfloat16():
        raise DeviceError(
            "the precision bfloat16 was asked for, but this CPU has neither AVX512-BF16 nor AMX, without which it "
            "takes hours; use --precision float32"
        )
    return torch.bfloat16
