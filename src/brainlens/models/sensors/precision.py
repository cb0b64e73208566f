"""Which precision trains the TSConv by default: half precision where the processor multiplies it in matrix units, else float32.

Products in bfloat16 are fast on processors with matrix units for it (AMX) and on GPUs; elsewhere they take from three quarters to
three times as long as float32, by the size of the recording and by who else works on the machine.
"""

from __future__ import annotations

import os

import torch

PRECISIONS = ("float32", "bfloat16")


def matrix_units(device: str = "cpu") -> bool:
    """Whether `device` multiplies bfloat16 in units of its own: a GPU that says so, a processor with AMX that may use it."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    limited = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()  # of the library that multiplies: AVX2 leaves AMX unused
    return (not limited or limited == "DEFAULT" or "AMX" in limited) and torch.cpu._is_amx_tile_supported()


def quick_check(device: str = "cpu") -> tuple[str, str]:
    """(precision, what is said of it) of trainings on `device`.

    It asks for instructions and times nothing: two precisions near each other in time would make the results of one command
    depend on how busy the machine was.
    """
    found = matrix_units(device)
    units = f"{device} has {'' if found else 'no '}matrix units for bfloat16"
    chosen = PRECISIONS[found]
    return chosen, f"precision {chosen}: {units}; --precision chooses another"
