"""fastconv from Python."""

import signal
import zipfile

import numpy as np
import pandas
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import fastconv
from fastconv.api import _given, _settings
from fastconv.runs.results import Results
from fastconv.system.errors import InputError
from fastconv.system.signals import defer, listening, received
from fastconv.training.module import ImageClassifier

SMALL = ("model.widths=[8,16,16]", "batch_size=64", "tta.shift=0", "figures=false", "schedule.max_epochs=6")


@pytest.fixture
def here(tmp_path, digits_root, monkeypatch, simulated_time):
    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arrays_are_learned(here):
    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)
    names = np.array(["even", "odd"])[digits.target % 2]
    predictor = fastconv.fit((images, names), 60, *SMALL)
    assert predictor.classes == ("even", "odd")
    assert predictor.run.results.accuracy > 0.9
    assert predictor.run.folder.resolve().is_relative_to(here / "outputs" / "arrays")
    found = predictor.predict(list(images[:200]))
    assert np.mean(np.array(found.names) == names[:200]) > 0.9


def test_it_says_that_it_reads_images_before_it_does(here, monkeypatch, capsys):
    said = []

    def read(config):
        said.append(capsys.readouterr().out)
        raise InputError("no images")

    monkeypatch.setattr("fastconv.api.check_run", read)
    with pytest.raises(InputError, match="no images"):
        fastconv.fit("digits", 60)
    assert said == ["fastconv: reading the settings and the images\n"]


def test_ranks_of_a_second_call_do_not_hear_what_was_said_in_the_first(here, monkeypatch):
    begun = []
    monkeypatch.setattr("fastconv.api.begin_job", begun.append)
    for _ in range(2):
        with pytest.raises(InputError, match="leave out dry_run"):
            fastconv.fit("digits", 60, "dry_run=true")
    assert len(set(begun)) == 2


def test_a_folder_with_an_odd_name_is_learned(here):
    digits = load_digits()
    for at in range(300):
        folder = here / "my photos, 50% {new}" / f"a={digits.target[at] % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[at] * 15).astype(np.uint8)).save(folder / f"{at}.png")
    predictor = fastconv.fit(here / "my photos, 50% {new}", 60, *SMALL, "dataset.name=photos", "schedule.max_epochs=2")
    assert predictor.classes == ("a=0", "a=1")
    assert predictor.shape == (24, 24, 1)


def test_a_folder_that_no_run_could_name_again_is_refused(here):
    for label in "ab":
        folder = here / "${x}" / label
        folder.mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "1.png")
    with pytest.raises(InputError, match="rename the folder, or link to it") as error:
        fastconv.fit(here / "${x}", 60, *SMALL)
    assert str(error.value).startswith(f"dataset.root={here}/${{x}} is not possible")
    assert not (here / "outputs").exists()


@pytest.mark.parametrize("folder", ["../train", "./digits", "arrays", "custom"])
def test_a_folder_is_no_name(tmp_path, monkeypatch, folder):
    """`conf` has a train.yaml above the files of data sets, and among these one of each kind of source."""
    (tmp_path / "here" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert _settings(folder) == ["dataset=image_folder", f"dataset.root={str(tmp_path / 'here' / folder)!r}"]
    (tmp_path / "here" / folder).rmdir()
    assert _settings("digits") == ["dataset=digits"]
    assert _settings("arrays") == ["dataset=arrays"]


def test_a_leading_tilde_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my photos").mkdir()
    assert _settings("~/my photos") == ["dataset=image_folder", f"dataset.root='{tmp_path}/my photos'"]
    with pytest.raises(InputError, match=f"^{tmp_path}/my photos is not the folder of a run"):
        fastconv.load("~/my photos")


def test_a_named_set_is_learned_and_found_again(here):
    predictor = fastconv.fit("digits", 60, *SMALL, "schedule.max_epochs=2", objective="macro_f1")
    assert predictor.run.results.hparams["objective"] == "macro_f1"
    again = fastconv.load(predictor.run.folder)
    images = (load_digits().images[:50] * (255 / 16)).round().astype(np.uint8)
    first, second = (each.predict(list(images)).probabilities for each in (predictor, again))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("dataset", "overrides", "line"),
    [
        ("digit", (), "neither a folder nor one of fastconv's data sets"),
        ("digits", ("batch_siz=3",), "did you mean batch_size"),
        ((np.zeros((5, 8, 8)), range(5)), (), r"float64 from 0 to 0: give uint8, .* \(255 \* images\)"),
        ((np.full((5, 8, 8), 0.5), range(5)), (), r"float64 from 0.5 to 0.5: give uint8, .* \(255 \* images\)"),
        ((np.zeros((5, 8), np.uint8), range(5)), (), "images of uint8, 5x8: give uint8, N x H x W"),
        ((np.zeros((5, 8, 8), np.uint8), 3), (), "as many labels as images: they are a single value and 5"),
        ((np.zeros((3, 8, 8), np.uint8), ["a", None, "b"]), (), "label 1 is NoneType: give numbers or names"),
        ((np.zeros((3, 8, 8), np.uint8), ["a", "b", "a|b"]), (), "the label a.b, which is several in one"),
        ((np.zeros((2, 8, 8), np.uint8), [["a"], ["a", "b"]]), (), "labels do not make one array: give numbers"),
        (([np.zeros((8, 8), np.uint8), np.zeros((9, 8), np.uint8)], [0, 1]), (), "images do not make one array"),
        ((["a.png", "b.png"], [0, 1]), (), "the list of images, row 0: a.png is not there"),
        ((["a.png", "b.png"], [0]), (), "as many labels as images: they are 1 and 2"),
        ((np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8), [0, 1]), ("batch_siz=3",), "did you mean batch_size"),
        ((np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]), (), "all images of arrays are the same"),
        ([np.zeros((5, 8, 8), np.uint8), range(5)], (), "is a list of 2: give the name"),
        ((np.zeros((5, 8, 8), np.uint8),), (), "is a tuple of 1: give the name"),
        ([1, 2], (), r"is a list of 2: give the name of a data set, a folder, a file, a table, or \(images, labels\)"),
        (None, (), "the data set is a NoneType: give the name"),
        ("", (), "an empty text is neither a folder"),
        ("x" * 5000, (), "neither a folder"),
        ("my/t.csv", (), "^my/t.csv is not there$"),
        ("a.npz", (), "^a.npz is not there$"),
        (__file__, (), "test_api.py is a file of no known kind: give a folder, or .csv, .tsv"),
        (pandas.DataFrame({"path": ["a.png", "b.png"], "label": "ab"}), (), "DataFrame, row 0: a.png is not there"),
        (
            pandas.DataFrame({"x": [1, 2], "label": [0, 1]}),
            (),
            "no column has the images; its columns are x, label. Say",
        ),
        (pandas.DataFrame({"a": [b"1"] * 2, "b": [b"2"] * 2, "y": [0, 1]}), (), r"may have the images \(a, b\)"),
        (pandas.DataFrame({"image": [b"1"] * 2, "label": [0, 1], "class": [0, 1]}), (), r"the labels \(label, class\)"),
        (pandas.DataFrame({"image": [b"1"] * 2, "label": [0, [1]]}), (), "row 1: the label is list: give a number"),
        (pandas.DataFrame({"image": [b"1"] * 2, "label": [0, 1]}), (), "none of 2 images of dataframe can be read"),
        (
            pandas.DataFrame({"image": [b"1", 3.5], "label": [0, 1]}),
            (),
            "row 1: the image is float: give a path, bytes",
        ),
        (pandas.DataFrame({"path": [], "label": []}), (), "the DataFrame has no rows"),
        (pandas.DataFrame([[b"1", 0]]), (), "the DataFrame has a column 0, whose name is no text"),
        ((np.zeros((5, 8, 8), np.uint8), range(4)), (), "as many labels as images"),
        ((np.zeros((5, 8, 8), np.uint8), [0] * 5), (), "has a single label"),
        (([], []), (), "the data set has no images"),
        ("digits", ("dry_run=true",), "leave out dry_run"),
    ],
)
def test_bad_input_is_an_error_of_one_line(here, digits_root, dataset, overrides, line):
    """And leaves no copy of the images."""
    before = {path.name for path in (*digits_root.glob("arrays/*.npz"), *digits_root.glob("tables/*"))}
    with pytest.raises(InputError, match=line):
        fastconv.fit(dataset, 60, *overrides)
    assert not (here / "outputs").exists()
    assert {path.name for path in (*digits_root.glob("arrays/*.npz"), *digits_root.glob("tables/*"))} == before


def test_an_archive_is_to_be_unpacked(here):
    with zipfile.ZipFile(here / "photos.zip", "w") as archive:
        archive.writestr("cat/0.png", b"")
    with pytest.raises(InputError, match=r"photos\.zip is an archive: unpack it"):
        fastconv.fit("photos.zip", 60)


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (None, "budget.seconds=null is not possible with autotune"),
        (-5, "give a number of seconds"),
        ("soon", "budget.seconds: Value 'soon'"),
    ],
)
def test_seconds_that_cannot_be_are_an_error_of_one_line(here, seconds, line):
    with pytest.raises(InputError, match=line):
        fastconv.fit("digits", seconds)


def test_ctrl_c_ends_training_and_leaves_signals_as_they_were(here, monkeypatch):
    """As in a notebook, whose next training must not end for the signal of the one before."""
    seconds = ("digits", 6.0, "autotune=[]", *SMALL, "outputs=runs")
    before, steps = signal.getsignal(signal.SIGINT), []

    def step(module, *given):
        steps.append(module)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(module, *given)

    original = ImageClassifier.training_step
    monkeypatch.setattr(ImageClassifier, "training_step", step)
    with pytest.raises(KeyboardInterrupt, match=r"go on with: python -m fastconv\.train resume="):
        fastconv.fit(*seconds)
    assert signal.getsignal(signal.SIGINT) is before
    (run,) = here.glob("runs/digits/*")
    assert Results.read(run).stop_reason == "interrupt"
    assert fastconv.fit(*seconds) is not None
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_end_the_process():
    with listening(second_ends=False):
        defer(True)
        signal.raise_signal(signal.SIGINT)
        assert received() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert received() is None


@pytest.mark.parametrize(
    ("given", "named", "line"),
    [
        (("digits", 10, 3), {}, r"fit takes other settings as strings, .*: '3' is a int$"),
        (("digits", 10, None), {}, r"fit takes other settings as strings, .*: 'None' is a NoneType$"),
        (("digits", 10), {"experiment": ""}, r"experiment='' is not the name of an experiment"),
        (("digits", 10), {"experiment": None}, r"experiment=None is not the name of an experiment"),
    ],
)
def test_what_is_no_setting_is_refused_in_one_line(given, named, line):
    with pytest.raises(InputError, match=line):
        fastconv.fit(*given, **named)


def test_columns_are_named_for_tables_alone(tmp_path):
    (tmp_path / "t.csv").write_text("thing,kind\na.png,cat\n")
    given = _given(tmp_path / "t.csv", "thing", "kind")
    assert given.settings[2:] == ["dataset.image_column='thing'", "dataset.label_column='kind'"]
    for dataset, line in (("digits", "not digits$"), ((np.zeros((2, 8, 8)), [0, 1]), "not for \\(images, labels\\)")):
        with pytest.raises(InputError, match=f"image_column and label_column are for tables.*{line}"):
            fastconv.fit(dataset, 60, label_column="kind")
