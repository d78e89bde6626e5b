"""In a notebook a verb shows one bar and reports are tables; anywhere else nothing is shown. No test needs IPython."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import dataclass, field
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest

import zoo
from connectomics_zoo.evaluate import EvaluateReport, evaluate
from connectomics_zoo.predict import PredictReport
from connectomics_zoo.schema import notebook
from connectomics_zoo.schema.notebook import notebook_bar
from connectomics_zoo.schema.progress import Progress, silent
from connectomics_zoo.schema.report import LONGEST, Report, Table, facts
from connectomics_zoo.train.report import TrainReport
from connectomics_zoo.verify import verify
from connectomics_zoo.weights.transfer import LoadReport


class Display:
    """What IPython's `display` does, and the handle that it returns."""

    def __init__(self):
        self.made, self.states = 0, []

    def __call__(self, data, *, raw, display_id):
        assert raw
        assert display_id
        self.made += 1
        self.states.append(data)
        return self

    def update(self, data, *, raw):
        assert raw
        self.states.append(data)


@pytest.fixture
def kernel(monkeypatch):
    """Let this be a notebook, whose displays are returned."""
    display = Display()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr(notebook, "SHORTEST_INTERVAL", 0.0)
    return display


def test_without_ipython_there_is_no_bar(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert notebook_bar("predict") is None


@pytest.mark.parametrize("shell", [None, types.SimpleNamespace()])
def test_in_ipython_without_a_kernel_there_is_no_bar(kernel, monkeypatch, shell):
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
    assert notebook_bar("predict") is None


def test_one_bar_goes_from_the_first_state_to_the_last(kernel):
    bar = notebook_bar("train")
    assert kernel.made == 0, "nothing is shown before there is something to say"
    for done in range(4):
        bar(Progress(done, 3, unit="steps", label="a", numbers={"loss": 0.5}))
    assert kernel.made == 1
    first, *_, last = (state["text/html"] for state in kernel.states)
    assert first == 'train <progress value="0" max="3"></progress> 0/3 steps, a, loss 0.500, 0:00'
    assert last == 'train <progress value="3" max="3"></progress> 3/3 steps, a, loss 0.500, 0:00'
    assert kernel.states[1]["text/plain"] == "train: 1/3 steps, a, loss 0.500, 0:00, 0:00 left"


def test_states_that_follow_at_once_are_left_out_but_for_the_last(kernel, monkeypatch):
    monkeypatch.setattr(notebook, "SHORTEST_INTERVAL", 60.0)
    bar = notebook_bar("predict")
    for done in range(101):
        bar(Progress(done, 100, unit="voxels"))
    assert [re.search(r"\d+/", state["text/plain"])[0] for state in kernel.states] == ["0/", "100/"]


def test_time_left_counts_from_where_a_resumed_job_began(kernel, monkeypatch):
    now = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(notebook, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    bar = notebook_bar("train")
    bar(Progress(80, 100, unit="steps"))
    bar(Progress(90, 100, unit="steps"))
    assert kernel.states[-1]["text/plain"] == "train: 90/100 steps, 0:10, 0:10 left"


def test_a_label_is_escaped(kernel):
    notebook_bar("verify")(Progress(0, 1, unit="specs", label="<b>\x1b[2J"))
    assert "&lt;b&gt;\\x1b[2J" in kernel.states[0]["text/html"]


def test_a_verb_shows_its_bar_in_a_notebook(kernel):
    verify(["mednext-S", "rsunet"], level="schema")
    assert kernel.made == 1
    assert kernel.states[-1]["text/plain"].startswith("verify: 2/2 specs")


@pytest.mark.parametrize("progress", [silent, lambda _: None])
def test_who_gives_progress_gets_no_bar(kernel, progress):
    verify(["mednext-S"], level="schema", progress=progress)
    assert kernel.made == 0


@pytest.mark.parametrize("verb", ["train", "predict", "decode", "verify"])
def test_every_verb_that_tells_its_progress_asks_for_the_bar(verb, monkeypatch):
    def called(name):
        raise LookupError(name)

    module = sys.modules[getattr(zoo, verb).__module__]
    monkeypatch.setattr(module, "notebook_bar", called)
    arguments = {"train": ["x"], "predict": ["x", "y", "z"], "decode": ["x", "y"], "verify": []}
    with pytest.raises(LookupError, match=verb):
        getattr(zoo, verb)(*arguments[verb])


# Reports


class Cells(HTMLParser):
    """The texts in the cells of a table, and in the title and the picture before it; other tags are an error."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.head, self.widths = [], [], []
        self._in_table = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        assert tag in {"table", "thead", "tbody", "tr", "th", "td", "br", "div", "b", "svg", "rect", "text"}, tag
        assert not attributes or tag in {"svg", "rect", "text"}
        values = dict(attributes)
        assert values.get("fill", "currentColor") == "currentColor"  # what is seen on dark pages as on light ones
        self._in_table = self._in_table or tag == "table"
        if tag in {"th", "td"}:
            self.texts.append("")
        if tag == "rect":
            self.widths.append(float(values["width"]))

    def handle_data(self, data):
        if self._in_table:
            self.texts[-1] += data
        else:
            self.head.append(data.strip())


def cells(report):
    return Cells(report._repr_html_()).texts


@dataclass(frozen=True)
class Example(Report):
    """A report with fields of every kind."""

    name: str
    size_nm: tuple[float, float]
    scores: dict[str, float]
    nothing: None = None
    empty: tuple[int, ...] = ()
    trials: tuple[TrainReport, ...] = ()
    zero: int = 0
    long: str = field(default="x" * 1000)


def test_a_report_is_a_table_of_what_it_says():
    example = Example("a<b>&\x1b[2J", (30.0, 8.5), {"dice": 0.123456}, trials=(TrainReport("r", 1, {}),))
    assert cells(example) == [
        *("field", "value"),
        *("name", "a<b>&\\x1b[2J"),
        *("size nm", "30, 8.5"),
        *("scores", "dice 0.1235"),
        *("trials", "1 of them"),
        *("zero", "0"),
        *("long", "x" * LONGEST + "…"),
    ]


def test_a_table_has_every_text_escaped():
    html = Table(("<i>",), [("<script>alert(1)</script>",), ("a\nb\u202e",)]).to_html()
    assert "<script" not in html
    assert "<i>" not in html
    assert "<td>a<br>b\\u202e</td>" in html


def test_nested_values_stand_in_brackets():
    assert facts({"a": {"b": [1, {"c": "d"}], "e": None}}).rows == [("a", "b (1, (c d))")]


def test_what_was_loaded_is_a_table():
    report = LoadReport("file", exact=("a", "b", "c", "d"), adapted=(("e", "summed"),))
    assert cells(report) == [
        *("tensors of file", "number", "which"),
        *("exact", "4", "a, b, c, …"),
        *("adapted", "1", "e (summed)"),
    ]


def test_a_verification_is_the_table_of_the_terminal(run_zoo):
    report = verify(["mednext-S"], level="schema")
    printed = run_zoo("verify", "mednext-S", "--level", "schema")[1].splitlines()
    assert cells(report)[:6] == printed[0].split() == list(report.table().headers)
    assert cells(report)[6:10] == printed[2].split()[:4]


def test_an_evaluation_is_the_table_of_the_terminal(run_zoo, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = (np.arange(512).reshape(8, 8, 8) % 3 == 0).astype(np.uint8)
    place = f"{tmp_path}/a.h5:x"
    report = evaluate(place, place)
    assert isinstance(report, EvaluateReport)
    printed = run_zoo("evaluate", place, place)[1]
    for row in report.table().rows:
        assert all(text in printed for text in row)
    assert ("Dice", "1.0000") in report.table().rows


def test_a_model_is_a_picture_of_its_scales_and_a_table():
    spec = zoo.get_spec("mednext-S")
    page = Cells(spec._repr_html_())
    assert page.head[:2] == [f"mednext-S {spec.version}", spec.summary]
    assert page.head[2::2] == ["×".join(map(str, output.stride)) for output in spec.outputs]
    assert page.widths == [72 / output.stride[-1] for output in spec.outputs]
    assert page.texts[page.texts.index("parameters") + 1] == "5,552,843 in training, 5,550,915 in inference"
    assert "weights vnc-mito" in page.texts


def test_a_task_is_a_table_of_its_channels_and_another_spec_of_its_fields():
    task = zoo.get_task("affinities-3")
    page = Cells(task._repr_html_())
    assert [page.texts[row] for row in range(4, len(page.texts), 4)] == [channel.name for channel in task.channels]
    assert "affinity (offset [1, 0, 0]" in page.texts[6]
    assert page.head[1].startswith(f"{task.summary} Decoded by ")
    texts = cells(zoo.get_experiment("vnc-mito"))
    assert texts[texts.index("task") + 1] == "mito"


def test_what_shows_no_html_gets_the_same_as_lines():
    report = LoadReport("file", exact=("a", "b"), dropped=("\x1b[2J",))
    bundle = report._repr_mimebundle_()
    assert bundle["text/html"] == report._repr_html_()
    assert bundle["text/plain"].splitlines() == [
        "tensors of file  number  which",
        "exact            2       a, b",
        "dropped          1       \\x1b[2J",
    ]
    spec = zoo.get_spec("mednext-S")
    assert spec._repr_mimebundle_()["text/plain"].startswith(f"mednext-S {spec.version}: {spec.summary}\nfield ")


def test_pictures_show_shares_and_scores_by_their_lengths():
    loaded = Cells(LoadReport("file", exact=("a", "b", "c"), reinitialised=("d",))._repr_html_())
    assert loaded.widths[0] == 3 * loaded.widths[2]
    assert loaded.head == ["3 exact", "1 re-initialised"]
    scores = {"dice": 0.5, "voi": 2.0, "iou": float("nan")}
    report = EvaluateReport(
        *("p", "t", None, "semantic", "labels", None, None, (), 8, 0, scores), {"er": {"dice": 0.25, "voxels": 2}}
    )
    found = Cells(report.picture())
    assert found.head == ["Dice", "0.5000", "Dice of er", "0.2500"]
    assert [found.widths[number] / found.widths[0] for number in (1, 3)] == [0.5, 0.25]


def test_a_list_of_models_is_a_list_and_a_table():
    found = zoo.list_models("mednext*")
    assert found == [reference for reference in zoo.list_models() if reference in found]
    texts = cells(found)
    assert texts[0] == "model"
    assert texts[6::6] == found
    assert texts[texts.index("mednext-S") + 2] == "5,552,843"


def test_every_report_of_the_library_has_a_table():
    assert all(issubclass(kind, Report) for kind in (TrainReport, PredictReport, EvaluateReport, LoadReport))
