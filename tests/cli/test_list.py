"""`zoo list`: exact and complete in a pipe, readable on any terminal, and never broken by a broken file."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys

import pytest

from connectomics_zoo.cli import list as list_verb
from connectomics_zoo.schema.limits import MAX_EDGE
from connectomics_zoo.schema.model import SizeRule
from connectomics_zoo.specs.listing import read_rows
from connectomics_zoo.specs.rows import FIELDS


def test_the_list_has_a_line_for_each_model_with_exact_numbers(run_zoo):
    code, out, err = run_zoo("list", "mednext-S")
    assert (code, err) == (0, "")
    header, rule, row, footnote = out.splitlines()
    assert header.split() == [
        "name",
        "version",
        "family",
        "parameters",
        "train",
        "GB",
        "GFLOPs",
        "scales",
        "legal",
        "sizes",
        "weights",
        "what",
        "it",
        "is",
    ]
    assert set(rule) == {"─"}
    assert row.split()[:4] == ["mednext-S", "1.0.0", "mednext", "5,552,843"]
    assert row.split()[6:8] == ["5", "16,32,32+16n"]
    assert footnote.startswith(
        "GB of a training step on a GPU, one patch of 128×128×128, in the recipe's precision. GF"
    )
    assert "GFLOPs at an input of 1×1×64×64×64." in footnote


def test_the_list_as_json_has_every_field(run_zoo):
    code, out, _ = run_zoo("list", "--json", "--sort", "-parameters", "--where", "family == 'mednext'")
    rows = json.loads(out)
    assert code == 0
    assert [set(row) for row in rows] == [set(FIELDS["model"])] * len(rows)
    assert len(rows) >= 8
    parameters = [row["parameters"] for row in rows]
    assert parameters == sorted(parameters, reverse=True)


def test_tasks_and_experiments_are_listed_by_kind(run_zoo):
    code, out, err = run_zoo("list", "--kind", "task")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["name", "channels", "targets", "decoding", "metrics", "summary"]
    assert re.search(r"^mito +mitochondria +foreground +threshold +dice, iou +Mitochondria against", out, re.MULTILINE)
    code, out, err = run_zoo("list", "--kind", "experiment", "--where", "task == 'mito'")
    assert (code, err) == (0, "")
    assert re.search(r"^vnc-mito +mednext-S +mito +Mitochondria in Drosophila", out, re.MULTILINE)
    assert "fib25-boundary" not in out


@pytest.mark.parametrize("kind", ["task", "experiment", "weights"])
def test_every_kind_has_its_fields_as_json_and_in_the_help(run_zoo, kind):
    rows = json.loads(run_zoo("list", "--kind", kind, "--json")[1])
    assert rows
    assert [set(row) for row in rows] == [set(FIELDS[kind])] * len(rows)
    help_text = run_zoo("list", "--help")[1]
    _, _, described = help_text.partition(f"Fields of --where and --sort for {kind.removesuffix('s')}s:")
    assert [line.split()[0] for line in described.strip().splitlines()[: len(FIELDS[kind])]] == list(FIELDS[kind])


def test_what_is_of_another_kind_is_said(run_zoo):
    assert run_zoo("list", "mito") == (2, "", "zoo: 'mito' is no model but a task, list it with --kind task.\n")
    assert "'mednext-S' is no experiment but a model" in run_zoo("list", "mednext-S", "--kind", "experiment")[2]
    assert "unknown task 'mitto': did you mean 'mito'" in run_zoo("list", "mitto", "--kind", "task")[2]
    assert run_zoo("list", "zzz*", "--kind", "task") == (0, "", "zoo: no task matches.\n")
    assert "tasks have no versions, leave --all-versions out" in run_zoo("list", "--kind", "task", "--all-versions")[2]


def test_an_empty_list_is_an_answer_with_a_note(run_zoo):
    assert run_zoo("list", "zzz*") == (0, "", "zoo: no model matches.\n")
    assert run_zoo("list", "zzz*", "--json") == (0, "[]\n", "zoo: no model matches.\n")


def test_a_broken_spec_is_a_note_and_the_others_are_listed(run_zoo, add_spec):
    path = add_spec("broken", text="a: [1")
    code, out, err = run_zoo("list")
    assert code == 0
    assert "mednext-S" in out
    assert "broken" not in out
    assert err.startswith(f"zoo: broken spec, not listed: {path}: line ")
    assert err.count("\n") == 1


def test_older_versions_are_listed_on_request(run_zoo, add_spec):
    add_spec("mednext-XS", {"version": "2.0.0"})
    add_spec("mednext-XS@1.0.0")
    assert len(json.loads(run_zoo("list", "mednext-XS", "--json")[1])) == 1
    rows = json.loads(run_zoo("list", "mednext-XS", "--json", "--all-versions")[1])
    assert [row["version"] for row in rows] == ["1.0.0", "2.0.0"]


def test_brackets_in_a_file_are_text_not_markup(run_zoo, add_spec):
    add_spec("odd", {"weights": {"[red]x[/]": {}, ":smile:": {}}})
    assert "[red]x[/], :smile:" in run_zoo("list", "odd")[1]


def test_a_piped_table_is_complete_however_narrow_the_terminal_was(run_zoo, add_spec, monkeypatch):
    name = "a" * 64
    add_spec(name, {"weights": {f"tag-{index}": {} for index in range(20)}})
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run_zoo("list", "a*")
    row = out.splitlines()[2]
    assert row.startswith(f"{name} ")
    assert "tag-18, tag-19 " in row
    assert "…" not in row


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Print a table of rows on a terminal of some width, and return its lines."""

    def show(rows, width):
        stream = _Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        list_verb._print_models(rows)
        return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()

    return show


def _names(lines):
    """The names in a table: a row of several lines has its name in the first."""
    return [line.split()[0] for line in lines[2:] if line.strip() and not line.startswith((" ", "GB of", "GFLOPs"))]


def test_at_80_columns_each_builtin_model_is_one_line_that_says_what_it_is(terminal):
    rows = [row for row in read_rows().rows if row.catalog == "zoo"]
    lines = terminal(rows, 80)
    assert max(map(len, lines)) <= 80
    assert {"name", "params", "train"} <= set(lines[0].split())
    for row, line in zip(rows, lines[2:], strict=False):
        assert line.startswith(f"{row.name} ")
        assert f" {row.training_bytes / 1e9:.1f} " in line
        said = line[lines[0].index("what it is") :]
        assert len(said) >= 15
        assert row.summary.startswith(said.removesuffix("…").rstrip())
    assert "This terminal is too narrow for: family, version, scales" in lines[2 + len(rows)]


@pytest.mark.parametrize("width", [30, 45, 60, 70, 79, 100, 200])
def test_any_terminal_gets_a_table_that_fits_with_names_in_one_piece(terminal, width):
    rows = [row for row in read_rows().rows if len(row.name) <= 20]
    lines = terminal(rows, width)
    assert max(map(len, lines)) <= width
    assert _names(lines)[: len(rows)] == [row.name for row in rows]
    assert ("This terminal is too narrow for:" in " ".join(" ".join(lines).split())) == ("family" not in lines[0])


@pytest.mark.parametrize(
    ("minimum", "step", "text"),
    [
        ([32, 32, 32], [16, 16, 16], "32+16n"),
        ([16, 32, 32], [16, 16, 16], "16,32,32+16n"),
        ([1, 16, 32], [1, 16, 16], "1,16,32+1,16,16n"),
        ([64, 64], [65536, 65536], "64"),
        ([64, 64, 64], [1, 65536, 65536], "64+1,65536,65536n"),
    ],
)
def test_legal_sizes_are_written_in_short(minimum, step, text):
    row = dataclasses.replace(read_rows().rows[0], minimum=minimum, step=step)
    assert list_verb._legal_sizes(row) == text


def test_the_largest_edge_is_that_of_the_schema():
    sizes = SizeRule(minimum=(MAX_EDGE, MAX_EDGE), step=(1, 1))
    assert sizes.minimum == (MAX_EDGE, MAX_EDGE)
    with pytest.raises(ValueError, match=f"less than or equal to {MAX_EDGE}"):
        SizeRule(minimum=(MAX_EDGE + 1, MAX_EDGE), step=(1, 1))


def test_of_a_task_with_many_channels_the_table_names_a_few_and_counts_targets(run_zoo):
    _, out, _ = run_zoo("list", "lsd", "--kind", "task")
    row = " ".join(out.splitlines()[2].split())
    assert row.startswith("lsd z-1, y-1, x-1 and 10 more 3 affinity, 10 lsd agglomeration balanced_accuracy, dice")


def test_a_task_shows_what_is_done_to_labels_and_what_its_targets_need(run_zoo):
    _, out, _ = run_zoo("show", "lsd")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "decoding agglomeration (threshold 0.5, min_size 600)" in lines
    assert "labels relabelled, eroded by 1" in lines
    assert "affinities offsets along zyx, stored at their source" in lines
    assert "z-1 sigmoid affinity [1, 0, 0], attractive 1 balanced_bce" in lines
    assert "size sigmoid lsd size, sigma 80 nm 1 mse" in lines
    _, out, _ = run_zoo("show", "affinities-6")
    assert "affinity [10, 0, 0], repulsive" in out
    _, out, _ = run_zoo("show", "mito")
    assert "relabel" not in out.split("channel")[0]


def test_weights_are_listed_with_what_they_find_their_voxels_score_and_licence(run_zoo):
    code, out, err = run_zoo("list", "--kind", "weights", "--for", "mito")
    assert (code, err) == (0, "")
    assert re.search(
        r"^mednext-S\.vnc-mito +mito +50×18\.4×18\.4 +dice 0\.\d+ +CC-BY-NC-SA-3\.0 +Mitochondria", out, re.MULTILINE
    )
    assert "membrane" not in out
    rows = json.loads(run_zoo("list", "*fib25*", "--kind", "weights", "--json")[1])
    assert [row["name"] for row in rows] == ["mednext-S.fib25-affinities"]
    assert rows[0]["voxel_size_nm"] == [8, 8, 8]
    assert "z=0:160" in rows[0]["split"]
    assert "unknown weights 'mednext'" in run_zoo("list", "mednext", "--kind", "weights")[2]


def test_models_are_chosen_by_what_their_weights_are_for(run_zoo):
    rows = json.loads(run_zoo("list", "--for", "membrane", "--json")[1])
    assert rows
    assert all("membrane" in row["tasks"] for row in rows)
    assert "unknown task 'mitos': " in run_zoo("list", "--for", "mitos")[2]
    assert (
        "--for mito chooses models or weights, leave it out of" in run_zoo("list", "--for", "mito", "--kind", "task")[2]
    )


def test_models_are_chosen_by_the_memory_that_they_train_in(run_zoo):
    every = json.loads(run_zoo("list", "--patch", "96", "--json")[1])
    limit = sorted(row["training_bytes"] for row in every if row["training_bytes"])[len(every) // 2]
    chosen = json.loads(run_zoo("list", "--patch", "96", "--fits", f"{limit / 1e9}GB", "--json")[1])
    fitting = [row["name"] for row in every if row["training_bytes"] and row["training_bytes"] * 1.15 <= limit]
    assert 2 <= len(fitting) < len(every)
    assert [row["name"] for row in chosen] == fitting
    assert all(
        max(row["training_patch"]) >= 96 or row["name"] == "monai_unetr" for row in every if row["training_patch"]
    )
    assert "tasks have no memory of training, leave --fits out" in run_zoo("list", "--kind", "task", "--fits", "9GB")[2]
    assert "'9 apples' is no memory" in run_zoo("list", "--fits", "9 apples")[2]


def test_memory_at_a_stated_patch_is_what_fit_counts(run_zoo):
    (row,) = json.loads(run_zoo("list", "mednext-S", "--patch", "32,160,160", "--json")[1])
    report = json.loads(
        run_zoo("fit", "mednext-S", "--memory", "99GB", "--patch", "32,160,160", "--batch", "1", "--json")[1]
    )
    memory = report["fits"][0]["memory"]
    counted = sum(memory[name] for name in ("weights", "kept", "working", "program"))
    assert row["training_bytes"] == pytest.approx(counted, rel=0.03)


def test_every_model_of_the_catalogue_has_recorded_costs():
    rows = [row for row in read_rows(all_versions=True).rows if row.catalog == "zoo"]
    assert len(rows) >= 20
    assert [row.reference for row in rows if row.training_bytes is None] == []
    # The attention of its windows takes minutes to follow, axis by axis.
    assert [row.reference for row in rows if row.receptive_field is None] == [
        *("monai_swin_unetr", "monai_swin_unetr_v2", "omniem", "omniem-2d")
    ]
