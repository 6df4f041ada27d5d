import pytest

from fastconv.analysis.comparison import output
from fastconv.analysis.comparison.tables import columns


def row(verdict: str, accuracy: float, **settings) -> dict:
    return {
        "dataset": "digits", **settings, "n": 3, "accuracy": accuracy, "sd": 0.0123, "low": accuracy - 0.05,
        "high": accuracy + 0.01, "epochs": 2.09, "seconds_counted": 1234.5, "images_per_second": 10_084.0,
        "verdict": verdict,
    }  # fmt: skip


@pytest.fixture
def printed(monkeypatch, capsys):
    def lines(rows: list[dict], room: int) -> list[str]:
        monkeypatch.setattr(output, "FILE_WIDTH", room)
        output.print_table(rows, columns(rows), [])
        return capsys.readouterr().out.splitlines()

    return lines


SWEEP = [
    row("best", 0.9805, model="airbench", schedule="one_cycle"),
    row("significantly worse", 0.8582, model="airbench", schedule="constant"),
]


def cells(lines: list[str]) -> list[str]:
    return [cell.strip() for line in lines if line.startswith("│") for cell in line.strip("│").split("│")]


def test_a_wide_terminal_has_every_column(printed):
    lines = printed(SWEEP, 150)
    assert len(lines) == 6
    assert all(len(line) == len(lines[0]) <= 150 for line in lines)
    assert cells(lines)[:6] == ["digits", "best", "airbench", "one_cycle", "3", "98.05"]
    assert lines[1].index("images/s") + len("images/s") == lines[3].index("10,084") + len("10,084")
    assert lines[1].index("model") == lines[3].index("airbench")


def test_no_number_is_cut_in_a_narrow_terminal(printed):
    *table, note = printed(SWEEP, 80)
    assert all(len(line) <= 80 for line in table)
    assert "…" not in "".join(table)
    found = cells(table)
    for number in ("98.05", "85.82", "1.23", "93.05", "99.05", "one_cycle", "constant", "significantly"):
        assert number in found
    assert note.startswith("in all rows: dataset=digits model=airbench n=3; no room for: seconds, images/s")
    assert "digits" not in found


def test_the_first_score_stays_in_a_very_narrow_terminal(printed):
    *table, note = printed(SWEEP, 40)
    assert "98.05" in cells(table)
    assert "95 % from, to" in note


def test_many_settings_share_a_column(printed):
    many = [
        row("best", 0.98, schedule="linear", **{f"augment.number_{at}": at for at in range(9)}),
        row("untested", 0.97, schedule="step", **{f"augment.number_{at}": None for at in range(9)}),
    ]
    table = printed(many, 100)
    assert all(len(line) <= 100 for line in table if line.startswith("│"))
    told = " ".join(cells(table)).split()
    assert {f"augment.number_{at}={at}" for at in range(9)} | {"schedule=linear", "98.00", "10,084"} <= set(told)
    assert told.count("augment.number_3=3") == 1


def test_runs_without_results_keep_what_is_wrong_with_them(printed):
    """In a narrow terminal too, where all that is the same is told below, and of one run that is everything."""
    alone = {"run": "outputs/digits/2026-11-25", "dataset": "digits", "model": "davidnet", "problem": "it was stopped"}
    *table, note = printed([alone], 40)
    assert cells(table) == ["it was stopped"]
    assert note == "in all rows: run=outputs/digits/2026-11-25 dataset=digits model=davidnet"
