import hashlib
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from transferjax._validate import InputError
from transferjax.data import content_hash, in_memory, load_folder, reading, splits_of, subsample
from transferjax.data.card import describe
from transferjax.data.reading import read_image


def pixels(seed=0, size=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def fill(folder, n=6, seed=0, size=(6, 8)):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(pixels(seed + i, size)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "skin" / "mole", seed=0)
    fill(tmp_path / "skin" / "healthy", n=7, seed=100)
    return tmp_path / "skin"


def message(call, *args, **options):
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_and_order(root):
    dataset = load_folder(root)
    assert (dataset.name, dataset.class_names, dataset.task) == ("skin", ("healthy", "mole"), "binary")
    assert dataset.labels.tolist() == [0] * 7 + [1] * 6
    assert dataset.labels.dtype == np.int32
    expected = [pixels(100 + i) for i in range(7)] + [pixels(i) for i in range(6)]
    np.testing.assert_array_equal(dataset.images, expected)


def test_hidden_and_other_files_are_skipped(root):
    expected = load_folder(root).images
    (root / ".cache").mkdir()
    (root / "notes.txt").write_text("x")
    (root / "mole" / ".hidden.png").write_text("x")
    (root / "mole" / "Thumbs.db").write_text("x")
    (root / "mole" / "masks").mkdir()
    np.testing.assert_array_equal(load_folder(root).images, expected)


def test_splits(tmp_path):
    for i, split in enumerate(("train", "test")):
        fill(tmp_path / split / "a", seed=10 * i)
        fill(tmp_path / split / "b", seed=100 + 10 * i)
    (tmp_path / "figures").mkdir()
    np.testing.assert_array_equal(load_folder(tmp_path, split="test").images[6], pixels(110))
    np.testing.assert_array_equal(load_folder(tmp_path).images[0], pixels(0))
    text = message(load_folder, tmp_path, split="val")
    assert "no sub-folder 'val'. Choose a split that it has: train, test." in text
    assert splits_of(tmp_path) == ("train", "test")


def test_a_class_that_one_split_lacks(tmp_path):
    """One for training may; what is not there in training could not be learnt."""
    for split, names in (("train", "abc"), ("val", "ac"), ("test", "abcd")):
        for name in names:
            fill(tmp_path / split / name, n=6 if split == "train" else 2)
    assert "train, labels: too few examples per class ('d' has 0)" in message(load_folder, tmp_path)
    text = message(load_folder, tmp_path, split="test")
    assert "test/d: is a class that train/ has no image of. Add images for training, or remove the folder." in text
    shutil.rmtree(tmp_path / "test" / "d")
    validation = load_folder(tmp_path, split="val")
    assert (validation.class_names, validation.labels.tolist()) == (("a", "b", "c"), [0, 0, 2, 2])


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "bus")
    assert load_folder(tmp_path).class_names == ("bus", "train")


def test_no_splits(root):
    text = message(load_folder, root, split="test")
    assert "skin: has no splits, so no 'test'. Use split='train'" in text


def test_no_sub_folders(tmp_path):
    assert "has no sub-folders. Put the images of each class" in message(load_folder, tmp_path)
    assert "none: cannot be read (No such file or directory)" in message(load_folder, tmp_path / "none")


def test_empty_class(root):
    (root / "scar").mkdir()
    assert "scar: is empty. Add PNG" in message(load_folder, root)
    (root / "scar" / "1.doc").write_text("x")
    assert "scar: no images in it (only: .doc). Add PNG" in message(load_folder, root)


def test_few_and_single_classes(root):
    fill(root / "scar", n=2)
    text = message(load_folder, root)
    assert "too few examples per class ('scar' has 2). Every class needs at least 6" in text
    lone = fill(root.parent / "lone" / "mole").parent
    assert "all 6 examples are of one class, 'mole'. Give at least two" in message(load_folder, lone)


@pytest.mark.parametrize("content", [b"", b"no image", "half"])
def test_undecodable_image(root, content, caplog):
    """Known at once if it is seen from the first bytes, else when it is read."""
    path = root / "mole" / "3.png"
    path.write_bytes(path.read_bytes()[:90] if content == "half" else content)
    if content == "half":
        dataset = load_folder(root)
        text = message(dataset.images.__getitem__, slice(None))
    else:
        text = message(load_folder, root)
    assert f"{path}: " in text
    assert "is empty" in text or "cannot be decoded" in text
    assert "Replace or remove the file." in text
    assert "('mole' has 5)" in message(load_folder, root, skip_unreadable=True)
    fill(root / "mole", n=9, seed=50)
    path.write_bytes(b"\x89PNG" if content == "half" else content)
    dataset = load_folder(root, skip_unreadable=True)
    assert dataset.labels.tolist() == [0] * 7 + [1] * 8
    assert "1 of 16 files are left out" in caplog.text
    assert str(path) in caplog.text


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow says of the damage
def test_damaged_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in (".png", ".jpg", ".tif", ".bmp", ".gif", ".webp"):
        path = tmp_path / f"x{suffix}"
        Image.fromarray(pixels(size=(16, 16))).save(path)
        whole = path.read_bytes()
        for position in rng.integers(0, min(len(whole), 300), 40):
            damaged = bytearray(whole)
            damaged[position] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            try:
                assert read_image(path).shape[2] == 3
            except InputError as error:
                assert str(path) in str(error)  # noqa: PT017


def test_several_sizes(root, caplog):
    fill(root / "mole", n=1, size=(9, 7))
    assert load_folder(root).images.shape == (13, 224, 224, 3)
    text = "images of 2 sizes (height x width, from 6 x 8 to 9 x 7); each is resized to 224 x 224. Give image_size"
    assert text in caplog.text
    small = load_folder(root, image_size=5)
    assert small.images.shape == (13, 5, 5, 3)
    np.testing.assert_array_equal(small.images[7], read_image(root / "mole" / "0.png", image_size=5))


def test_nothing_is_read_before_it_is_asked_for(root, monkeypatch):
    read = []
    monkeypatch.setattr(reading, "read_image", lambda path, **_: read.append(path.name) or pixels())
    dataset = load_folder(root)
    part = subsample(dataset, 2, rng=np.random.default_rng(0)).take(np.array([0, 1]))
    assert read == []
    assert part.images[:].shape == (2, 6, 8, 3)
    assert len(read) == 2


def test_what_the_content_hash_sees(root):
    """The files' bytes, the labels, how they are read: not their names' times or the folder's place."""
    hashes = {content_hash(load_folder(root)), content_hash(load_folder(root, image_size=5))}
    moved = root.rename(root.parent / "moved")
    assert content_hash(load_folder(moved)) in hashes
    Image.fromarray(pixels(77)).save(moved / "mole" / "3.png")
    hashes.add(content_hash(load_folder(moved)))
    assert len(hashes) == 3


def test_frames_of_a_file_are_images_and_a_group(root):
    frames = [Image.fromarray(pixels(i)) for i in range(3)]
    frames[0].save(root / "mole" / "0.tif", save_all=True, append_images=frames[1:])
    dataset = load_folder(root)
    assert dataset.labels.tolist() == [0] * 7 + [1] * 9
    np.testing.assert_array_equal(dataset.images[8:11], [pixels(i) for i in range(3)])
    assert len(set(dataset.groups[8:11])) == 1
    assert len(set(dataset.groups)) == 14


def test_in_memory_if_it_fits(root):
    dataset = load_folder(root)
    held = in_memory(dataset)
    assert isinstance(held.images, np.ndarray)
    np.testing.assert_array_equal(held.images, dataset.images)
    assert in_memory(dataset, limit=100) is dataset


def test_symlink_loop(root):
    (root / "mole" / "3.png").unlink()
    (root / "mole" / "3.png").symlink_to("3.png")
    assert "mole/3.png: " in message(load_folder, root)


def test_resize_is_antialiased(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (16, 8))
    Image.fromarray(stripes).save(tmp_path / "x.png")
    small = read_image(tmp_path / "x.png", image_size=4)[:, 1:-1]
    assert abs(small.astype(int) - 127).max() < 12


def save(path, image, **options):
    image.save(path, **options)
    return read_image(path)


def test_grey_and_one_bit(tmp_path):
    grey = pixels()[..., 0]
    np.testing.assert_array_equal(save(tmp_path / "g.png", Image.fromarray(grey)), np.stack([grey] * 3, -1))
    black = save(tmp_path / "b.png", Image.fromarray(grey > 127))
    np.testing.assert_array_equal(black, np.stack([(grey > 127) * np.uint8(255)] * 3, -1))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bit_grey(tmp_path, suffix):
    deep = np.array([[0, 257, 385, 386], [65535, 65406, 32896, 128]], np.uint16)
    read = save(tmp_path / f"x{suffix}", Image.fromarray(deep))
    np.testing.assert_array_equal(read[..., 0], [[0, 1, 1, 2], [255, 254, 128, 0]])
    assert (read == read[..., :1]).all()


def test_palette_alpha_and_cmyk(tmp_path):
    image = Image.fromarray(pixels())
    palette = image.quantize(16)
    np.testing.assert_array_equal(save(tmp_path / "p.png", palette), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(save(tmp_path / "t.png", palette, transparency=0), np.asarray(palette.convert("RGB")))
    alpha = image.copy()
    alpha.putalpha(100)
    np.testing.assert_array_equal(save(tmp_path / "a.png", alpha), pixels())
    cmyk = save(tmp_path / "c.tif", image.convert("CMYK"))
    np.testing.assert_array_equal(cmyk, pixels())


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = save(tmp_path / "x.png", Image.fromarray(pixels()), exif=exif)
    np.testing.assert_array_equal(turned, np.rot90(pixels(), -1))


def test_unknown_ranges(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.ones((4, 4), np.float32)).save(path)
    assert "x.tif: holds floats, whose range is not known. Save it with 8 bits" in message(read_image, path)
    Image.fromarray(np.ones((4, 4), np.int32)).save(path)
    assert "x.tif: holds 32-bit whole numbers" in message(read_image, path)


def test_names_of_splits(tmp_path, caplog):
    for split in ("Train", "validation", "TEST"):
        for name in "ab":
            fill(tmp_path / split / name)
    fill(tmp_path / "extra" / "a")
    assert splits_of(tmp_path) == ("train", "val", "test")
    assert [len(load_folder(tmp_path, split=split)) for split in ("train", "val", "test")] == [12] * 3
    assert "not read, since beside Train: extra" in caplog.text
    fill(tmp_path / "val" / "a")
    text = message(load_folder, tmp_path)
    assert "'val' and 'validation' would both be 'val'. Merge them" in text.replace(
        "'validation' and 'val'", "'val' and 'validation'"
    )


def test_folders_in_a_class_are_told(root, caplog):
    fill(root / "mole" / "patient 1")
    load_folder(root)
    assert "mole: 1 folders in it are not read: patient 1" in caplog.text
    for path in (root / "scar" / "patient 2",):
        fill(path)
    assert "scar: has only sub-folders." in message(load_folder, root)


def test_names_that_are_no_text(root):
    fill(root / "caf\udce9")
    assert "its name is not UTF-8. Rename it." in message(load_folder, root)


def test_splits_get_one_size_whatever_is_left_out(tmp_path):
    """What cannot be read in one split decides nothing, neither there nor in the others."""
    for split in ("train", "test"):
        for name in "ab":
            fill(tmp_path / split / name, size=(12, 12))
    broken = tmp_path / "test" / "a" / "9.png"
    Image.fromarray(pixels(9, (40, 40))).save(broken)
    broken.write_bytes(broken.read_bytes()[:-200])
    splits = {split: load_folder(tmp_path, split=split, skip_unreadable=True) for split in ("train", "test")}
    assert {dataset.images.shape[1:] for dataset in splits.values()} == {(12, 12, 3)}
    assert describe(splits).duplicates["train, test"] == 12


def test_frames_are_groups_over_all_splits(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                seeds = [9 * (6 * (split == "test") + 3 * (name == "b") + i) + j for j in range(3)]
                frames = [Image.fromarray(pixels(seed)) for seed in seeds]
                frames[0].save(tmp_path / split / name / f"{i}.tif", save_all=True, append_images=frames[1:])
    card = describe({split: load_folder(tmp_path, split=split) for split in ("train", "test")})
    assert card.groups == {"train": 6, "test": 6}
    assert card.shared_groups == {"train, test": 0}


def test_a_file_is_hashed_once_for_all_its_frames(root, monkeypatch):
    frames = [Image.fromarray(pixels(i)) for i in range(9)]
    frames[0].save(root / "mole" / "0.tif", save_all=True, append_images=frames[1:])
    hashed = []
    digest = hashlib.file_digest

    def slowly(file, how):
        hashed.append(file.name)
        time.sleep(0.05)  # so that the threads of other frames ask meanwhile
        return digest(file, how)

    monkeypatch.setattr(hashlib, "file_digest", slowly)
    dataset = load_folder(root)
    assert len(set(dataset.images.fingerprints())) == len(dataset) == 22
    dataset.images.fingerprints()
    assert len(hashed) == len(set(hashed)) == 14
