"""The initial offers and templates of the fake. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple


class Template(NamedTuple):
    """A template on offer; an option is its name, default and possible values."""

    name: str
    description: str
    category: str
    options: tuple[tuple[str, str, str], ...] = ()


@dataclass(slots=True)
class FakeBlib:
    """An offer of the fake. Change its price or availability at any time: `fake.blibs[2].is_available = False`.

    Attributes:
        id: the offer's id.
        name: the configuration's name.
        gpu_type: the GPU model.
        gpu_num: how many GPUs.
        gpu_ram: GPU memory in GB.
        cpu_cores: how many CPU cores.
        cpu_ram: main memory in GB.
        hdd: disk space in GB.
        price_h: EUR per hour. An order at another price is refused.
        is_public: whether it is in `GET /api/blibs` without a key.
        is_available: whether it can be ordered.
        country_code: where it is.
    """

    id: int
    name: str
    gpu_type: str
    gpu_num: int
    gpu_ram: int
    cpu_cores: int
    cpu_ram: int
    hdd: int
    price_h: Decimal
    is_public: bool = True
    is_available: bool = True
    country_code: str = "DE"


def blibs() -> dict[int, FakeBlib]:
    """New objects for each world, since tests may change them. The first two have the prices of the document's
    samples.
    """
    offers = (
        FakeBlib(1, "RTX 4090 Single", "RTX 4090", 1, 24, 8, 32, 500, Decimal("0.85")),
        FakeBlib(2, "RTX 4090 Dual", "RTX 4090", 2, 24, 16, 64, 1000, Decimal("1.65")),
        FakeBlib(3, "V100 Single", "V100", 1, 16, 6, 24, 250, Decimal("0.195")),
        FakeBlib(4, "A100 Single", "A100", 1, 40, 12, 96, 1000, Decimal("1.42"), is_available=False),
        FakeBlib(5, "RTX 4090 Quad Private", "RTX 4090", 4, 24, 32, 128, 2000, Decimal("3.3"), is_public=False),
    )
    return {blib.id: blib for blib in offers}


TEMPLATES = (
    Template(
        "PyTorch Environment",
        "Pre-configured PyTorch environment with CUDA support",
        "Machine Learning",
        (("Python Version", "3.9", "3.8,3.9,3.10"),),
    ),
    Template("ComfyUI", "Node-based image generation", "Image Generation"),
    Template("Jupyter Lab", "Notebooks in the browser", "Development"),
)
