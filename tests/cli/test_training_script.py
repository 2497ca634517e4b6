"""A training script given to a command for models is told of ``gradprobe run``."""

import pytest
from support.command_line import BATCHES, NET, write

from gradprobe.cli.training_script import training_script

STEP = "loss.backward()"
SCRIPTS = {  # the source, the line where it trains, and the line where it does so at import
    "under the guard": (f"x = 1\nif __name__ == '__main__':\n    {STEP}\n", 3, None),
    "at the top": (f"for x in y:\n    {STEP}\n", 2, 2),
    "in a function under the guard": (
        f"def main():\n    {STEP}\nif '__main__' == __name__:\n    main()\n",
        2,
        None,
    ),
    "in a function that is called": (f"def main():\n    {STEP}\nmain()\n", 2, 3),
    "through another function": (f"def step():\n    {STEP}\ndef main():\n    step()\nprint(main())\n", 2, 5),
    "a trainer": ("trainer = pl.Trainer()\ntrainer.fit(model)\n", 1, 1),
    "a trainer of transformers": ("if True:\n    SFTTrainer(model).train()\n", 2, 2),
    "accelerate": (f"async def f():\n    accelerator.backward({STEP[:4]})\n", 2, None),
    "in a method": (f"class T:\n    def run(self):\n        {STEP}\n", 3, None),
}
OTHERS = {
    "a model": NET,
    "an optimizer": "def optimizer(model):\n    return torch.optim.Adam(model.parameters())\n",
    "evaluation mode": "model.train()\nmodel.eval()\n",
    "no Python": "def f(:\n",
    "no text": "\0",
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_where_a_script_trains(case, tmp_path):
    text, line, at_import = SCRIPTS[case]
    file = tmp_path / "train.py"
    file.write_text(text)
    found = training_script(str(file))
    assert (found.line, found.when_imported) == (line, at_import)


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_none(case, tmp_path):
    (tmp_path / "model.py").write_text(OTHERS[case])
    assert training_script(str(tmp_path / "model.py")) is None
    assert training_script(str(tmp_path / "absent.py")) is None


LOOP = "def main():\n    torch.ones(1, requires_grad=True).sum().backward()\n"


@pytest.mark.parametrize("command", ["scan", "compare", "points"])
def test_a_script_without_batches_is_told_of_run(command, gradprobe):
    write(NET + LOOP + "if __name__ == '__main__':\n    main()\n", "train.py")
    result = gradprobe(command, "train.py")
    assert result.exit_code == 2, result.output
    said = " ".join(result.stderr.split())
    assert "train.py trains by itself (line 11): `gradprobe run train.py` records it as it is" in said
    assert "define `batches`" in said


def test_one_that_trains_at_import_is_told_before_it_does(gradprobe):
    write(NET + LOOP + "import sys\nprint('trained', file=sys.stderr)\nmain()\n" + BATCHES, "train.py")
    result = gradprobe("scan", "train.py", "--iterations", 1)
    assert result.exit_code == 0, result.output
    assert result.stderr.index("gradprobe run train.py") < result.stderr.index("trained")
    assert "gradprobe run" not in gradprobe("scan", "train.py", "--iterations", 1, "-q").stderr


def test_a_parser_at_the_top_does_not_see_the_arguments_of_gradprobe(gradprobe, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gradprobe", "scan", "train.py", "--iterations", "1"])
    parser = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr', type=float{})\n"
    text = NET + LOOP + parser + "args = parser.parse_args()\n" + BATCHES
    write(text.format(", default=0.1"), "train.py")
    assert gradprobe("scan", "train.py", "--iterations", 1).exit_code == 0
    write(text.format(", required=True"), "train.py")
    refused = gradprobe("scan", "train.py", "--iterations", 1)
    assert refused.exit_code == 1
    assert "`gradprobe run train.py`" in refused.stderr


def test_a_model_alone_is_not_told(gradprobe):
    write(NET, "train.py")
    assert "gradprobe run" not in gradprobe("scan", "train.py").stderr
