"""What the processor computes in, and when its memory does not suffice."""

from __future__ import annotations

import torch


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 itself, by AVX512_BF16, AMX, or the extension of Arm."""
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    # Older versions of torch have no public function.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def cuda_has_bfloat16() -> bool:
    """Return whether the current GPU computes in bfloat16 itself."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether `error` says that a device's memory does not suffice; a CPU's is an ordinary RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
