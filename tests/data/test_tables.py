"""Tables of images as people have them: headers, separators, encodings, labels and splits; or one line."""

import io
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from fastconv.analysis.dataset_audit import audit
from fastconv.config.overrides import compose
from fastconv.data.configs import Dataset
from fastconv.data.loading import load, open_described, open_source
from fastconv.system.errors import InputError

COUNT = 12


@pytest.fixture
def photos(tmp_path):
    """A folder with 0.png to 11.png; each is of the level of its number."""
    for at in range(COUNT):
        Image.fromarray(np.full((24, 24), at, np.uint8)).save(tmp_path / f"{at}.png")
    return tmp_path


def found(folder, text, **settings):
    """What a table says: (classes, {level of an image to train on: its class}, the same for those to test with)."""
    given = settings.pop("given", "table.csv")
    (folder / given).write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_source(Dataset(name="own", source="csv", train=str(folder / given), **settings), folder)
    each = source.find()
    return each.classes, *(levels(split, each.classes) for split in (each.train, each.test or [])), source.notes


def levels(samples, classes):
    seen = {}
    for sample in samples:
        content = sample.read()
        image = Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content
        seen[np.asarray(image)[0, 0].item()] = classes[sample.label]
    return seen


def rows(form, *, head="", names=("cat", "dog")):
    """A table of all photos; `form` is a row with {at} for the number of an image, and {label}."""
    lines = [form.format(at=at, label=names[at % len(names)]) for at in range(COUNT)]
    return "\n".join([head, *lines] if head else lines) + "\n"


PIXELS = "label," + ",".join(f"pixel{at}" for at in range(784))
TRUE = {at: ("cat", "dog")[at % 2] for at in range(COUNT)}
READ = {
    "known names": rows("{at}.png,{label}", head="path,label"),
    "label first": rows("{label},{at}.png", head="label,path"),
    "aptos": rows("{at},{label}", head="id_code,diagnosis"),
    "dog breed": rows("{at},{label}", head="id,breed"),
    "skin lesions": rows("L{at},{at},{label},histo,60", head="lesion_id,image_id,dx,dx_type,age"),
    "eye pictures": rows("{at},{label}", head="image,level"),
    "chest pictures": rows("{at}.png,{label}", head="Image Index,Finding Labels"),
    "traffic signs": rows("29;30;5;6;{label};{at}.png", head="Width;Height;Roi.X1;Roi.Y1;ClassId;Path"),
    "index of pandas": rows("{at},{at}.png,{label}", head=",filename,class"),
    "no header": rows("{at}.png,{label}"),
    "no header, label first": rows("{label},{at}.png"),
    "no header, split first": rows("TRAIN,{at}.png,{label}"),
    "no header, split last": rows("{at}.png,{label},valid"),
    "no header, a mask between": rows("{at}.png,masks/{at}.png,{label}"),
    "no header, separators at the end": rows("{at}.png,{label},,"),
    "semicolons": rows("{at}.png;{label}", head="path;label"),
    "tabs": rows("{at}.png\t{label}", head="path\tlabel"),
    "bars": rows("{at}.png|{label}", head="path|label"),
    "spaces": rows("{at}.png {label}"),
    "empty lines above": "\n \n" + rows("{at}.png;{label}", head="path;label"),
    "empty lines above a separator": "\n\nsep=;\n" + rows("{at}.png;{label}", head="path;label"),
    "named separator": "sep=;\r\n" + rows("{at}.png;{label}", head="path;label"),
    "byte order mark": b"\xef\xbb\xbf" + rows("{at}.png,{label}", head="path,label").encode(),
    "utf-16": rows("{at}.png\t{label}", head="path\tlabel").encode("utf-16"),
    "windows lines": rows("{at}.png,{label}", head="path,label").replace("\n", "\r\n"),
    "quotes": rows('"{at}.png", "{label}"', head='"path", "label"'),
    "spaces around": rows(" {at}.png , {label} ", head=" Path , Label "),
    "empty rows": rows("{at}.png,{label},\n,,\n", head="path,label,"),
    "backslashes": rows(".\\{at}.png,{label}", head="path,label"),
    "other case": rows("{at}.PNG,{label}", head="FileName,LABEL"),
    "one-hot": rows("{at},{label}", head="image,cat,dog", names=("1.0,0.0", "0.0,1.0")),
    "pixels in a text": rows("{label},{at}" + " 0" * 2303, head="emotion,pixels"),
    "pixels in a list": rows('"[{at}' + ", 0" * 783 + ']",{label}', head="image,label"),
    "columns of pixels": rows("{label},{at}" + ",0" * 783, head=PIXELS),
    "columns of places": rows("{label},{at}.0" + ",0.0" * 783,
                              head="label," + ",".join(f"{y}x{x}" for y in range(28) for x in range(28))),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_tables_as_people_have_them(photos, case):
    classes, train, test, _ = found(photos, READ[case])
    assert (classes, train, test) == (("cat", "dog"), TRUE, {})


def test_named_columns_are_used(photos):
    """Whatever their names are, and whatever other columns are called."""
    table = rows("{at}.png,x{at}.png,{label},train,same", head="thing,path,kind,split,label")
    classes, train, _, notes = found(photos, table, image_column="thing", label_column="kind")
    assert (classes, train) == (("cat", "dog"), TRUE)
    assert notes == (f"{photos}/table.csv has columns that are not used: path, label",)
    table = rows("{at}.png,{label},{at}", head="id,split,y")
    assert found(photos, table, image_column="id", label_column="split")[:3] == (("cat", "dog"), TRUE, {})
    table = rows("{at}.png,{label}", head="subset,path")
    assert found(photos, table, image_column="subset", label_column="path")[:3] == (("cat", "dog"), TRUE, {})
    for settings, line in (
        ({"label_column": "sort"}, r"table.csv has no column sort: its first line is subset,path$"),
        (
            {"image_column": "path", "label_column": "path"},
            "the column path cannot have both the images and the labels",
        ),
    ):
        with pytest.raises(InputError, match=line):
            found(photos, table, **settings)


def test_another_column_of_labels_is_told_of_where_it_matters(photos):
    told = "the labels of {}/table.csv are in the column label; dataset.label_column=target takes others"
    head = "path,label,target,class,species"
    table = rows("{at}.png,{label},{at},{label}s,", head=head)  # of another sense, of the same, and empty
    classes, train, _, notes = found(photos, table)
    assert (classes, train) == (("cat", "dog"), TRUE)
    assert notes[0] == told.format(photos)
    assert len(notes) == 2
    assert found(photos, table, label_column="label")[3] == notes[1:]
    assert len(found(photos, table, label_column="target")[0]) == COUNT


def test_absolute_paths_need_no_root(photos, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    _, train, _, _ = found(elsewhere, rows(f"{photos}/{{at}}.png,{{label}}"))
    assert train == TRUE
    _, train, _, _ = found(elsewhere, rows("{at},{label}", head="id,label"), root=str(photos))
    assert train == TRUE


REFUSED = {
    "unknown names": (rows("{at},{label}", head="thing,kind"), "thing,kind.*path, file.*label, class"),
    "no labels": (rows("{at}.png", head="path,"), "no column label.*path,.*label, class"),
    "places and sizes": (rows("{at}.png,1,2", head="path,x,y"), "no column label.*path,x,y"),
    "only labels": (rows("{label},1", head="label,weight"), "no column path.*label,weight.*path, file"),
    "boxes without a header": (rows("{at}.png,1,2,3,4,{label}"), "no header.*0.png,1,2,3,4,cat: .*first line"),
    "boxes, none first": ("0.png,,,,,\n" + rows("{at}.png,1,2,3,4,{label}"), "no header.*0.png,,,,,: it is not clear"),
    "sizes without a header": (rows("{label},{at}.png,640"), "no header.*cat,0.png,640: it is not clear"),
    "no first label": ("0.png,,5\n" + rows("{at}.png,{label},5"), "no header.*0.png,,5: it is not clear"),
    "infinite": (rows("{at}.png,{label}", head="path,label", names=("0", "1", "-inf")), "label -inf beside numbers"),
    "bare pixels": (rows("0" + ",{at}" * 784), "785 columns of numbers and no header"),
    "pixels of colours": (rows("{label},{at}" + " 0" * 2351, head="emotion,pixels"), "line 2: 2352 pixels are no"),
    "columns of colours": (rows("{label}" + ",{at}" * 192, head=PIXELS[: PIXELS.index(",pixel192")]), "192 columns of"),
    "levels above 255": (rows("{label},300" + " 0" * 783, head="emotion,pixels"), "line 2: pixels must be whole"),
    "levels to 1": (rows("{label},0.5" + ",0" * 783, head=PIXELS), "line 2: pixels must be whole numbers"),
    "several labels": (rows("{at},{label}", head="image,cat,dog", names=("1,0", "1,1")), "line 3.*labels, cat, dog"),
    "no number": (rows("{at}.png,{label}", head="path,label", names=("0", "1", "-1")), "label -1 beside other numbers"),
    "latin-1": (b"path,label\n0.png,chien\n1.png,b\xeate\n", "byte that is not UTF-8, ea, in line 3: save"),
    "latin-1, far below": (b"path,label\r\n" + b"0.png,caf\xc3\xa9\r\n" * 5000 + b"1.png,\xe9",
                           "UTF-8, e9, in line 5002:"),
    "latin-1 after a mark": (b"\xef\xbb\xbfpath,label\r0.png,\xc3\xa9\r\xe9.png,cat\r", "UTF-8, e9, in line 3:"),
    "cut in a character": ("path,label\n0.png,cat".encode("utf-16-le").join((b"\xff\xfe", b"\n")),
                           "not UTF-16, 0a, in line 2:"),
    "unquoted comma": ("path,label\n0.png,Dog\n1.png,Cat, tabby\n",
                       "line 3: 3 cells, where the first line has 2: 1.png,Cat,t"),
    "unquoted comma, unnamed column": ("path,label,\n0.png,Dog,\n1.png,Cat, tabby\n",
                                       "line 3: 3 cells, where .* has 2"),
    "unquoted comma before the path": ("label,path\nDog,0.png\nCat, tabby,1.png\n", "line 3: 3 cells"),
    "unquoted comma, no header": ("0.png,Dog\n1.png,Cat, tabby\n", "line 2: 3 cells, where the first line has 2"),
    "unquoted comma in the first row": ("0.png,Cat, tabby\n1.png,Dog\n", "not clear which column has the labels"),
    "unquoted comma without a header": ("0.png,Cat\n1.png,Dog, brown\n", "line 2: 3 cells, where the first line has 2"),
    "joined labels": (rows("{at},{label}", head="id,label", names=("cat", "dog", "dog | owl")),
                      "line 4: .*labels, dog, owl"),
    "joined by semicolons": (rows('{at},"{label}"', head="id,label", names=("cat", "dog", "owl;cat")),
                             "line 4: .*owl, cat"),
    "joined findings": (rows("{at}.png,{label}", head="Image Index,Finding Labels", names=("a|b", "c|d")),
                        "line 2: .*a, b"),
    "json": (b'[\n {"path": "0.png", "label": "cat"}]', "is JSON: give a table, such as a csv or tsv"),
    "json lines": (b'\xef\xbb\xbf{"path": "0.png", "label": "cat"}\n', "is JSON: give a table"),
    "web page": (b"\n<!DOCTYPE html><html>", "is a web page: give a table"),
    "open quote": ('path,label\n0.png,"cat\n1.png,dog\n', "cannot read .*line .*quotes"),
    "excel": (b"PK\x03\x04" + bytes(100), "is a zip or an Excel file"),
    "parquet": (b"PAR1" + bytes(100), "is a parquet file"),
    "urls": (rows("https://example.org/{at}.png,{label}", head="path,label"), "12 URLs.*download"),
    "long text": (rows("x" * 5000 + "{at},{label}", head="path,label"), "names 12 files that are not there"),
    "below a separator": ("sep=;\npath;label\n0.png;cat\n1.png;dog;1\n", "line 4: 3 cells"),
    "one class, and no labels": (rows("{at}.png,{label}", head="path,label", names=("cat", "null")),
                                 r"cat, and 6 images are left out, such as 1.png \(line 3\) \(no label\): a"),
    "one class": (rows("{at}.png,cat", head="path,label"), "single label, cat"),
    "no values": (rows("{at}.png,", head="path,label"), "has no labels"),
    "empty": ("", "is empty: give a table"),
    "only a header": ("path,label\n", "has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_be_read_is_one_line(photos, case):
    text, line = REFUSED[case]
    with pytest.raises(InputError, match=line) as error:
        found(photos, text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 900


@pytest.mark.parametrize(
    "name", ["Caf\u00e9/{at} \u00fc.png", "CAFE\u0301\\{at} u\u0308.PNG", "cafe\u0301/{at} \u00fc"]
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_and_folders_are_found_in_another_case_and_in_other_accents(photos, name, form):
    """A table of macOS or Windows beside files of Linux."""
    folder = photos / unicodedata.normalize(form, "café")
    folder.mkdir()
    for at in range(COUNT):
        (photos / f"{at}.png").rename(folder / unicodedata.normalize(form, f"{at} ü.png"))
    _, train, _, _ = found(photos, rows(f"{name},{{label}}", head="path,label"))
    assert train == TRUE


def test_folders_that_differ_in_case_alone_are_two(photos):
    for at, folder in enumerate(("Cats", "cats")):
        (photos / folder).mkdir()
        (photos / f"{at}.png").rename(photos / folder / "0.png")
    assert found(photos, "path,label\nCats/0.png,a\ncats/0.png,b\n")[1] == {0: "a", 1: "b"}
    with pytest.raises(InputError, match=r"not there, such as CATS/0.png"):
        found(photos, "path,label\nCATS/0.png,a\ncats/0.png,b\n")


def test_a_text_with_very_many_separators_is_no_file(photos):
    """As an image in base64 is, in a column of images."""
    with pytest.raises(InputError, match=r"names 2 files that are not there, such as a/a/"):
        found(photos, f"path,label\n{'a/' * 2000}0,a\n{'b/' * 2000}0,b\n")


def test_a_name_that_may_mean_two_files_is_refused(photos):
    (photos / "0.jpg").write_bytes((photos / "0.png").read_bytes())
    with pytest.raises(InputError, match=r"0 may be 0.jpg or 0.png"):
        found(photos, rows("{at},{label}", head="id,label"))


@pytest.mark.parametrize("form", ["{at}.heic,{label}", "{at}.jpg,{label}", "{at},{label}"])
def test_photographs_that_need_pillow_heif_say_so(photos, form):
    """Also by their content, whatever they are called."""
    for at in range(COUNT):
        path = photos / f"{at}.png"
        if at % 2 or form == "{at}.jpg,{label}":
            path.unlink()
        ending = "jpg" if "jpg" in form else "heic"
        (photos / f"{at}.{ending}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(at + 50))
    (photos / "table.csv").write_text(rows(form, head="id,label"))
    given = Dataset(name="own", source="csv", train=str(photos / "table.csv"))
    some = form == "{at},{label}"
    line = "own has no image of class dog to train on .6 of 12" if some else "none of 12 images of own can be read"
    with pytest.raises(InputError, match=rf"{line}.* \(Install pillow-heif to read .heic files\)"):
        load(given, photos / "data")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("0", "0.0", "1", "1.0"), ("0", "1")),
        (("0.0", "1.0"), ("0.0", "1.0")),
        (("0", "00", "01", "1"), ("0", "00", "01", "1")),
        (("True", "true", "false"), ("False", "True")),
        (("10", "9", "b", "2", "a"), ("2", "9", "10", "a", "b")),
        (("-1", "1"), ("1", "-1")),
        (("caf\u00e9", "cafe\u0301", "tea"), ("caf\u00e9", "tea")),  # one is how macOS writes it
        (("cafe\u0301", "tea"), ("cafe\u0301", "tea")),
    ],
)
def test_labels_that_are_spelled_in_several_ways(photos, names, classes):
    assert found(photos, rows("{at}.png,{label}", head="path,label", names=names))[0] == classes


def test_the_order_of_the_classes_is_the_same_in_every_process(photos):
    table = photos / "table.csv"
    table.write_text(rows("{at}.png,{label}", head="path,label", names=("0", "00", "000", "01", "1", "x")))
    code = (
        "import sys; from fastconv.data.sources.labels import class_names;"
        "print(list(dict.fromkeys(class_names(sys.argv[1:], '').values())))"
    )
    seen = set()
    for seed in ("1", "2", "3"):
        command = [sys.executable, "-c", code, "1", "x", "00", "000", "01", "0"]
        seen.add(
            subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True).stdout
        )
    assert seen == {"['0', '00', '000', '01', '1', 'x']\n"}


def test_images_without_a_label_are_left_out_and_counted(photos):
    for value in ("", "NaN", "null", "<NA>"):
        classes, train, _, _ = found(photos, rows("{at}.png,{label}", head="path,label", names=("cat", "dog", value)))
        assert classes == ("cat", "dog")
        assert sorted(train) == [at for at in range(COUNT) if at % 3 < 2]
    given = Dataset(name="own", source="csv", train=str(photos / "table.csv"))
    opened = open_described(given, photos / "data", open_source(given, photos))
    assert opened.unreadable == [(f"{at}.png (line {at + 2})", "no label") for at in range(2, COUNT, 3)]
    assert opened.note == "4 of 12 images have no label, such as 2.png (line 4)"
    assert load(given, photos / "data")[0].note == f"left out: {opened.note}"
    given.strict = True
    with pytest.raises(InputError, match="4 of 12 images have no label"):
        load(given, photos / "data")


@pytest.mark.parametrize(
    ("head", "values"),
    [
        ("split", ("train", "test")),
        ("Usage", ("Training", "PrivateTest")),
        ("data set", ("train", "valid")),
        ("is_valid", ("False", "True")),
        ("is_test", ("0", "1")),
        ("is_training_image", ("1", "0")),
    ],
)
def test_a_column_of_the_split_is_used(photos, head, values):
    lines = [f"{at}.png,{('cat', 'dog')[at % 2]},{values[at >= 8]}" for at in range(COUNT)]
    _, train, test, notes = found(photos, "\n".join([f"path,label,{head}", *lines]))
    assert train == {at: label for at, label in TRUE.items() if at < 8}
    assert test == {at: label for at, label in TRUE.items() if at >= 8}
    assert [head in note for note in notes] == [True]


def test_rows_of_a_third_split_are_left_out_and_counted(photos):
    lines = [f"{at}.png,{('cat', 'dog')[at % 2]},{('train', 'val', 'test')[at // 4]}" for at in range(COUNT)]
    _, train, test, notes = found(photos, "\n".join(["path,label,split", *lines]))
    assert (sorted(train), sorted(test)) == ([0, 1, 2, 3], [8, 9, 10, 11])
    assert any("left out: 4 rows" in note and "split=val" in note for note in notes)


@pytest.mark.parametrize(("splits", "tested"), [(("train", "test"), []), (("train", "val", "test"), [1, 4, 7, 10])])
def test_a_split_without_labels_is_left_out(photos, splits, tested):
    """As of a competition, whose test images have none."""
    parts = [splits[at % len(splits)] for at in range(COUNT)]
    lines = [f"{at}.png,{('cat', 'dog')[at // 6] if part != 'test' else ''},{part}" for at, part in enumerate(parts)]
    _, train, test, notes = found(photos, "\n".join(["path,label,split", *lines]))
    assert sorted(train) == [at for at, part in enumerate(parts) if part == "train"]
    assert sorted(test) == tested
    count = parts.count("test")
    assert notes[-1] == f"left out: {count} rows of {photos}/table.csv with split=test, which have no label"
    given = Dataset(name="own", source="csv", train=str(photos / "table.csv"), strict=True, test_share=0.4)
    assert len(load(given, photos / "data")[1]) == (4 if tested else 2)


def test_values_of_the_split_are_shown_as_typed(photos):
    *_, notes = found(photos, rows("{at}.png,{label},A", head="path,label,Split"))
    assert notes == (f"the column Split of {photos}/table.csv is not used: A is no split that is known",)


def test_a_table_to_test_with_is_told_from_one_to_train_on(photos):
    *_, notes = found(photos, rows("{at}.png,{label},test", head="path,label,split"))
    assert notes == (f"the column split of {photos}/table.csv is not used: none of its rows is to train on",)
    assert found(photos, rows("{at}.png,{label},train", head="path,label,split"))[3] == ()


def test_columns_that_are_not_used_are_named(photos):
    *_, notes = found(photos, rows("{at}.png,{label},1,2,3,4,0.5", head="path,label,xmin,ymin,xmax,ymax,weight"))
    assert "xmin, ymin, xmax, ymax, weight" in notes[0]
    *_, notes = found(photos, rows("{at}.png,{label},{at}", head="path,label,fold"))
    assert "the column fold" in notes[0]
    assert "not used" in notes[0]
    (photos / "test.csv").write_text(rows("{at}.png,{label}", head="path,label"))
    *_, notes = found(photos, rows("{at}.png,{label},train", head="path,label,split"), test=str(photos / "test.csv"))
    assert "since dataset.test is set" in notes[0]


def test_doubtful_classes_are_told(photos):
    for names, told in (
        (("cat", "Cat"), "Cat and cat are 2 classes"),
        (("cat", "cat\u200b"), r"labels cat and 'cat\u200b' are 2 classes"),  # a space without width
        (("\uff43at", "cat"), r"labels cat and '\uff43at' are 2 classes"),  # a wide letter, of East Asian text
        (("0.5", "0.50"), "labels 0.5 and 0.50 are 2 classes"),
        (("1", "+1", "x"), "labels 1 and +1 are 2 classes"),
        (("cat", "dog", "cat, dog"), "though cat and dog are classes"),
        (("pet|cat", "pet|dog"), "label pet|cat is a class of its own"),
        (("cat", "No_label"), "label No_label is a class: if it means"),
        (("cat", "None"), "label None is a class"),
    ):
        *_, notes = found(photos, rows('{at}.png,"{label}"', head="path,label", names=names))
        assert told in notes[0]


def test_notes_are_in_the_plan_and_in_the_audit(photos, command):
    lines = rows("{at}.png,{label},0.5", head="path,label,weight")
    (photos / "table.csv").write_text(lines)
    given = ("dataset=csv", "dataset.train=table.csv", "batch_size=4", "micro_batch_size=4")
    ended = command("audit", *given)
    assert ended.code == 0, ended.err
    assert "note: table.csv has columns that are not used: weight" in ended.out
    train, _ = load(Dataset(name="own", source="csv", train=str(photos / "table.csv")), photos / "data")
    assert "weight" in train.note


def test_an_image_with_two_labels_is_told_by_the_audit(photos):
    lines = [*rows("{at}.png,{label}", head="path,label").splitlines(), "3.png,cat"]
    (photos / "table.csv").write_text("\n".join(lines))
    config = compose("train", ["dataset=csv", f"dataset.train={photos}/table.csv", "dataset.test_share=0.1"])
    told = "\n".join(audit(OmegaConf.to_object(config)).report())
    assert "contradictory: 1 image has several labels, such as 3.png and 3.png" in told
