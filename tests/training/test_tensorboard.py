"""What TensorBoard gets to see of runs, read back with TensorBoard's own readers."""

import json
import re
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import REPOSITORY, SHORT, SMALL, only_run, run_command, stop_at
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler

from fastconv.analysis import figures, run_figures
from fastconv.analysis.checkpoint import load_run
from fastconv.data.loading import load
from fastconv.runs.folder import is_finished
from fastconv.runs.results import MEASURES, Results
from fastconv.training import pictures
from fastconv.training.tensorboard import Dashboard

EVERYTHING = ("dataset=digits", *SMALL, "budget.seconds=500", "schedule.max_epochs=1", "validate.every=0.5",
              "dataset.holdout=0.1", "validate.on=holdout", "stream=online", "figures=true")  # fmt: skip
PICTURES = {"augmented", "confusion", "heatmaps"}
OF_RESULTS = {"accuracy": "accuracy", "loss": "loss"}  # others are results/NAME


def read(run: Path) -> EventAccumulator:
    (_,) = run.glob("events.out.tfevents.*")
    return EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def layout(events: EventAccumulator) -> Layout:
    (event,) = events.Tensors("custom_scalars__config__")
    return Layout.FromString(event.tensor_proto.string_val[0])


def answers(run: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and answers of the test split, by the network of `last.ckpt` and plain torch."""
    found, (_, test) = load_run(run), load("digits", data)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (found.mean, found.std))
    with torch.no_grad():
        logits = found.model((torch.tensor(np.array(test.images)).permute(0, 3, 1, 2) / 255 - mean) / std)
    return np.array(test.labels), logits.argmax(1).numpy()


@pytest.fixture(scope="module")
def shown(tmp_path_factory, digits_root):
    """(folder, events, what `confusion.png` was drawn of) of a run that leaves everything a run can leave."""
    folder, drawn, draw = tmp_path_factory.mktemp("shown"), [], run_figures.draw_confusion
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run_figures, "draw_confusion", lambda counts, *others: (drawn.append(counts), draw(counts, *others))
        )
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            ended = run_command(folder, digits_root, "train", *EVERYTHING)
    assert ended.code == 0, ended.err
    assert not [str(each.message) for each in heard if re.search("left out|jit|trac", str(each.message))]
    run = only_run(folder)
    (counts,) = drawn
    return run, read(run), counts


@pytest.mark.parametrize("name", ["$HOME", "~", "a::b", "${HOME}"])
def test_events_are_in_the_folder_whatever_its_name(tmp_path, monkeypatch, name):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    dashboard = Dashboard(Path(name))
    dashboard.log_metrics({"loss": 1.0}, 1)
    dashboard.save()
    dashboard.close()
    assert [path.name.split(".")[0] for path in (tmp_path / name).glob("events.out.*")] == ["events"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["home", name])
    assert list(home.iterdir()) == []


def test_the_numbers_of_a_step_are_one_event(tmp_path):
    """And what is no number is logged all the same."""
    dashboard = Dashboard(tmp_path)
    dashboard.log_metrics({"a": 0.5, "b": 2, "c": np.float64(3.0)}, 7)
    dashboard.log_metrics({"a": 0.25, "tensor": torch.tensor(4.0)}, 8)
    dashboard.close()
    (path,) = tmp_path.glob("events.out.*")
    found = [event for event in EventFileLoader(str(path)).Load() if event.summary.value]
    assert [{value.tag for value in event.summary.value} for event in found if event.step == 7] == [{"a", "b", "c"}]
    events = read(tmp_path)
    scalars = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {"a": [(7, 0.5), (8, 0.25)], "b": [(7, 2.0)], "c": [(7, 3.0)], "tensor": [(8, 4.0)]}


def test_the_tags_are_those_of_the_docs(shown):
    _, events, _ = shown
    text = (REPOSITORY / "docs" / "runs.md").read_text().split("## In TensorBoard")[1]
    rows = {
        row.split("|")[1].strip(): set(re.findall(r"`([\w/]+)`", row)) for row in text.split("\n") if row[:1] == "|"
    }
    tags = events.Tags()
    assert set(tags["scalars"]) == rows["Time Series, Scalars"]
    assert set(tags["images"]) == rows["Images"] == {f"pictures/{name}" for name in PICTURES}
    assert {f"{tag}/text_summary" for tag in rows["Text"]} < set(tags["tensors"])
    assert tags["graph"]


def test_pictures_are_the_files(shown):
    run, events, _ = shown
    for name in PICTURES:
        (event,) = events.Images(f"pictures/{name}")
        height, width, _ = figures.read_png(run / f"{name}.png").shape
        assert (event.height, event.width) == (height, width)
    assert events.Images("pictures/confusion")[0].step == Results.read(run).steps


def test_the_text_is_the_config(shown):
    run, events, _ = shown
    (event,) = events.Tensors("config/text_summary")
    assert event.tensor_proto.string_val[0].decode() == f"```yaml\n{(run / 'config.yaml').read_text()}```"


def test_the_graph_has_the_blocks_of_the_network(shown):
    _, events, _ = shown
    names = {node.name.split("/")[1] for node in events.Graph().node if node.name.count("/") > 1}
    assert {"Sequential[layer1]", "Sequential[layer3]", "ConvNorm[prep]", "Linear[linear]"} <= names


def test_charts_are_of_tags_that_are_there(shown):
    _, events, _ = shown
    found = layout(events)
    assert [category.title for category in found.category] == ["training", "speed", "budget"]
    matched = [
        tag
        for category in found.category
        for chart in category.chart
        for pattern in chart.multiline.tag
        for tag in events.Tags()["scalars"]
        if re.match(pattern, tag)
    ]
    curves = [tag for tag in events.Tags()["scalars"] if not re.match("results/|(accuracy|loss)$", tag)]
    assert sorted(matched) == sorted(curves)


def test_it_opens_on_the_curves(shown):
    """TensorBoard has the first two groups of tags open, in the order of the alphabet."""
    _, events, _ = shown
    groups = sorted({tag.partition("/")[0] for tag in [*events.Tags()["scalars"], *events.Tags()["images"]]})
    assert groups[:2] == ["accuracy", "loss"]


def test_results_are_those_of_the_file(shown):
    run, events, _ = shown
    found = json.loads((run / "results.json").read_text())
    for key in (*MEASURES, "loss", "epochs", "seconds_counted", "images_per_second"):
        (event,) = events.Scalars(OF_RESULTS.get(key, f"results/{key}"))
        assert event.value == pytest.approx(found[key], rel=1e-6)
        assert event.step == found["steps"]


def test_the_confusion_matrix_is_scikit_learns(shown, digits_root):
    run, _, counts = shown
    np.testing.assert_array_equal(counts, confusion_matrix(*answers(run, digits_root), labels=range(10)))
    assert counts.trace() / counts.sum() == pytest.approx(Results.read(run).accuracy, abs=1e-6)


# -- several runs


def test_the_hparams_page_sorts_and_filters_a_sweep(command, tmp_path):
    """Asked as its page asks: for the columns first, then for the runs, the best first."""
    settings = ("dataset=digits", *SHORT, "stream=online", "validate.on=none")
    assert command("train", "-m", *settings, "schedule=one_cycle,constant", "seed=0,1").code == 0
    runs = {path.parent.name: Results.read(path.parent) for path in tmp_path.rglob("results.json")}
    assert len(runs) == 4
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(sweep))
    multiplexer.Reload()
    assert sorted(multiplexer.Runs()) == sorted(runs), "a run has no further folder for its settings"
    context, asked = (
        Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(sweep)))),
        RequestContext(),
    )
    page = context.experiment_from_metadata(
        asked, "", True, context.hparams_metadata(asked, ""), context.hparams_from_data_provider(asked, "", None)
    )
    assert [each.name for each in page.hparam_infos if each.differs] == ["schedule.name", "seed", "stream.seed"]
    assert {each.name.tag for each in page.metric_infos} >= {"accuracy", "loss"}
    assert page.metric_infos[0].name.tag == "accuracy", "the first column of a result"
    assert layout(read(sweep / "0")) == layout(read(sweep / "2")), "or TensorBoard would show their charts twice"

    def ask(*columns: api_pb2.ColParams) -> list[api_pb2.SessionGroup]:
        request = api_pb2.ListSessionGroupsRequest(
            experiment_name="", start_index=0, slice_size=10, include_metrics=True, col_params=columns,
            allowed_statuses=[api_pb2.STATUS_SUCCESS],
        )  # fmt: skip
        return list(Handler(asked, context, "", request).run().session_groups)

    best = api_pb2.ColParams(metric=api_pb2.MetricName(tag="accuracy"), order=api_pb2.ORDER_DESC)
    found = ask(best)
    values = [next(each.value for each in row.metric_values if each.name.tag == "accuracy") for row in found]
    assert values == pytest.approx(sorted((each.accuracy for each in runs.values()), reverse=True))
    for row, value in zip(found, values, strict=True):
        assert value == pytest.approx(runs[row.name].accuracy)
        assert row.hparams["seed"].number_value == runs[row.name].seed
        assert row.hparams["optimizer.nesterov"].bool_value is True
        assert row.hparams["budget.counts"].string_value == "train, validate"
    only = api_pb2.ColParams(hparam="schedule.name")
    only.filter_discrete.values.add(string_value="constant")
    assert {row.hparams["schedule.name"].string_value for row in ask(best, only)} == {"constant"}
    assert len(ask(best, only)) == 2


def test_a_run_that_goes_on_shows_each_thing_once(command, tmp_path, monkeypatch):
    """Stopped when it is scored: it is not finished, and all is written anew."""
    settings = ("dataset=digits", *SHORT, "stream=online", "validate.on=none", "figures=true")
    with monkeypatch.context() as patch:
        stop_at(patch, "test_step", 1)
        assert command("train", *settings).code == 143
    run = only_run(tmp_path)
    assert not is_finished(run)
    assert command("train", *settings, "resume=auto").code == 0
    (path,) = run.glob("events.out.tfevents.*")
    events = list(EventFileLoader(str(path)).Load())
    tags = Counter(value.tag for event in events for value in event.summary.value)
    once = {*(f"pictures/{name}" for name in PICTURES), "config/text_summary", "custom_scalars__config__",
            metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG, "accuracy", "loss"}  # fmt: skip
    assert {tag: tags[tag] for tag in once} == dict.fromkeys(once, 1)
    assert sum(bool(event.graph_def) for event in events) == 1
    assert not any(tag.endswith(("/validate", "/budget_used")) for tag in tags)
    for category in layout(read(run)).category:
        for chart in category.chart:
            assert any(re.match(pattern, tag) for pattern in chart.multiline.tag for tag in tags), "an empty chart"


@pytest.mark.parametrize("part", ["augmented", "confusion", "heatmaps"])
def test_what_cannot_be_shown_is_left_out(command, tmp_path, monkeypatch, part):
    def fail(*_):
        raise ValueError("no ink")

    monkeypatch.setattr(pictures if part == "heatmaps" else run_figures, f"draw_{part}", fail)
    with pytest.warns(UserWarning, match=f"left out: {part} .no ink."):
        assert command("train", "dataset=digits", *SHORT, "stream=online", "validate.on=none", "figures=true").code == 0
    run = only_run(tmp_path)
    assert is_finished(run)
    events = read(run)
    assert set(events.Tags()["images"]) == {f"pictures/{name}" for name in PICTURES - {part}}
    assert events.Tags()["graph"]


@pytest.mark.slow
def test_the_confusion_matrix_of_two_ranks(tmp_path, digits_root, monkeypatch):
    """Every test image once, whichever rank scored it."""
    script = tmp_path / "train.py"
    script.write_text(
        "import numpy as np\nfrom fastconv import train\nfrom fastconv.analysis import run_figures\n"
        f"run_figures.draw_confusion = lambda counts, *_: np.save({str(tmp_path / 'counts.npy')!r}, counts)\n"
        "train.main()\n"
    )
    for name, value in (("FASTCONV_DATA", digits_root), ("OMP_NUM_THREADS", 1), ("PYTHONPATH", REPOSITORY)):
        monkeypatch.setenv(name, str(value))
    overrides = ("dataset=digits", *SHORT, "trainer=ddp", "trainer.accelerator=cpu", "stream=online")
    command = [sys.executable, str(script), *overrides, "schedule.max_epochs=2"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    counts = np.load(tmp_path / "counts.npy")
    np.testing.assert_array_equal(counts, confusion_matrix(*answers(only_run(tmp_path), digits_root), labels=range(10)))


# -- the figure


@pytest.mark.parametrize("count", [2, 10, 120])
def test_the_confusion_matrix_can_be_read(monkeypatch, tmp_path, count):
    """Counts in the cells of few classes, the most frequent errors by name of many."""
    kept, save = [], run_figures.save
    monkeypatch.setattr(run_figures, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
    classes = tuple(f"class {number}" for number in range(count))
    counts = 90 * np.eye(count, dtype=np.int64)
    counts[1, 0] = 10
    counts[0] = 0  # a label of which there is no image
    run_figures.draw_confusion(counts, classes, "title", tmp_path / "confusion.png")
    texts = [text.get_text() for axes in kept[0].axes for text in axes.texts]
    if count == 120:
        assert texts == ["most frequent errors: label as prediction\n\n10 of 100: class 1 as class 0"]
    else:
        assert sorted(texts) == sorted(["10", *["90"] * (count - 1)])
    height, width, _ = figures.read_png(tmp_path / "confusion.png").shape
    assert height < 1200
    assert width < 1600
