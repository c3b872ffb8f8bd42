"""Machine types: what they have, what they cost. Few, dated, each figure with its source; a plan takes the user's own figures where they are given.

Prices are list prices on demand, in dollars an hour for the whole machine, as two public collections of price pages gave them; look before you buy.
Peaks are the makers' figures for dense bf16 and TF32 products (TF32 is what fp32 could use; this project does not switch it on, so fp32 has a line of its own).
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """An accelerator: memory in bytes as torch sees it, peak FLOP/s of dense products by precision, and where that stands."""

    name: str
    memory: int
    bf16: float
    fp32: float
    source: str


@dataclass(frozen=True)
class Machine:
    """A machine type. ``host``: bytes of its memory; ``price``: dollars an hour on ``priced``, from ``source``."""

    name: str
    gpu: Gpu
    gpus: int
    host: int
    price: float
    priced: str
    source: str


A100_40 = Gpu("A100 40 GB", round(39.4 * GIB), 312e12, 19.5e12, "NVIDIA A100 data sheet, 2021-06")
A100_80 = Gpu("A100 80 GB", round(79.2 * GIB), 312e12, 19.5e12, "NVIDIA A100 data sheet, 2021-06")
H100 = Gpu("H100 SXM 80 GB", round(79.1 * GIB), 989e12, 67e12, "NVIDIA H100 data sheet, 2023-04 (half of the figure with sparsity)")
H200 = Gpu("H200 SXM 141 GB", round(139.7 * GIB), 989e12, 67e12, "NVIDIA H200 data sheet, 2023-11 (half of the figure with sparsity)")
_HYPERSCALERS = "us-east-1 and eastus by github.com/datareceipts/data-receipts, 109-gpu-pricing/hyperscalers.json"
_LAMBDA = "lambda.ai/instances by github.com/api-evangelist/lambda-labs"
MACHINES = (
    Machine("p4d.24xlarge", A100_40, 8, 1152 * GIB, 21.96, "2026-11-09", _HYPERSCALERS),
    Machine("p4de.24xlarge", A100_80, 8, 1152 * GIB, 27.45, "2026-11-09", _HYPERSCALERS),
    Machine("p5.48xlarge", H100, 8, 2048 * GIB, 55.04, "2026-11-09", _HYPERSCALERS),
    Machine("p5en.48xlarge", H200, 8, 2048 * GIB, 63.30, "2026-08-06", "us-east-1 by github.com/dstackai/dstack/pull/4110"),
    Machine("Standard_NC24ads_A100_v4", A100_80, 1, 220 * GIB, 3.67, "2026-11-09", _HYPERSCALERS),
    Machine("lambda 8x A100 80 GB", A100_80, 8, 1800 * GIB, 22.32, "2026-09-20", _LAMBDA),
    Machine("lambda 8x H100", H100, 8, 1800 * GIB, 31.92, "2026-09-20", _LAMBDA),
)
UTILISATION = 0.35
"""Share of the peak that a plan assumes where nothing was measured: below the 0.46 that MPT-7B reached on H100s (llm-foundry, full fine-tuning)."""
