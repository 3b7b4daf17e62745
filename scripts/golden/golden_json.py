"""Writes a golden JSON file: one top-level object, every innermost list on one line, floats in full.

Python's `repr` of a float is the shortest text that reads back as the same float64, so nothing is
lost. A float32 is written as the shortest text that reads back as the same float32: read such a
field as f32, or compare with a tolerance above 1e-7.
"""

import json
from pathlib import Path

import numpy
import torch


def plain(value):
    """Turns tensors, arrays and numpy scalars into lists and Python numbers."""
    if isinstance(value, torch.Tensor):
        return plain(value.detach().cpu().numpy())
    if isinstance(value, numpy.ndarray):
        return [plain(item) for item in value] if value.ndim else plain(value[()])
    if isinstance(value, numpy.float32):
        return float(str(value))
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def render(value, indent=0):
    """Renders plain data; a list of numbers or strings stays on one line."""
    pad, close = " " * (indent + 1), " " * indent
    if isinstance(value, dict) and value:
        items = (f"{pad}{json.dumps(key)}: {render(item, indent + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(items) + "\n" + close + "}"
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        return "[\n" + ",\n".join(pad + render(item, indent + 1) for item in value) + "\n" + close + "]"
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def write_json(path: Path, value) -> None:
    path.write_text(render(plain(value)) + "\n", encoding="utf-8")
