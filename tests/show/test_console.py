"""Lines end with their last character, no paragraph with a word alone where that can be helped."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from gradprobe.show.console import Paragraph, PrintableConsole


def printed(renderable, width, **options):
    file = io.StringIO()
    PrintableConsole(file=file, width=width, highlight=False, **options).print(renderable)
    return file.getvalue()


WORDS = st.lists(st.text("abcdefgh-/.", min_size=1, max_size=12), min_size=1, max_size=60).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(WORDS, st.sampled_from([20, 40, 80, 120]))
def test_a_paragraph_loses_no_word_and_has_as_few_lines_as_without_care(text, width):
    lines, careless = printed(Paragraph(text), width).splitlines(), printed(Text(text), width).splitlines()
    assert " ".join(lines).split() == text.split()
    assert len(lines) == len(careless)
    assert all(len(line) <= width and line == line.rstrip() for line in lines)
    assert len(lines[-1]) >= len(careless[-1]) or len(careless[-1].split()) > 1


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_last_word_is_not_alone(width):
    text = "word " * (2 * width // 5) + "again."
    lines = printed(Paragraph(text), width).splitlines()
    assert len(lines) == 3
    assert len(lines[-1].split()) > 1


def test_line_breaks_stay_and_styles_too():
    assert printed(Paragraph("one\n\ntwo"), 20).splitlines() == ["one", "", "two"]
    assert "\x1b[1mone" in printed(Paragraph("one", "bold"), 20, force_terminal=True, color_system="standard")


def test_a_table_ends_where_its_cells_do():
    table = Table(box=None, pad_edge=False)
    for name in ("a", "b"):
        table.add_column(name)
    table.add_row("1", "long in this row")
    table.add_row("2", Text("x", style="red"))
    plain = printed(table, 60)
    assert plain.splitlines()[2] == "2  x"
    colour = printed(table, 60, force_terminal=True, color_system="standard")
    assert all(not line.replace("\x1b[0m", "").endswith(" ") for line in colour.splitlines())
    assert "\x1b[31mx" in colour
