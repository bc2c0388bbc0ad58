import gzip
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.medical import grey, message
from transferjax.data import nifti
from transferjax.data.reading import Options, read_header, read_image

nibabel = pytest.importorskip("nibabel")

FILES = Path(nibabel.__file__).parent / "tests" / "data"  # these come with nibabel


def saved(path, array, affine=None, **attributes):
    image = nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine, **attributes)
    nibabel.save(image, path)
    return path


def volume(shape=(5, 6, 7), top=200):
    return np.random.default_rng(0).integers(0, top, shape).astype(np.int16)


def sliced(array, axis, place):
    """A slice of a volume in RAS as it is shown, voxel by voxel: the definition, once more."""
    plane = np.moveaxis(array, axis, 0)[place]
    columns, rows = plane.shape
    shown = np.empty((rows, columns), plane.dtype)
    for row in range(rows):
        for column in range(columns):
            shown[row, column] = plane[columns - 1 - column, rows - 1 - row]
    return shown


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices(tmp_path, suffix, axis):
    array = volume()
    path = saved(tmp_path / f"x{suffix}", array)
    options = Options(window=(127.5, 255), nifti_axis=axis)
    header = read_header(path, options=options)
    assert header.frames == array.shape[axis]
    for frame in range(header.frames):
        read = grey(path, frame=frame, options=options)
        assert read.shape == (header.height, header.width)
        np.testing.assert_array_equal(read, sliced(array, axis, frame))


def test_stride(tmp_path):
    path = saved(tmp_path / "x.nii", volume())
    options = Options(nifti_stride=3)
    assert read_header(path, options=options).frames == 3  # slices 0, 3 and 6 of 7
    for frame in range(3):
        np.testing.assert_array_equal(grey(path, frame=frame, options=options), grey(path, frame=3 * frame))
    assert "has no frame 3, it holds 3" in message(read_image, path, frame=3, options=options)
    assert "holds 7 images. Name the one to read: frame=0 to frame=6." in message(read_image, path)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSR", "IAL", "SRP"])
def test_every_orientation_is_shown_the_same(tmp_path, codes):
    array = volume()  # in RAS
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    turned = nibabel.Nifti1Image(array, np.diag([1.0, 2, 3, 1])).as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == codes
    nibabel.save(turned, tmp_path / "x.nii.gz")
    for axis in (0, 1, 2):
        options = Options(window=(127.5, 255), nifti_axis=axis)
        assert read_header(tmp_path / "x.nii.gz", options=options).frames == array.shape[axis]
        read = grey(tmp_path / "x.nii.gz", frame=2, options=options)
        np.testing.assert_array_equal(read, sliced(array, axis, 2))


def test_sides(tmp_path):
    array = np.zeros((9, 9, 9), np.uint8)
    array[8, 4, 4], array[4, 8, 4], array[4, 4, 8] = 50, 100, 150  # right, front, top
    path = saved(tmp_path / "x.nii", array)
    options = [Options(window=(127.5, 255), nifti_axis=axis) for axis in (0, 1, 2)]
    sagittal, coronal, axial = (grey(path, frame=4, options=option) for option in options)
    assert (axial[4, 0], axial[0, 4]) == (50, 100)  # right on the left, front up
    assert (coronal[4, 0], coronal[0, 4]) == (50, 150)  # right on the left, top up
    assert (sagittal[4, 0], sagittal[0, 4]) == (100, 150)  # front on the left, top up


def test_percentiles_of_the_whole_volume(tmp_path):
    array = np.random.default_rng(0).normal(size=(10, 11, 12)).astype(np.float32)
    path = saved(tmp_path / "x.nii", array)
    low, high = np.percentile(array, [0.5, 99.5])
    for frame in (0, 7):
        shown = np.clip((sliced(array, 2, frame).astype(float) - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(grey(path, frame=frame), shown, atol=0.51)
    shown = np.stack([grey(path, frame=frame) for frame in range(12)])
    assert np.mean(shown == 0) == pytest.approx(0.005, abs=0.003)
    assert np.mean(shown == 255) == pytest.approx(0.005, abs=0.003)


def test_extremes_where_nearly_all_is_background(tmp_path):
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[5, 5, 5] = 1
    assert grey(saved(tmp_path / "x.nii", mask), frame=5).max() == 255
    assert grey(saved(tmp_path / "y.nii", mask * 0 + 7), frame=5).max() == 0  # constant: nothing to show


def test_what_is_not_finite(tmp_path):
    array = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    array[0, 0, 0], array[0, 0, 1], array[0, 0, 2] = np.nan, np.inf, -np.inf
    path = saved(tmp_path / "x.nii", array)
    corner = [grey(path, frame=frame)[-1, -1] for frame in range(3)]
    assert corner == [0, 255, 0]
    assert 100 < np.mean([grey(path, frame=frame).mean() for frame in range(10)]) < 155
    assert grey(saved(tmp_path / "y.nii", np.full((4, 4, 4), np.nan, np.float32)), frame=0).max() == 0


@pytest.mark.parametrize("slope", [2.0, -2.0])
def test_scaled_values(tmp_path, slope):
    image = nibabel.Nifti1Image(volume(top=120) * np.int16(np.sign(slope)), np.eye(4))
    image.header.set_slope_inter(slope, 10)
    nibabel.save(image, tmp_path / "x.nii")
    loaded = nibabel.load(tmp_path / "x.nii")
    assert (loaded.dataobj.slope, loaded.dataobj.inter) == (slope, 10)
    assert (loaded.get_fdata().min(), loaded.get_fdata().max()) == (10, 248)
    options = Options(window=(127.5, 255))
    read = grey(tmp_path / "x.nii", frame=3, options=options)
    np.testing.assert_array_equal(read, np.rint(sliced(loaded.get_fdata(), 2, 3)).astype(np.uint8))
    low, high = np.percentile(loaded.get_fdata(), [0.5, 99.5])
    shown = np.clip((sliced(loaded.get_fdata(), 2, 3) - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(grey(tmp_path / "x.nii", frame=3), shown, atol=0.51)


def test_two_axes_and_axes_of_one(tmp_path):
    flat = volume((5, 6))
    options = Options(window=(127.5, 255))
    for array in (flat, flat[..., None], flat[..., None, None]):
        path = saved(tmp_path / f"x{array.ndim}.nii", array)
        assert read_header(path) == (1, 6, 5)
        np.testing.assert_array_equal(grey(path, options=options), sliced(flat[..., None], 2, 0))


def test_a_volume_is_unpacked_once(tmp_path, monkeypatch):
    path, unpacked, unpack = saved(tmp_path / "x.nii.gz", volume()), [], nifti._volume
    monkeypatch.setattr(nifti, "_volume", lambda *args: unpacked.append(args) or unpack(*args))
    first = [grey(path, frame=frame) for frame in range(7)]
    for axis in (0, 1):
        grey(path, frame=0, options=Options(nifti_axis=axis, nifti_stride=2))
    assert len(unpacked) == 1
    grey(path, frame=0, options=Options(window=(0, 1)))
    assert len(unpacked) == 2
    saved(path, 199 - volume())
    os.utime(path, (1, 1))  # as if time had passed
    assert not np.array_equal(first[0], grey(path, frame=0))
    assert len(unpacked) == 3


def test_several_volumes():
    text = message(read_header, FILES / "example4d.nii.gz")
    assert "holds several volumes (128 x 96 x 24 x 2). Save each as a file of its own" in text


def test_nibabels_own_files(tmp_path):
    header = read_header(FILES / "anatomical.nii")
    assert header == (25, 41, 33)
    canonical = nibabel.as_closest_canonical(nibabel.load(FILES / "anatomical.nii")).get_fdata()
    low, high = np.percentile(canonical, [0.5, 99.5])
    for frame in range(25):
        shown = np.clip((sliced(canonical, 2, frame) - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(grey(FILES / "anatomical.nii", frame=frame), shown, atol=0.51)
    volumes = nibabel.four_to_three(nibabel.load(FILES / "example_nifti2.nii.gz"))
    nibabel.save(volumes[0], tmp_path / "x.nii")  # NIfTI-2
    assert read_header(tmp_path / "x.nii") == (12, 20, 32)
    assert grey(tmp_path / "x.nii", frame=6).std() > 20


def test_nilearns_template():
    datasets = pytest.importorskip("nilearn.datasets")
    path = next((Path(datasets.__file__).parent / "data").glob("mni_icbm152_t1_*.nii.gz"))
    assert read_header(path) == (189, 233, 197)
    axial = grey(path, frame=90).astype(float)
    coronal = grey(path, frame=110, options=Options(nifti_axis=1)).astype(float)
    sagittal = grey(path, frame=98, options=Options(nifti_axis=0)).astype(float)
    assert (axial.shape, coronal.shape, sagittal.shape) == ((233, 197), (189, 197), (189, 233))
    for image in (axial, coronal):  # a symmetric brain: left and right are alike, up and down are not
        assert np.abs(image - image[:, ::-1]).mean() < 1 < 20 < np.abs(image - image[::-1]).mean()
    # the brain stem and the cerebellum leave at the bottom, behind the middle: front is left
    rows, columns = np.nonzero(sagittal[150:] > 60)
    assert len(rows) > 500
    assert columns.mean() > 233 / 2


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_claims_that_the_file_cannot_hold(tmp_path, suffix):
    path = saved(tmp_path / "x.nii", volume())
    for shape, words in (((30_000, 30_000, 9), "more than the"), ((300, 300, 300), "the file is too small for them")):
        header = nibabel.load(path).header.copy()
        header.set_data_shape(shape)
        claim = header.binaryblock + path.read_bytes()[len(header.binaryblock) :]
        huge = tmp_path / f"huge{suffix}"
        huge.write_bytes(gzip.compress(claim) if suffix == ".nii.gz" else claim)
        for call in (read_header, read_image):
            assert words in message(call, huge)


def test_damage(tmp_path):
    path = saved(tmp_path / "x.nii.gz", volume((30, 30, 30)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert read_header(path).frames == 30
    assert "x.nii.gz: cannot be decoded (" in message(read_image, path, frame=0)
    for content in (b"", b"x", b"no volume" * 100, bytes(400)):
        for name in ("y.nii", "y.nii.gz"):
            (tmp_path / name).write_bytes(content)
            assert f"{name}: " in message(read_header, tmp_path / name)


def test_what_is_no_grey_volume(tmp_path):
    shutil.copy(FILES / "row_major.dconn.nii", tmp_path / "x.nii")
    assert "x.nii: holds no volume of voxels (Cifti2Image)" in message(read_header, tmp_path / "x.nii")
    saved(tmp_path / "y.nii", np.zeros((3, 3, 3), np.complex64))
    assert "y.nii: its voxels are no real numbers (complex64)" in message(read_header, tmp_path / "y.nii")
    saved(tmp_path / "z.nii", np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert "z.nii: its voxels are no real numbers" in message(read_header, tmp_path / "z.nii")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.nii", volume())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    text = message(read_header, path)
    assert "NIfTI needs the package nibabel, which is not installed. Run: pip install 'transferjax[medical]'." in text
