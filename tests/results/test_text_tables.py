"""Rows as text."""

import csv
import io
import math

from privynet_jax.results.text_tables import aligned, as_csv, restored


def test_columns_are_aligned():
    rows = [
        {"attack": "linear", "PSNR dB": 9.5, "steps": 1000, "done": True},
        {"attack": "u", "PSNR dB": 12.346, "steps": 5, "done": False},
    ]
    assert aligned(rows).splitlines() == [
        "attack  PSNR dB  steps  done",
        "----------------------------",
        "linear     9.50   1000   yes",
        "u         12.35      5    no",
    ]
    assert aligned(rows, digits=0).splitlines()[3] == "u            12      5    no"


def test_the_ends_of_an_interval_stand_behind_its_number():
    row = {"x": 1.0, "x_low": -0.5, "x_high": 2.25, "y_low": 7}
    none, unknown = {**row, "x": "", "x_low": "", "x_high": ""}, {**row, "x_low": math.nan}
    assert aligned([row, none, unknown]).splitlines() == [
        "                   x  y_low",
        "---------------------------",
        "1.00 (-0.50 to 2.25)      7",
        "                          7",
        "                1.00      7",
    ]


def test_no_cell_is_run_by_a_spreadsheet_and_every_name_can_be_read_back():
    names = ["=1+1", "+a", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\tx", "'=x", "''-", "'a", "-"]
    names += ["a\rb", "a\r\nb"]
    numbers = ["-2.0 ±6.1", "-2.0 ±6.1 (-8.1 to 4.1)", "+1.5e-3", "-7", "cat.png", ""]
    text = as_csv([{"row": 1, "name": name} for name in names + numbers])
    cells = [row["name"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert not [cell for cell in cells[: len(names)] if cell[0] in "=+-@\t"]
    assert cells[len(names) :] == numbers
    assert [restored(cell) for cell in cells] == names + numbers
    assert as_csv([{"x": -1.5, "y": True}]) == "x,y\n-1.5,True\n"
