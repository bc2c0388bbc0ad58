"""From the stored values of a grey DICOM image to the 8 bits that are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from transferjax._validate import fail, reason
from transferjax.data._formats import Options, to_bytes

if TYPE_CHECKING:
    from pydicom import Dataset


def facts_of_frame(dataset: Dataset, frame: int) -> Dataset:
    """Returns what is needed to show one frame; enhanced files have part of it in lists of their frames."""
    facts = dataset.group_dataset(0x0028)
    facts.file_meta = dataset.file_meta
    groups = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    groups += list(dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in list(group.get(name) or [])[:1]:
                facts.update(item)
    if "BitsStored" not in facts:  # floats have no such thing
        facts.BitsStored, facts.PixelRepresentation = 32, 1
    return facts


def shown(
    path: str, values: np.ndarray, facts: Dataset, options: Options, range_of_file: Callable[[], np.ndarray]
) -> np.ndarray:
    """Returns grey values as uint8 [h, w], see `transferjax.data.dicom.read_frame`; MONOCHROME1 is not inverted yet.

    Args:
      path: what messages call the file.
      values: as they are stored, [h, w].
      facts: of the frame.
      options: a window takes the place of the file's.
      range_of_file: gives the smallest and the biggest value of all frames, as `value_range` does of one. It is called
        only where these become 0 and 255.
    """
    from pydicom.pixels import apply_modality_lut, apply_windowing

    rescaled = apply_modality_lut(values, facts)
    if options.bounds is not None:
        return to_bytes(rescaled, *options.bounds)
    if _given(facts, "VOILUTSequence"):
        return _looked_up(rescaled, facts)
    if _given(facts, "WindowCenter") and _given(facts, "WindowWidth"):
        try:
            low, high = apply_windowing(np.array([-np.inf, np.inf]), facts)
            return to_bytes(apply_windowing(rescaled, facts), low, high)
        except ValueError as error:
            raise fail(path, f"its window cannot be used ({reason(error)})", "Give a window: centre, width.") from error
    if facts.BitsStored <= 8 and not _given(facts, "ModalityLUTSequence"):
        lowest = -(2 ** (facts.BitsStored - 1)) if facts.PixelRepresentation else 0
        ends = apply_modality_lut(np.array([lowest, lowest + 2**facts.BitsStored - 1]), facts)
        return to_bytes(rescaled, ends.min(), ends.max())
    return to_bytes(rescaled, *range_of_file())


def value_range(values: np.ndarray, facts: Dataset) -> np.ndarray:
    """Returns the smallest and the biggest finite rescaled value of a frame, float64 [2], padding not counted.

    NaN if there is none, which `to_bytes` makes black.
    """
    from pydicom.pixels import apply_modality_lut

    rescaled = apply_modality_lut(values, facts)
    kept = np.isfinite(rescaled)
    if _given(facts, "PixelPaddingValue"):
        pads = [facts.PixelPaddingValue]
        if _given(facts, "PixelPaddingRangeLimit"):
            pads.append(facts.PixelPaddingRangeLimit)
        kept &= (values < min(pads)) | (values > max(pads))
    chosen = rescaled[kept]
    return np.array([chosen.min(), chosen.max()] if chosen.size else [np.nan, np.nan], np.float64)


def _given(facts: Dataset, name: str) -> bool:
    """Returns whether an attribute is there and not empty."""
    return name in facts and facts[name].VM > 0 and facts[name].value not in (None, "")


def _looked_up(rescaled: np.ndarray, facts: Dataset) -> np.ndarray:
    """Returns values through the first table of values of interest, as uint8."""
    from pydicom import Dataset
    from pydicom.pixels import apply_voi

    table = facts.VOILUTSequence[0]
    entries, first, bits = table.LUTDescriptor
    entries = entries or 2**16
    # pydicom keeps the places in the table as numbers of the table's own width: 8 bits are too few for 4096 places.
    # So it gets a table that is said to be of 16 bits; a copy, since threads share the facts.
    wide = Dataset(table)
    wide.LUTDescriptor = [entries, first, 16]
    only = Dataset()
    only.VOILUTSequence, only.file_meta = [wide], facts.file_meta
    places = np.clip(np.rint(rescaled), first, first + entries - 1).astype(np.int64)
    return to_bytes(apply_voi(places, only), 0, 2**bits - 1)
