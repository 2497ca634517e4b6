import io
import math

import pandas as pd
import pytest
from support.saved_histories import numbered

from gradprobe.record.csv_tables import read_csv, write_csv
from gradprobe.record.history import COLUMNS, GradientHistory, Layer, tidy
from gradprobe.record.points import Point
from gradprobe.record.text import shorten

NAMES = ["0", "nan", "", "NA", 'a,"b"\nc', "ä", "null", "1e5"]
VALUES = [1e-30, 4.9e-324, 0.1 + 0.2, 1.7976931348623157e308, math.inf, 1 / 3, 0.0, 123456789.123456789]


def frame():
    rows = [
        (iteration, name, depth, of, value, value / 3, value, 0.5, depth)
        for iteration in range(2)
        for depth, (name, value) in enumerate(zip(NAMES, VALUES, strict=True))
        for of in ("output", "weight")
    ]
    rows.append((2, "nan", 1, "output", math.nan, math.nan, math.nan, 0.0, 7))
    rows.append((2, "", 2, "output", None, None, None, None, None))
    return tidy(rows)


def test_csv_reads_back_exactly():
    original = frame()
    again = read_csv(write_csv(original))
    pd.testing.assert_frame_equal(original, again, check_exact=True)
    assert tuple(again.columns) == COLUMNS


def test_csv_reads_back_with_plain_pandas_as_documented():
    original = frame()
    missing = {name: [""] for name in ("mean_abs", "rms", "max_abs", "zero_fraction", "nonfinite")}
    again = pd.read_csv(
        io.StringIO(write_csv(original)), dtype={"layer": str}, keep_default_na=False, na_values=missing
    )
    assert again["layer"].tolist() == original["layer"].tolist()
    assert again["mean_abs"].dtype == "float64"
    assert again["mean_abs"].equals(original["mean_abs"])


def test_a_measured_nan_is_not_a_missing_gradient():
    last = read_csv(write_csv(frame())).tail(2)
    assert last["mean_abs"].isna().all()
    assert last["nonfinite"].iloc[0] == 7
    assert last["nonfinite"].isna().tolist() == [False, True]


def test_a_csv_without_the_columns_says_which_are_missing():
    with pytest.raises(ValueError, match="missing: depth, max_abs"):
        read_csv("iteration,layer,of,mean_abs,rms,zero_fraction,nonfinite\n")


def history(*series):
    """One layer for each series of magnitudes; None is no gradient."""
    layers = tuple(Layer(f"layer{i}", i, "Linear", 4) for i in range(len(series)))
    rows = []
    for depth, values in enumerate(series):
        for iteration, value in enumerate(values):
            rest = (None,) * 4 if value is None else (value, value, 0.0, int(not math.isfinite(value)))
            rows.append((iteration, f"layer{depth}", depth, "output", value, *rest))
    return GradientHistory(tidy(rows), {"seed": 0}, layers, (Point("layer0", (2, 4), 0, ("layer0",)),), (2, 3))


@pytest.mark.parametrize(
    ("how", "expected"), [("median", 2), ("mean", 3), ("min", 1), ("max", 6), ("first", 1), ("last", 6)]
)
def test_aggregation_is_what_it_is_called(how, expected):
    assert history([1.0, 2.0, 6.0]).aggregate(how=how)["layer0"] == expected


def test_nonfinite_counts_as_infinite_and_unreached_is_absent():
    magnitudes = history([1e-9, math.nan, math.nan], [None, None, None], [1.0, None, 3.0]).aggregate()
    assert magnitudes.to_dict() == {"layer0": math.inf, "layer2": 2.0}


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="aggregation out of"):
        history([1.0]).aggregate(how="average")
    with pytest.raises(ValueError, match=r"\['output'\], got of='weight'"):
        history([1.0]).aggregate("weight")


def test_the_record_reads_back_equal():
    one = history([1.0, 2.0], [None, None])
    again = GradientHistory.from_dict(one.frame, one.to_dict())
    assert again == one
    assert again != history([1.0, 3.0], [None, None])


def test_a_record_without_codes_gets_them_from_its_sentences():
    record = history([1.0], [None], [None]).to_dict()
    record["conditions"] = {"data": "synthetic data (random normal)", "loss": "MSELoss (sum)"}
    for layer, why in zip(
        record["layers"], ({}, {"output": "frozen: no parameter"}, {"output": "x"}), strict=True
    ):
        layer["unreached"] = why
        del layer["unreached_code"]
    again = GradientHistory.from_dict(tidy([]), record)
    assert [layer.unreached_code for layer in again.layers] == [{}, {"output": "frozen"}, {}]
    assert (again.conditions["reduction"], again.conditions["synthetic"]) == ("sum", True)
    record["conditions"] = {"data": "digits", "loss": "cross_entropy"}
    assert GradientHistory.from_dict(tidy([]), record).conditions == record["conditions"]


def test_the_text_names_layers_and_what_was_measured():
    text = str(history([1e-9], [None]))
    assert "layer0" in text
    assert "mean |dL/d output|" in text
    assert "unreached" in text
    assert "1e-09" in text


@pytest.mark.parametrize("width", [3, 4, 9, 10, 40])
def test_names_are_shortened_in_the_middle(width):
    name = "encoder.layers.11.attention.dense"
    short = shorten(name, width)
    assert len(short) <= width
    assert short[0] == "e"
    assert short[-1] == "e"


def test_the_report_of_a_history_looks_at_the_table_as_often_for_many_layers(monkeypatch):
    """It is linear in the layers: the quantities are found once, and not for each layer."""
    looks = []
    of = GradientHistory.of.fget
    monkeypatch.setattr(GradientHistory, "of", property(lambda self: looks.append(1) or of(self)))
    counts = []
    for number in (3, 9):
        looks.clear()
        str(numbered(number))
        counts.append(len(looks))
    assert counts[0] == counts[1]
