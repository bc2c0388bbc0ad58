import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.data.medical import grey, message
from transferjax._validate import InputError
from transferjax.data import dicom
from transferjax.data.reading import Options, read_header, read_image

pydicom = pytest.importorskip("pydicom")
imagecodecs = pytest.importorskip("imagecodecs")

from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder  # noqa: E402

FILES = Path(pydicom.__file__).parent / "data" / "test_files"  # these come with pydicom


def scaled(values, low, high):
    """Values as 8 bits: the definition, once more."""
    return np.rint(np.clip((np.asarray(values, np.float64) - low) * 255 / (high - low), 0, 255)).astype(np.uint8)


def example():
    """Returns pydicom's CT, whose Hounsfield units are its values − 1024."""
    return pydicom.dcmread(FILES / "CT_small.dcm")


def saved(path, dataset, array=None, **attributes):
    """Writes a data set with other attributes and other values: [h, w], or [frames, h, w]."""
    for name, value in attributes.items():
        if value is None:
            dataset.pop(name, None)
        else:
            setattr(dataset, name, value)
    if array is not None:
        dataset.Rows, dataset.Columns = array.shape[-2:]
        if array.ndim == 3:
            dataset.NumberOfFrames = len(array)
        dataset.BitsAllocated = 8 * array.dtype.itemsize
        dataset.BitsStored = attributes.get("BitsStored", dataset.BitsAllocated)
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(array.dtype.kind == "i")
        dataset.PixelData = array.tobytes()
        dataset["PixelData"].VR = "OB" if array.dtype.itemsize == 1 else "OW"
    dataset.save_as(path)
    return path


def plain(**attributes):
    """Attributes without those that change how grey values are shown."""
    names = ("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "WindowCenter", "WindowWidth")
    return {**dict.fromkeys(names), **attributes}


def test_without_a_window_the_values_span_the_range(tmp_path):
    path = FILES / "CT_small.dcm"
    stored = example().pixel_array
    assert read_header(path) == (1, 128, 128)
    np.testing.assert_array_equal(grey(path), scaled(stored, stored.min(), stored.max()))
    assert (grey(path).min(), grey(path).max()) == (0, 255)


def test_monochrome1_is_inverted(tmp_path):
    path = saved(tmp_path / "x.dcm", example(), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(grey(path), 255 - grey(FILES / "CT_small.dcm"))
    options = Options(window=(40, 400))
    np.testing.assert_array_equal(grey(path, options=options), 255 - grey(FILES / "CT_small.dcm", options=options))


def test_a_window_of_the_users_own_is_in_hounsfield_units():
    units = example().pixel_array.astype(np.int64) - 1024
    read = grey(FILES / "CT_small.dcm", options=Options(window=(40, 400)))
    np.testing.assert_array_equal(read, scaled(units, -160, 240))


def test_the_files_window():
    # PS3.3 C.11.2.1.2.1, centre 600, width 1600: at or below -200 it is black, above 1399 white
    stored = pydicom.dcmread(FILES / "MR_small.dcm").pixel_array.astype(np.float64)
    shown = ((stored - 599.5) / 1599 + 0.5) * 255
    shown = np.where(stored <= 599.5 - 1599 / 2, 0, np.where(stored > 599.5 + 1599 / 2, 255, shown))
    read = grey(FILES / "MR_small.dcm")
    np.testing.assert_array_equal(read, np.rint(shown).astype(np.uint8))
    assert len(np.unique(read)) > 150


def test_the_first_of_several_windows():
    dataset = pydicom.dcmread(FILES / "examples_overlay.dcm")
    assert (list(dataset.WindowCenter), list(dataset.WindowWidth)) == ([450, 200], [790, 443])
    shown = apply_voi_lut(dataset.pixel_array, dataset, index=0) / (2**12 - 1)
    np.testing.assert_array_equal(grey(FILES / "examples_overlay.dcm"), scaled(shown, 0, 1))


def test_windows_after_a_negative_slope(tmp_path):
    stored = np.array([[0, 100, 200, 300]], np.uint16)
    attributes = plain(RescaleSlope=-2, RescaleIntercept=500, WindowCenter=300, WindowWidth=401)  # 500 .. -100
    path = saved(tmp_path / "x.dcm", example(), stored, **attributes)
    assert grey(path)[0].tolist() == [255, 128, 0, 0]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_functions_of_windows(tmp_path, function):
    stored = np.array([[-1000, -50, 1, 21, 41, 63, 90, 1000]], np.int16)
    path = saved(
        tmp_path / "x.dcm", example(), stored, **plain(WindowCenter=40, WindowWidth=100, VOILUTFunction=function)
    )
    place = {
        "LINEAR": (stored - 39.5) / 99 + 0.5,
        "LINEAR_EXACT": (stored - 40) / 100 + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4.0 * (stored - 40) / 100)),
    }
    np.testing.assert_array_equal(grey(path), scaled(place[function], 0, 1))


def test_a_window_that_cannot_be_used(tmp_path):
    path = saved(tmp_path / "x.dcm", example(), **plain(WindowCenter=40, WindowWidth=0))
    text = message(read_image, path)
    assert "x.dcm: its window cannot be used (The (0028,1051) Window Width must be" in text
    assert text.endswith("Give a window: centre, width.")
    assert grey(path, options=Options(window=(1000, 500))).max() == 255


def test_an_empty_window_is_none(tmp_path):
    path = saved(tmp_path / "x.dcm", example(), WindowCenter="", WindowWidth="")
    np.testing.assert_array_equal(grey(path), grey(FILES / "CT_small.dcm"))


def table(first, bits, entries, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", vr, np.asarray(entries, "<u2").tobytes() if vr == "OW" else np.asarray(entries).tolist())
    return [item]


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_table_of_values_of_interest(tmp_path, bits, vr):
    entries = np.arange(1000)[::-1] % 2**bits  # more entries than 8 bits can count
    stored = np.array([[0, 10, 11, 500, 1009, 5000]], np.uint16)
    attributes = plain(RescaleSlope=1, RescaleIntercept=0, VOILUTSequence=table(10, bits, entries, vr))
    path = saved(tmp_path / "x.dcm", example(), stored, **attributes)
    np.testing.assert_array_equal(
        grey(path)[0], scaled(entries[np.clip(stored[0].astype(int) - 10, 0, 999)], 0, 2**bits - 1)
    )


def test_a_table_of_the_modality(tmp_path):
    stored = np.array([[0, 1, 2, 3]], np.uint16)
    path = saved(tmp_path / "x.dcm", example(), stored, **plain(ModalityLUTSequence=table(1, 16, [0, 50, 100])))
    assert grey(path)[0].tolist() == [0, 0, 128, 255]
    assert grey(path, options=Options(window=(50, 50)))[0].tolist() == [0, 0, 128, 255]


def test_padding_does_not_widen_the_range(tmp_path):
    stored = np.array([[-2000, -2000, 0, 10, 20]], np.int16)
    path = saved(tmp_path / "x.dcm", example(), stored, **plain(PixelPaddingValue=-2000))
    assert grey(path)[0].tolist() == [0, 0, 0, 128, 255]
    stored = np.array([[-2000, -1900, 0, 10, 20]], np.int16)
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):  # the latter tells no signs
        dataset = example()
        dataset.add_new("PixelPaddingRangeLimit", "SS", -1900)
        dataset.file_meta.TransferSyntaxUID = syntax
        saved(tmp_path / "y.dcm", dataset, stored, **plain(PixelPaddingValue=-2000))
        assert grey(tmp_path / "y.dcm")[0].tolist() == [0, 0, 0, 128, 255]
    path = saved(tmp_path / "z.dcm", example(), np.full((2, 2), -2000, np.int16), **plain(PixelPaddingValue=-2000))
    assert (grey(path) == 0).all()


def test_eight_bits_keep_their_range(tmp_path):
    stored = np.array([[10, 20, 30]], np.uint8)
    assert grey(saved(tmp_path / "x.dcm", example(), stored, **plain()))[0].tolist() == [10, 20, 30]
    assert grey(saved(tmp_path / "y.dcm", example(), stored, **plain(BitsStored=6)))[0].tolist() == [40, 81, 121]
    signed = np.array([[-128, 0, 127]], np.int8)
    assert grey(saved(tmp_path / "z.dcm", example(), signed, **plain()))[0].tolist() == [0, 128, 255]


def test_bits_above_those_stored_are_dropped(tmp_path):
    stored = np.array([[0x0000, 0x0800, 0x0FFF, 0xF400]], np.uint16)  # 12 bits are meant
    path = saved(tmp_path / "x.dcm", example(), stored, **plain(BitsStored=12))
    np.testing.assert_array_equal(grey(path)[0], scaled([0, 0x800, 0xFFF, 0x400], 0, 0xFFF))
    stored = np.array([[0x0FFF, 0, 1, 0x0800]], np.uint16)  # -1, 0, 1, -2048
    dataset = example()
    saved(path, dataset, stored, **plain(BitsStored=12))
    saved(path, dataset, PixelRepresentation=1)
    np.testing.assert_array_equal(grey(path)[0], scaled([-1, 0, 1, -2048], -2048, 1))


def test_floats(tmp_path):
    dataset = saved_without_pixels()
    dataset.add_new("FloatPixelData", "OF", np.array([[-1.5, np.nan, 0.5, np.inf]], np.float32).tobytes())
    dataset.Rows, dataset.Columns, dataset.BitsAllocated = 1, 4, 32
    dataset.save_as(tmp_path / "x.dcm")
    assert grey(tmp_path / "x.dcm")[0].tolist() == [0, 0, 255, 255]


def saved_without_pixels():
    dataset = example()
    for name in plain():
        dataset.pop(name, None)
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[name]
    return dataset


MR = ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"]


@pytest.mark.parametrize("kind", MR)
def test_transfer_syntaxes_of_one_grey_image(kind):
    np.testing.assert_array_equal(grey(FILES / f"MR_small_{kind}.dcm"), grey(FILES / "MR_small.dcm"))


COLOURS = {  # file: by how much it may differ from the ten stripes; pure green has no exact YBR
    "rle": 0, "rle_16bit": 0, "rle_32bit": 0, "jpeg_gdcm": 0, "ybr_full_422_uncompressed": 5, "gdcm_KY": 2,
    "jls_lossy_line": 3, "jls_lossy_sample": 3, "dcmtk_+eb+cr": 3, "dcmtk_+eb+cy+n1": 5, "dcmtk_+eb+cy+np": 5,
    "dcmtk_+eb+cy+s4": 5, "jpeg_dcmtk": 5, "jpeg_lossy_gdcm": 5,
}  # fmt: skip
STRIPES = [
    [255, 0, 0], [255, 128, 128], [0, 255, 0], [128, 255, 128], [0, 0, 255], [128, 128, 255],
    [0, 0, 0], [64, 64, 64], [192, 192, 192], [255, 255, 255],
]  # fmt: skip


@pytest.mark.parametrize(("kind", "tolerance"), COLOURS.items())
def test_colours_in_many_codings(kind, tolerance):
    path = next(FILES / f"SC_{kind}.dcm" for kind in (kind, f"rgb_{kind}") if (FILES / f"SC_{kind}.dcm").exists())
    image = read_image(path)
    assert image.shape == (100, 100, 3)
    np.testing.assert_allclose(image[5::10, 50].astype(int), STRIPES, atol=tolerance)


def test_palette():
    dataset = pydicom.dcmread(FILES / "examples_palette.dcm")
    stored = dataset.pixel_array
    channels = [
        np.frombuffer(dataset[f"{c}PaletteColorLookupTableData"].value, "<u2") for c in ("Red", "Green", "Blue")
    ]
    first = dataset.RedPaletteColorLookupTableDescriptor[1]
    expected = np.stack([np.rint(channel[stored - first] / 257) for channel in channels], axis=2)
    np.testing.assert_array_equal(read_image(FILES / "examples_palette.dcm"), expected)
    assert len(np.unique(expected.reshape(-1, 3), axis=0)) > 50


def test_frames():
    path = FILES / "examples_ybr_color.dcm"
    assert read_header(path) == (30, 240, 320)
    frames = [read_image(path, frame=i) for i in (0, 29)]
    assert not np.array_equal(*frames)
    assert "holds 30 images. Name the one to read: frame=0 to frame=29." in message(read_image, path)
    assert "has no frame 30, it holds 30" in message(read_image, path, frame=30)


@pytest.mark.parametrize("kind", ["rtdose", "rtdose_rle", "rtdose_expb"])
def test_frames_share_one_range(kind):
    stored = pydicom.dcmread(FILES / f"{kind}.dcm").pixel_array
    for i in (0, 7, 14):
        read = grey(FILES / f"{kind}.dcm", frame=i)
        np.testing.assert_array_equal(read, scaled(stored[i], stored.min(), stored.max()))
    assert grey(FILES / f"{kind}.dcm", frame=7).max() == 255


def test_enhanced_files_say_how_to_show_each_frame(tmp_path):
    def group(**attributes):
        item = Dataset()
        for name, values in attributes.items():
            inner = Dataset()
            inner.update(values)
            setattr(item, name, [inner])
        return item

    windows = [{"WindowCenter": 51, "WindowWidth": 101}, {"WindowCenter": 101, "WindowWidth": 201}]
    stored = np.array([[[0, 50, 100]], [[0, 50, 100]]], np.uint16)
    path = saved(
        tmp_path / "x.dcm",
        example(),
        stored,
        **plain(
            SharedFunctionalGroupsSequence=[
                group(PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": 0.5})
            ],
            PerFrameFunctionalGroupsSequence=[group(FrameVOILUTSequence=window) for window in windows],
        ),
    )
    assert grey(path, frame=0)[0].tolist() == [0, 255, 255]
    assert grey(path, frame=1)[0].tolist() == [0, 128, 255]


def test_without_preamble_suffix_or_transfer_syntax(tmp_path):
    expected = grey(FILES / "CT_small.dcm")
    whole = (FILES / "CT_small.dcm").read_bytes()
    (tmp_path / "IM000001").write_bytes(whole)
    np.testing.assert_array_equal(grey(tmp_path / "IM000001"), expected)
    assert read_header(tmp_path / "IM000001") == (1, 128, 128)
    for implicit in (False, True):
        path = tmp_path / f"bare{implicit}.dcm"
        dataset = Dataset(example())
        dataset.save_as(path, implicit_vr=implicit, little_endian=True)
        assert not dicom.has_magic(path)
        np.testing.assert_array_equal(grey(path), expected)


def test_a_deflated_file():
    path = FILES / "image_dfl.dcm"
    np.testing.assert_array_equal(grey(path), pydicom.dcmread(path).pixel_array)
    assert read_header(path) == (1, 512, 512)


def compressed(path, syntax, streams, dataset):
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg(tmp_path, bits):
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.random.default_rng(0).integers(0, 2**bits, (2, 17, 31)).astype(kind)
    dataset = example()
    expected = saved(tmp_path / "x.dcm", dataset, stored, **plain(BitsStored=bits))
    streams = [imagecodecs.jpeg8_encode(frame, lossless=True, bitspersample=bits) for frame in stored]
    path = compressed(tmp_path / "y.dcm", uid.JPEGLosslessSV1, streams, dataset)
    assert read_header(path) == (2, 17, 31)
    for frame in (0, 1):
        np.testing.assert_array_equal(grey(path, frame=frame), grey(expected, frame=frame))


def test_twelve_bit_jpeg():
    image = grey(FILES / "JPGExtended.dcm")  # a bone scan, head up
    assert image.shape == (1024, 256)
    rows = image.mean(axis=1)
    assert rows[:85].max() <= 1  # above the head
    assert rows[92:850].min() > 2
    assert np.unravel_index(image.argmax(), image.shape) == (421, 143)  # in the pelvis
    assert image.max() == 255


@pytest.mark.parametrize(
    ("call", "name", "words"),
    [
        (read_header, "test-SR.dcm", "holds no image (modality SR). Remove"),
        (read_header, "rtplan.dcm", "holds no image (modality RTPLAN). Remove"),
        (read_header, "rtstruct.dcm", "is no DICOM image. Replace"),
        (read_image, "MR_truncated.dcm", "cannot be decoded (cannot reshape array of size"),
        (
            read_image,
            "JPEG2000-embedded-sequence-delimiter.dcm",
            "the compressed image has rows, columns and samples (",
        ),
    ],
)
def test_files_without_an_image(call, name, words):
    assert f"{name}: " in message(call, FILES / name)
    assert words in message(call, FILES / name)


def test_junk(tmp_path):
    path = tmp_path / "x.dcm"
    for content in (b"x", b"no image at all", bytes(200), bytes(128) + b"DICM", np.random.default_rng(0).bytes(5000)):
        path.write_bytes(content)
        assert "x.dcm: " in message(read_header, path)


def test_claims_that_the_file_cannot_hold(tmp_path):
    path = saved(tmp_path / "x.dcm", example(), NumberOfFrames=100_000)
    assert "x.dcm: claims 100000 frames of 128 x 128 pixels, but has only 39" in message(read_header, path)
    path = saved(tmp_path / "y.dcm", example(), Rows=60_000, Columns=50_000)
    assert "y.dcm: 60000 x 50000 pixels (height x width), more than" in message(read_header, path)
    dataset = pydicom.dcmread(FILES / "MR_small_RLE.dcm")
    path = saved(tmp_path / "z.dcm", dataset, NumberOfFrames=100_000)
    assert "z.dcm: claims 100000 frames of 64 x 64" in message(read_image, path, frame=99_999)


def test_damaged_streams_are_refused_without_decoding(tmp_path):
    whole = (FILES / "MR_small_jp2klossless.dcm").read_bytes()
    size = whole.index(b"\xff\x4f\xff\x51") + 8
    (tmp_path / "big.dcm").write_bytes(whole[:size] + (60_000).to_bytes(4, "big") * 2 + whole[size + 8 :])
    text = message(read_image, tmp_path / "big.dcm")
    assert "the compressed image has rows, columns and samples (60000, 60000, 1) instead of (64, 64, 1))" in text
    dataset = pydicom.dcmread(FILES / "MR_small_jpeg_ls_lossless.dcm")
    stream = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    path = compressed(tmp_path / "cut.dcm", uid.JPEGLSLossless, [stream[:4000]], dataset)
    assert "cut.dcm: cannot be decoded (transferjax: the compressed image is cut off)." in message(read_image, path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # what pydicom says of the damage
def test_damaged_bytes_give_this_error_only(tmp_path):
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    names = ("CT_small", "MR_small_RLE", "SC_rgb_jpeg_gdcm", "SC_rgb_jls_lossy_line", "SC_rgb_small_odd_jpeg")
    for name in names:
        whole = (FILES / f"{name}.dcm").read_bytes()
        for _ in range(25):
            damaged = bytearray(whole)
            for position in rng.integers(0, len(whole), 3):
                damaged[position] ^= int(rng.integers(1, 256))
            (tmp_path / "x.dcm").write_bytes(damaged)
            try:
                read_header(tmp_path / "x.dcm")
                read_image(tmp_path / "x.dcm")
                outcomes["read"] += 1
            except InputError as error:
                assert "x.dcm" in str(error)  # noqa: PT017
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def test_a_missing_decoder_is_named(monkeypatch):
    path = FILES / "MR_small_jp2klossless.dcm"
    read_header(path)
    decoder = get_decoder(uid.JPEG2000Lossless)
    monkeypatch.delitem(decoder._available, "transferjax")
    monkeypatch.setitem(decoder._unavailable, "transferjax", ("imagecodecs>=2024.6.1",))
    text = message(read_header, path)
    assert "compressed as JPEG 2000 Image Compression (Lossless Only), for which a decoder is missing" in text
    assert "requires imagecodecs>=2024.6.1). Run: pip install 'transferjax[medical]'." in text


def test_unknown_codings_and_kinds(tmp_path):
    dataset = example()
    path = compressed(tmp_path / "x.dcm", uid.MPEG2MPML, [b"video"], dataset)
    assert "x.dcm: its pixels are coded as MPEG2 Main Profile / Main Level, which cannot" in message(read_header, path)
    path = saved(tmp_path / "y.dcm", example(), PhotometricInterpretation="CMYK", SamplesPerPixel=4)
    assert "y.dcm: 4 samples per pixel, photometric interpretation CMYK." in message(read_header, path)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    text = message(read_header, FILES / "CT_small.dcm")
    assert "DICOM needs the package pydicom, which is not installed. Run: pip install 'transferjax[medical]'." in text


def test_threads_read_the_same():
    names = ["CT_small", "MR_small_jp2klossless", "SC_rgb_jls_lossy_line", "SC_rgb_jpeg_gdcm", "rtdose_rle"] * 8
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda name: read_image(FILES / f"{name}.dcm", frame=0), names))
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image, images[i % 5])


def test_rescaling_is_pydicoms():
    dataset = example()
    units = apply_modality_lut(dataset.pixel_array, dataset)
    assert (units.min(), units.max()) == (-896, 1167)
    read = grey(FILES / "CT_small.dcm", options=Options(window=(0, 2000)))
    np.testing.assert_array_equal(read, scaled(units, -1000, 1000))
