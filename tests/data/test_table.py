"""Tables of image files: every column, and everything that can be wrong with one."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from transferjax._validate import InputError
from transferjax.data import Columns, load, load_table, splits_of


def value(i):
    return np.full((4, 5), 5 * i, np.uint8)


def rows(n=12, **columns):
    return pd.DataFrame({"image": [f"images/{i:02}.png" for i in range(n)], **columns})


@pytest.fixture
def save(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(24):
        Image.fromarray(value(i)).save(tmp_path / "images" / f"{i:02}.png")

    def write(table, name="cases.csv", **options):
        path = tmp_path / name
        if name.endswith(".parquet"):
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False, sep="\t" if name.endswith(".tsv") else ",", **options)
        return path

    return write


def message(path, **options):
    with pytest.raises(InputError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["cases.csv", "cases.tsv", "cases.parquet", "CASES.CSV"])
def test_classes(save, name):
    path = save(rows(label=["mole", "healthy"] * 6), name)
    dataset = load(path)
    assert (dataset.name, dataset.class_names, dataset.task) == (path.stem, ("healthy", "mole"), "binary")
    assert dataset.labels.tolist() == [1, 0] * 6
    assert dataset.labels.dtype == np.int32
    assert dataset.groups is None
    np.testing.assert_array_equal(np.asarray(dataset.images)[..., 1], [value(i) for i in range(12)])


def test_numbers_are_classes_in_their_order(save):
    dataset = load(save(rows(18, label=[10, 9, 2] * 6)))
    assert dataset.class_names == ("2", "9", "10")
    assert dataset.labels.tolist() == [2, 1, 0] * 6
    assert load(save(rows(18, label=[10, 9, 2] * 6), "p.parquet")).class_names == ("2", "9", "10")


def test_words_for_nothing_are_class_names(save):
    assert load(save(rows(label=["None", "NA"] * 6))).class_names == ("NA", "None")


def test_several_labels_with_missing_ones(save):
    table = rows(24, effusion=["1", "0", ""] * 8, mass=["0.0", "1.0", "1"] * 8, other=[-1, 0, 1] * 8)
    for name in ("cases.csv", "cases.parquet"):
        dataset = load(save(table, name), columns=Columns(labels=("effusion", "mass", "other")))
        assert (dataset.task, dataset.class_names) == ("multilabel", ("effusion", "mass", "other"))
        assert dataset.labels[:3].tolist() == [[1, 0, -1], [0, 1, 0], [-1, 1, 1]]
        assert dataset.labels.dtype == np.int8


def test_one_hot_columns_are_classes(save, caplog):
    dataset = load(save(rows(nevus=[1, 0] * 6, melanoma=[0, 1] * 6)), columns=Columns(labels=("nevus", "melanoma")))
    assert (dataset.task, dataset.class_names) == ("binary", ("nevus", "melanoma"))
    assert dataset.labels.tolist() == [0, 1] * 6
    assert "every row has one of the 2 labels: they are taken as classes" in caplog.text


def test_a_column_of_lists(save):
    table = rows(24, label=["mass|effusion", "none", " mass "] * 8)
    dataset = load(save(table), columns=Columns(separator="|"))
    assert (dataset.task, dataset.class_names) == ("multilabel", ("effusion", "mass", "none"))
    assert dataset.labels[:3].tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
    text = message(save(table), columns=Columns(labels=("label", "image"), separator="|"))
    assert "label_columns: 2 columns with a label separator. Give one column" in text


def test_splits_and_groups(save):
    table = rows(
        24,
        label=["a", "b"] * 12,
        split=["train"] * 16 + ["Validation", "dev"] * 2 + ["testing"] * 4,
        group=[f"patient {i // 2}" for i in range(24)],
    )
    path = save(table)
    assert splits_of(path) == ("train", "val", "test")
    assert [len(load(path, split=split)) for split in splits_of(path)] == [16, 4, 4]
    groups = load(path).groups
    assert len(set(groups)) == 8
    assert (groups[::2] == groups[1::2]).all()
    assert groups.dtype == np.int32
    assert set(load(path, split="test").groups).isdisjoint(groups)
    assert load(path, split="test").images[0][0, 0, 0] == 100


def test_other_names_of_columns_and_another_folder(save, tmp_path):
    table = pd.DataFrame({"path": [f"{i:02}.png" for i in range(12)], "diagnosis": ["a", "b"] * 6, "who": range(12)})
    columns = Columns(image="path", labels=("diagnosis",), group="who", image_root=str(tmp_path / "images"))
    assert len(load_table(save(table), columns=columns).groups) == 12
    text = message(save(table), columns=Columns(image="path", labels=("diagnosis",)))
    assert "cases.csv, path: 12 of 12 files are not there (first: " in text
    assert "give image_root" in text
    text = message(save(table), columns=Columns(image="path", labels=("diagnosis",), image_root="no/such"))
    assert "image_root: 'no/such' is no folder" in text


def test_unknown_columns(save):
    path = save(rows(lable=["a", "b"] * 6))
    text = message(path)
    assert "cases.csv, label_columns: no column 'label'; did you mean 'lable'?. It has: image, lable." in text
    assert "split_column: no column 'fold'" in message(
        path, columns=Columns(labels=("lable",), split="fold")
    )  # fmt: skip
    assert "group_column: no column 'patient'" in message(path, columns=Columns(labels=("lable",), group="patient"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.assign(label=["a", "", *["a", "b"] * 5]), "label: 1 rows without a label (first: line 3)"),
        (lambda t: t.assign(split=["train"] * 11 + ["holdout"]), "split: 'holdout' in line 13 is no split"),
        (lambda t: t.assign(split=["test"] * 12), "no row of split 'train'. Choose a split that it has: test."),
        (lambda t: t.assign(group=["a"] * 5 + [""] * 7), "group: 7 rows without a group (first: line 7)"),
        (lambda t: t.assign(image=["", *t.image[1:]]), "image: 1 rows without a file (first: line 2)"),
        (
            lambda t: t.assign(image=[*t.image[:11], "images/./00.png"]),
            "'images/./00.png' in line 13 is in line 2 too (1 such rows). Name each file once.",
        ),
        (lambda t: t.assign(image=[*t.image[:11], "images/99.png"]), "1 of 12 files are not there (first: "),
        (lambda t: t.assign(label=["a"] * 10 + ["b"] * 2), "too few examples per class ('b' has 2)"),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_bad_rows(save, change, text):
    assert text in message(save(change(rows(label=["a", "b"] * 6))))


def test_a_label_that_is_no_number(save):
    text = message(save(rows(x=[1, 0] * 6, y=["1", "yes"] * 6)), columns=Columns(labels=("x", "y")))
    assert "cases.csv, y: 'yes' in line 3. Labels in several columns are 0, 1, or nothing" in text


def test_a_class_that_is_in_test_alone(save):
    table = rows(24, label=["a", "b"] * 10 + ["c"] * 4, split=["train"] * 18 + ["test"] * 6)
    assert "label: 'c' is in split 'test' but not in 'train'" in message(save(table), split="test")


def test_damaged_tables(save, tmp_path):
    path = save(rows(label=["a", "b"] * 6), "cases.parquet")
    path.write_bytes(path.read_bytes()[:100])
    assert "cases.parquet: cannot be read (" in message(path)
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv: cannot be read (" in message(tmp_path / "empty.csv")
    (tmp_path / "odd.csv").write_bytes(b"image,label\n\xff\xfe\x00,a\n")
    assert "odd.csv: cannot be read (" in message(tmp_path / "odd.csv")


def test_unreadable_files_can_be_left_out(save, tmp_path, caplog):
    table = rows(16, label=["a", "b"] * 8)
    table.loc[15, "image"] = "images/99.png"
    (tmp_path / "images" / "00.png").write_bytes(b"")
    assert "00.png: " in message(save(table.iloc[:15]))
    dataset = load(save(table), skip_unreadable=True)
    assert dataset.labels.tolist() == ([0, 1] * 8)[1:15]
    assert "2 of 16 files are left out" in caplog.text


def test_columns_that_are_meant_but_not_named(save):
    """A column that would be overlooked for its capitals would make training data of test data."""
    table = rows(label=["a", "b"] * 6).assign(Split=["train"] * 6 + ["test"] * 6)
    text = message(save(table))
    assert (
        "split_column: column 'Split' would not be read. Give split_column=Split, or split_column= to leave it" in text
    )
    assert len(load(save(table), columns=Columns(split=""))) == 12
    table = rows(label=["a", "b"] * 6, group=["x"] * 12).rename(columns={"group": "Group", "label": " label"})
    assert "group_column: column 'Group' would not be read" in message(save(table))
    assert load(save(table), columns=Columns(group="")).groups is None


def test_other_words_for_no_patient(save):
    """Strangers would be one patient."""
    text = message(save(rows(label=["a", "b"] * 6, group=["p1", "NA", "unknown"] * 4)))
    assert "group: 8 rows without a group (first: line 3). Give each row one" in text


def test_spellings_of_a_class_are_told(save, caplog):
    assert load(save(rows(18, label=["Benign", "benign", "1"] * 6))).num_classes == 3
    assert "'Benign' and 'benign' are two classes" in caplog.text


def test_lists_may_be_empty(save):
    dataset = load(save(rows(24, label=["mass|effusion", "", "mass"] * 8)), columns=Columns(separator="|"))
    assert dataset.labels[:3].tolist() == [[1, 1], [0, 0], [0, 1]]
    text = message(save(rows(label=["a", "b"] * 6)), columns=Columns(separator=""))
    assert "label_separator: ''. Give what is between the labels" in text


def test_lines_are_counted_as_an_editor_does(save, tmp_path):
    path = save(rows(label=["a", "b"] * 6))
    lines = path.read_text().splitlines()
    path.write_bytes("\r\n".join(["\ufeff" + lines[0], "", lines[1], "", "images/01.png,"]).encode())
    assert "label: 1 rows without a label (first: line 5)" in message(path)
    path = save(rows(label=["a", "b", None] * 4), "cases.parquet")
    assert "label: 4 rows without a label (first: row 3)" in message(path)


def test_what_else_is_wrong_with_a_table(save, tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("image;label\nimages/00.png;a\n")
    assert "no column 'image'; columns are to be separated by ','" in message(path)
    path.write_text("image,label,label\nimages/00.png,a,b\n")
    assert "has several columns 'label'" in message(path)
    table = rows(label=["a", "b"] * 6)
    assert "Write / between folders." in message(save(table.assign(image=table.image.str.replace("/", "\\"))))
    assert "label_columns: label,label. Name each column once" in message(
        save(table), columns=Columns(labels=("label", "label"))
    )
    absolute = table.assign(image=[*table.image[:11], str(tmp_path / "images" / "00.png")])
    assert "in line 13 is in line 2 too" in message(save(absolute))
    unknown = rows(x=[1, 0, ""] * 4, y=[0, 1, ""] * 4)
    text = message(save(unknown), columns=Columns(labels=("x", "y")))
    assert "4 rows without any known label (first: line 4). Remove these rows." in text


def test_files_with_several_images_are_groups_over_all_splits(save, tmp_path):
    frames = [Image.fromarray(value(i)) for i in range(3)]
    for name in ("a", "b", "c", "d"):
        frames[0].save(tmp_path / f"{name}.tif", save_all=True, append_images=frames[1:])
    table = pd.DataFrame({"image": [f"{name}.tif" for name in "abcd"], "label": list("xyxy")})
    path = save(table.assign(split=["train", "train", "test", "test"]))
    train, test = (load(path, split=split, scored=False) for split in ("train", "test"))
    assert train.groups.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.groups.tolist() == [2, 2, 2, 3, 3, 3]
    assert np.asarray(test.images)[:, 0, 0, 0].tolist() == [0, 5, 10] * 2


def test_data_as_they_are(save):
    """Without what scoring needs, for a look at them."""
    path = save(rows(label=["a"] * 10 + ["b", "c"], split=["train"] * 11 + ["test"]))
    assert load(path, scored=False).labels.tolist() == [0] * 10 + [1]
    assert load(path, split="test", scored=False).labels.tolist() == [2]
    assert "'c' is in split 'test' but not in 'train'" in message(path, split="test")
