import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from transferjax._validate import InputError
from transferjax.data import _formats, reading
from transferjax.data.reading import Options, read_header, read_image


def pixels(seed=0, size=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def message(call, *args, **options):
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def png_header(path, height, width):
    """Writes a PNG that claims a size and has no pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    claim = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", claim) + chunk(b"IDAT", zlib.compress(b"")))
    return path


@pytest.mark.parametrize("name", ["a.png", "b.JPEG", "c.tif", "d.DCM", "e.dicom", "f.IMA", "g.nii", "h.nii.gz"])
def test_names_of_images(name):
    assert reading.is_image_name(name)


@pytest.mark.parametrize("name", ["a.txt", "b.gz", "c.npz", "png", "IM000001", "d.png.bak"])
def test_names_of_others(name):
    assert not reading.is_image_name(name)


def test_files_without_a_suffix(tmp_path):
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes").write_bytes(b"DICM" + bytes(200))
    assert reading.is_image_file(tmp_path / "IM1")
    assert not reading.is_image_file(tmp_path / "notes")
    assert "none: cannot be read (No such file" in message(reading.is_image_file, tmp_path / "none")


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp", ".gif", ".jp2", ".ppm"])
def test_header_is_what_is_read(tmp_path, suffix):
    path = saved(tmp_path / f"x{suffix}", pixels())
    assert read_header(path) == (1, 6, 8)
    assert read_image(path).shape == (6, 8, 3)
    assert read_image(path, frame=0, image_size=5).shape == (5, 5, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 7])
def test_header_of_turned_images(tmp_path, suffix, orientation):
    path = saved(tmp_path / f"x{suffix}", pixels(), exif=exif(orientation))
    header = read_header(path)
    assert header == ((1, 8, 6) if orientation > 4 else (1, 6, 8))
    read = read_image(path)
    assert read.shape == (header.height, header.width, 3)
    if suffix in (".png", ".tif"):  # the others lose some of the values
        turn = {
            2: np.fliplr,
            3: lambda a: np.rot90(a, 2),
            6: lambda a: np.rot90(a, -1),
            7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        }
        np.testing.assert_array_equal(read, turn[orientation](pixels()))


def test_orientation_behind_a_pngs_pixels_is_ignored_by_both(tmp_path):
    whole = saved(tmp_path / "x.png", pixels(), exif=exif(6)).read_bytes()
    start = whole.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", whole[start : start + 4])[0]
    last = whole.index(b"IEND") - 4
    path = tmp_path / "late.png"
    path.write_bytes(whole[:start] + whole[end:last] + whole[start:end] + whole[last:])
    assert read_header(path) == (1, 6, 8)
    np.testing.assert_array_equal(read_image(path), pixels())


def test_header_reads_no_pixels(tmp_path):
    path = saved(tmp_path / "x.png", pixels(size=(50, 50)))
    path.write_bytes(path.read_bytes()[:500])
    assert read_header(path) == (1, 50, 50)
    assert "x.png: cannot be decoded (" in message(read_image, path)


@pytest.mark.parametrize("call", [read_header, read_image])
def test_files_that_are_none(tmp_path, call):
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")
    assert "empty.png: is empty (0 bytes). Replace" in message(call, tmp_path / "empty.png")
    assert "folder.png: is a folder." in message(call, tmp_path / "folder.png")
    assert "none.png: cannot be read (No such file or directory)" in message(call, tmp_path / "none.png")
    assert "text.png: cannot be decoded (cannot identify image" in message(call, tmp_path / "text.png")
    assert "pipe.png: is not a regular file" in message(call, tmp_path / "pipe.png")
    loop = message(call, tmp_path / "loop.png")
    assert "loop.png: cannot be read (Too many levels of symbolic links). Remove the link." in loop


@pytest.mark.parametrize("call", [read_header, read_image])
@pytest.mark.parametrize("side", [50_000, 12_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_that_claims_too_many_pixels(tmp_path, call, side):
    text = message(call, png_header(tmp_path / "x.png", side, side))
    assert "more than the 134217728 that are read" in text
    assert (f"{side} x {side} pixels" if side == 12_000 else "2500000000 pixels") in text


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow says of the damage
def test_damaged_bytes_give_this_error_only(tmp_path):
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for suffix in (".png", ".jpg", ".tif", ".bmp", ".gif", ".webp"):
        path = saved(tmp_path / f"x{suffix}", pixels(size=(16, 16)))
        whole = path.read_bytes()
        for position in rng.integers(0, min(len(whole), 300), 30):
            damaged = bytearray(whole)
            damaged[position] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            try:
                header = read_header(path)
                assert read_image(path, frame=0).shape == (header.height, header.width, 3)
                outcomes["read"] += 1
            except InputError as error:
                assert str(path) in str(error)  # noqa: PT017
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(path) as image:
        assert image.format == "EPS"  # Pillow by itself would
    assert "x.png: cannot be decoded (cannot identify" in message(read_image, path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bit_grey(tmp_path, suffix):
    path = saved(tmp_path / f"x{suffix}", np.array([[0, 257, 385, 386], [65535, 65406, 32896, 128]], np.uint16))
    read = read_image(path)
    np.testing.assert_array_equal(read[..., 0], [[0, 1, 1, 2], [255, 254, 128, 0]])
    assert (read == read[..., :1]).all()
    windowed = read_image(path, options=Options(window=(32896, 510)))  # 32641..33151
    np.testing.assert_array_equal(windowed[..., 0], [[0, 0, 0, 0], [255, 255, 128, 0]])


def test_window_leaves_eight_bits_alone(tmp_path):
    path = saved(tmp_path / "x.png", pixels())
    np.testing.assert_array_equal(read_image(path, options=Options(window=(10, 5))), pixels())


def test_floats_and_wide_numbers_need_a_window(tmp_path):
    path = saved(tmp_path / "x.tif", np.array([[-1.0, 0, 0.5], [1, 9, np.nan]], np.float32))
    for call in (read_header, read_image):
        assert "x.tif: holds floats, whose range is not known. Save it with 8 bits" in message(call, path)
    options = Options(window=(0.5, 1))
    assert read_header(path, options=options) == (1, 2, 3)
    np.testing.assert_array_equal(read_image(path, options=options)[..., 2], [[0, 0, 128], [255, 255, 0]])
    path = saved(tmp_path / "y.tif", np.array([[-100_000, 0, 100_000]], np.int32))
    assert "y.tif: holds 32-bit whole numbers" in message(read_header, path)
    assert read_image(path, options=Options(window=(0, 200_000)))[0, :, 0].tolist() == [0, 128, 255]


def stack(path, arrays):
    first, *others = [Image.fromarray(array) for array in arrays]
    first.save(path, save_all=True, append_images=others)
    return path


def test_pages_of_a_tiff_are_frames(tmp_path):
    path = stack(tmp_path / "x.tif", [pixels(i) for i in range(3)])
    assert read_header(path) == (3, 6, 8)
    for i in range(3):
        np.testing.assert_array_equal(read_image(path, frame=i), pixels(i))
    assert "x.tif: holds 3 images. Name the one to read: frame=0 to frame=2." in message(read_image, path)
    for frame in (3, -1):
        assert f"x.tif: has no frame {frame}, it holds 3." in message(read_image, path, frame=frame)


def test_pages_of_several_sizes(tmp_path):
    path = stack(tmp_path / "x.tif", [pixels(0), pixels(1, (3, 4))])
    assert "x.tif: its 2 images differ in size (height x width: 3 x 4, 6 x 8). Save" in message(read_header, path)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animations_are_refused(tmp_path, suffix):
    path = stack(tmp_path / f"x{suffix}", [pixels(i) for i in range(3)])
    for call in (read_header, read_image):
        assert f"x{suffix}: holds 3 images. Save each as a file of its own." in message(call, path)


def test_options_are_checked():
    for window in ((0, 0), (0, -1), (float("nan"), 1), (0, float("inf"))):
        assert "Give centre and width, two numbers; the width is above 0." in message(Options, window=window)
    assert "nifti_axis: 3 is unknown. Give 0 for sagittal" in message(Options, nifti_axis=3)
    assert "nifti_stride: 0 is not positive" in message(Options, nifti_stride=0)


def test_image_size_is_checked(tmp_path):
    assert "image_size: 0 is not positive" in message(read_image, saved(tmp_path / "x.png", pixels()), image_size=0)


def test_to_bytes():
    values = np.array([-np.inf, -5, 0, 0.49, 0.51, 254.5, 255, 400, np.inf, np.nan])
    assert _formats.to_bytes(values, 0, 255).tolist() == [0, 0, 0, 0, 1, 254, 255, 255, 255, 0]  # 254.5: to even
    assert _formats.to_bytes(np.array([0, 10, 20], np.uint8), 20, 0).tolist() == [255, 128, 0]
    assert _formats.to_bytes(np.array([7, 8]), 7, 7).tolist() == [0, 0]
    big = np.array([0, 2**31, 2**32 - 1], np.uint32)
    assert _formats.to_bytes(big, 0, 2**32 - 1).tolist() == [0, 128, 255]


def test_recent_keeps_a_number_of_bytes_and_the_last_one():
    made = []

    def get(recent, key, size):
        return recent.get(key, lambda: made.append(key) or np.full(size, key, np.uint8))

    recent = _formats.Recent(max_bytes=100)
    for key in (1, 2, 1, 3, 1, 2):  # at 3, 2 has to go, which was asked for before 1
        assert (get(recent, key, 40) == key).all()
    assert made == [1, 2, 3, 2]
    assert len(get(recent, 9, 500)) == 500  # more than is kept
    get(recent, 9, 500)
    assert made == [1, 2, 3, 2, 9]


def test_recent_makes_once_for_all_threads():
    recent, started, made = _formats.Recent(max_bytes=100), threading.Barrier(4), []

    def ask(_):
        started.wait()
        return recent.get("key", lambda: made.append(1) or np.zeros(3, np.uint8))

    with ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(ask, range(4)))
    assert made == [1]
    assert all(array is arrays[0] for array in arrays)


def test_recent_keeps_no_failure():
    recent = _formats.Recent(max_bytes=100)
    with pytest.raises(ZeroDivisionError):
        recent.get("key", lambda: np.zeros(1 // 0))
    assert recent.get("key", lambda: np.ones(2)).tolist() == [1, 1]


def test_tiff_whose_zero_is_white(tmp_path):
    """As Pillow does it with 8 bits."""
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    for photometric in (0, 1):
        Image.fromarray(ramp).save(tmp_path / f"{photometric}.tif", tiffinfo={262: photometric})
    black, white = (reading.read_image(tmp_path / f"{photometric}.tif")[..., 0] for photometric in (1, 0))
    np.testing.assert_array_equal(black, np.round(ramp / 257))
    np.testing.assert_array_equal(white, 255 - black)
