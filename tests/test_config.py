"""Reading configs: overrides, bases, errors that lead to their line."""

import math
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2ls.config import load_config, parse_overrides
from d2ls.errors import CheckpointError, ConfigError
from tests.tiny import write_config

STUBS = """
import torch
from torch import nn
max_epoch = 3
classes = ("a", "b")
num_classes, ignore_index = len(classes), 255
weights_path = "w"
log_name = "l"
net = nn.Linear(2, 2)
loss = nn.Identity()
train_dataset = val_dataset = None
train_loader = val_loader = torch.utils.data.DataLoader([0])
optimizer = torch.optim.SGD(net.parameters(), 0.1)
"""


def config(folder: Path, text: str = "", name: str = "c.py") -> Path:
    """A config of stubs and more statements."""
    path = folder / name
    path.write_text(STUBS + textwrap.dedent(text), encoding="utf-8")
    return path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


# Overrides


def test_overrides_reach_everything_computed_from_them(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        """
        a = b = 8
        c, d = 1.5, "x"
        e: int = 3
        total = a + 10 * b + 100 * e
        text = f"{d}/{c}"
        """,
    )
    plain = load_config(path)
    assert (plain.total, plain.text) == (388, "x/1.5")
    changed = load_config(path, {"b": 9, "d": "y", "c": 2, "e": 4})
    assert (changed.a, changed.total, changed.text) == (8, 498, "y/2")
    assert changed.overrides == {"b": 9, "d": "y", "c": 2, "e": 4}


def test_override_of_what_the_file_computes_or_leaves_out(tmp_path: Path) -> None:
    path = config(tmp_path, "weights_name = 'n' + 'm'\nlabel = weights_name + '!'\n")
    changed = load_config(path, {"weights_name": "o", "accumulate_grad_batches": 4, "tensorboard": True})
    assert (changed.label, changed.accumulate_grad_batches, changed.tensorboard) == ("o!", 4, True)
    assert load_config(path).accumulate_grad_batches == 1, "the default"


def test_source_repeats_the_config_with_its_overrides(tmp_path: Path) -> None:
    path = config(tmp_path, "a = 1\nb = a * 2\n")
    changed = load_config(path, {"a": 21, "gradient_clip_val": 0.5, "max_epoch": 7})
    again = load_config(write(tmp_path, "copy.py", changed.source))
    assert (again.a, again.b, again.gradient_clip_val, again.max_epoch) == (21, 42, 0.5, 7)
    assert not again.overrides


def test_unknown_name_lists_the_valid_ones_and_suggests(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"max_epochs: no such setting in .*c\.py\. Did you mean max_epoch\?"
    ) as error:
        load_config(config(tmp_path, "crop = 3"), {"max_epochs": 2})
    listed = str(error.value).split("given: ")[1]
    assert {"crop", "max_epoch", "precision", "weights_path"} <= set(re.findall(r"\w+", listed))
    assert not {"net", "optimizer", "torch"} & set(re.findall(r"\w+", listed)), "objects cannot be given"


def test_a_setting_that_the_config_itself_must_use_is_unknown_where_it_does_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="backbone_lr: no such setting"):
        load_config(config(tmp_path), {"backbone_lr": 1e-5})


def test_an_override_that_nothing_reads_is_told(tmp_path: Path) -> None:
    path = config(tmp_path, "stages = 3\ncrop = 5\nside = crop * 2\n")
    assert load_config(path, {"stages": 2, "crop": 6, "max_epoch": 4}).unused == ("stages",)


def test_plain_values_that_nothing_reads(tmp_path: Path) -> None:
    path = config(tmp_path, "stages = 3\nspare = 5\n_own = 6\nused = 7\nmore = used\n")
    assert load_config(path).unused == ("spare",), "a setting that a base has for others is none"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_epoch", 2.5, "expected int, found float"),
        ("max_epoch", "two", "expected int, found str"),
        ("max_epoch", True, "expected int, found bool"),
        ("save_last", 1, "expected bool, found int"),
        ("gradient_clip_val", True, "expected float or None, found bool"),
        ("weights_path", None, "expected str, found NoneType"),
        ("monitor", ("val_F1", "val_OA"), "expected str, found tuple"),
        ("crop", "big", "expected int, found str"),
        ("crop", True, "expected int, found bool"),
        ("flag", 0, "expected bool, found int"),
        ("scales", 0.5, "expected tuple or list, found float"),
    ],
)
def test_wrong_types(tmp_path: Path, name: str, value: object, expected: str) -> None:
    path = config(tmp_path, "crop = 5\nflag = True\nscales = (0.5, 1.0)\n")
    with pytest.raises(ConfigError, match=re.escape(f"{name}={value!r} (given from outside): {expected}")):
        load_config(path, {name: value})


def test_whole_numbers_pass_for_fractions_and_lists_for_tuples(tmp_path: Path) -> None:
    path = config(tmp_path, "rate = 0.5\nscales = (0.5, 1.0)\nnothing = None\n")
    changed = load_config(path, {"gradient_clip_val": 1, "rate": 2, "scales": [1], "nothing": "text"})
    assert (changed.gradient_clip_val, changed.rate, changed.scales, changed.nothing) == (1, 2, [1], "text")


@pytest.mark.parametrize("value", [math.inf, math.nan, np.float64(0.5)])
def test_values_that_cannot_be_written_down(tmp_path: Path, value: float) -> None:
    with pytest.raises(ConfigError, match=r"rate=.*expected a plain, finite value"):
        load_config(config(tmp_path, "rate = 0.5"), {"rate": value})


def test_wrong_type_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"save_top_k='all' \(.*c\.py\): expected int, found str"):
        load_config(config(tmp_path, "save_top_k = 'all'"))
    with pytest.raises(ConfigError, match=r"seed='x' \(.*c\.py\): expected int"):
        load_config(config(tmp_path, "seed = 'x'"))


# Words of the command line


def test_words() -> None:
    words = [
        "a=2",
        "b=3e-4",
        "c=-1",
        "d=-0.5",
        "e=None",
        "f=True",
        "g=(0.5, 1)",
        "h=convnext_tiny",
        "i='3'",
        "j=",
        "k=a=b",
    ]
    assert parse_overrides(words) == {
        "a": 2, "b": 3e-4, "c": -1, "d": -0.5, "e": None, "f": True, "g": (0.5, 1), "h": "convnext_tiny", "i": "3",
        "j": "", "k": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["max_epoch", "=3", "a-b=3", "1a=2", ""])
def test_words_that_are_no_settings(word: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{word!r}: expected name=value, such as max_epoch=2")):
        parse_overrides([word])


def test_a_name_given_twice() -> None:
    with pytest.raises(ConfigError, match=re.escape("lr is given twice: 0.1 and '0.2'")):
        parse_overrides(["lr=0.1", "lr=0.2"])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(plain)
def test_a_value_survives_being_written_as_a_word(value: object) -> None:
    assert parse_overrides([f"name={value!r}"]) == {"name": value}


# Configs over a base


BASE = STUBS + "a = 1\nb = a * 2\nw: float = 0.5\npair = (a, b)\ndef f():\n    return 1\nfound = f()\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path, "base.py", BASE)


def test_child_takes_the_place_of_the_same_names(tmp_path: Path, base: Path) -> None:
    child = write(
        tmp_path,
        "child.py",
        '''
        """A child."""
        import math
        base = "base.py"
        def double(x):
            return 2 * x
        new = 5
        a = double(new) + int(math.sqrt(4))
        w: float = 0.25
        weights_name, log_name = "child", "logs"
        def f():
            return 2
        ''',
    )
    found = load_config(child)
    assert (found.a, found.b, found.pair, found.w) == (12, 24, (12, 24), 0.25)
    assert (found.weights_name, found.log_name, found.found) == ("child", "logs", 2)
    assert found.path == child
    changed = load_config(child, {"new": 6, "max_epoch": 9, "w": 0.75})
    assert (changed.a, changed.max_epoch, changed.w) == (14, 9, 0.75)
    assert load_config(base).a == 1


def test_imports_of_a_child_win_over_those_of_its_base(tmp_path: Path) -> None:
    write(tmp_path, "base.py", "from math import floor as turn\n" + STUBS + "value = turn(1.5)\n")
    child = write(tmp_path, "child.py", "base = 'base.py'\nfrom math import ceil as turn\n")
    assert load_config(child).value == 2


def test_base_of_a_base_and_of_another_folder(tmp_path: Path, base: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "sub/middle.py", "base = '../base.py'\na = 10\nw = 7.0\n")
    child = write(tmp_path, "sub/child.py", "base = 'middle.py'\nw = 8.0\n")
    found = load_config(child)
    assert (found.b, found.w) == (20, 8.0)


@pytest.mark.parametrize(
    "statement",
    [
        "print('x')",
        "a += 1",
        "if True:\n    a = 3",
        "a, b = f()",
        "a = b = f()",
        "import math; math.x = 1",
        "for a in (1, 2): pass",
    ],
)
def test_statements_that_have_no_place_in_a_child(tmp_path: Path, base: Path, statement: str) -> None:
    child = write(tmp_path, "child.py", f"base = 'base.py'\nf = 3\n{statement}\n")
    with pytest.raises(ConfigError, match=r"child\.py, line 3: a config with a base may hold imports, functions"):
        load_config(child)


def test_wrong_bases(tmp_path: Path) -> None:
    child = write(tmp_path, "child.py", "base = 'gone.py'\n")
    with pytest.raises(ConfigError, match=r"child\.py: its base .*gone\.py does not exist"):
        load_config(child)
    write(tmp_path, "child.py", "base = 'child.py'\n")
    with pytest.raises(ConfigError, match=r"child\.py: base='child\.py' leads in a circle"):
        load_config(child)
    write(tmp_path, "child.py", "base = 'other.py'\n")
    write(tmp_path, "other.py", "base = 'child.py'\n")
    with pytest.raises(ConfigError, match=r"circle: .*child\.py -> .*other\.py -> .*child\.py"):
        load_config(child)
    write(tmp_path, "child.py", "base = 'o' + 'ther.py'\n")
    with pytest.raises(ConfigError, match="base must be the name of another config file as plain text"):
        load_config(child)


def test_base_cannot_be_given_from_outside(tmp_path: Path, base: Path) -> None:
    child = write(tmp_path, "child.py", "base = 'base.py'\n")
    with pytest.raises(ConfigError, match="base: no such setting"):
        load_config(child, {"base": "other.py"})


# Errors


def test_errors_name_file_and_line(tmp_path: Path, base: Path) -> None:
    lines = STUBS.count("\n")
    with pytest.raises(ConfigError, match=rf"c\.py, line {lines + 2}: ZeroDivisionError: division by zero"):
        load_config(config(tmp_path, "a = 0\nb = 1 / a\n"))
    child = write(tmp_path, "child.py", "base = 'base.py'\n\na = 'text'\nw = a + 1\n")
    with pytest.raises(ConfigError, match=r"child\.py, line 4: TypeError"):
        load_config(child)
    write(tmp_path, "child.py", "base = 'base.py'\ndef f():\n    return 1 / 0\n")
    with pytest.raises(ConfigError, match=rf"base\.py, line {lines + 7}: ZeroDivisionError"):
        load_config(child)


def test_errors_of_the_package_keep_their_text(tmp_path: Path) -> None:
    text = "from d2ls.optim import adamw_lookahead\noptimizer = adamw_lookahead(net, lr=-1.0)\n"
    with pytest.raises(ConfigError, match=r"c\.py, line \d+: lr=-1\.0: expected a finite number above 0"):
        load_config(config(tmp_path, text))


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config file .*gone\.py\. Those that come with the project"):
        load_config(tmp_path / "gone.py")
    with pytest.raises(ConfigError, match=r"c\.py is not Python: .*line 2"):
        load_config(write(tmp_path, "c.py", "a = 1\nb = = 2\n"))
    (tmp_path / "c.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"c\.py is not Python"):
        load_config(tmp_path / "c.py")


def test_missing_names(tmp_path: Path) -> None:
    path = write(tmp_path, "c.py", STUBS.replace("log_name = ", "x = ").replace("optimizer = ", "y = "))
    with pytest.raises(ConfigError, match=r"c\.py: no log_name, optimizer\. A config must set these names"):
        load_config(path)


# Apart from each other, and from everything else


def test_two_configs_of_one_file_name_stay_apart(tmp_path: Path) -> None:
    paths = []
    for at in (1, 2):
        (tmp_path / str(at)).mkdir()
        text = f"class Own:\n    def value(self):\n        return scale * {at}\nscale = 10\nown = Own()\n"
        paths.append(config(tmp_path / str(at), text))
    one, two = load_config(paths[0]), load_config(paths[1])
    assert (one.own.value(), two.own.value(), type(one.own) is type(two.own)) == (10, 20, False)
    assert type(one.own).__module__ != type(two.own).__module__
    assert load_config(paths[0], {"scale": 3}).own.value() == 3
    assert one.own.value() == 10
    assert not [name for name in sys.modules if name.startswith("d2ls_config_")]


def test_dataclasses_in_a_config(tmp_path: Path) -> None:
    text = "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int' = 3\np = P()\n"
    assert load_config(config(tmp_path, text)).p.x == 3


def test_seed_decides_initial_weights_and_nothing_outside_does(tmp_path: Path) -> None:
    path = config(tmp_path, "seed = 1\n")
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = load_config(path).net.weight
    assert torch.equal(torch.rand(3), expected), "the global generator is as before"
    assert torch.equal(load_config(path).net.weight, first)
    assert not torch.equal(load_config(path, {"seed": 2}).net.weight, first)


def test_unknown_attribute_names_the_file(tmp_path: Path) -> None:
    found = load_config(config(tmp_path))
    with pytest.raises(AttributeError, match=r"c\.py has no setting 'crop'"):
        _ = found.crop
    assert "crop" not in found
    assert "max_epoch" in found


def test_reading_a_config_needs_neither_data_nor_weights(
    tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D2LS_DATA", str(tmp_path / "nowhere"))
    found = load_config(write_config(tmp_path), {"pretrained": "no/such/file.pth"})
    with pytest.raises(CheckpointError, match=r"pretrained='no/such/file\.pth'.*not loaded yet"):
        found.net.eval()(torch.zeros(1, 3, 32, 32))
    with pytest.raises(CheckpointError, match=r"no weight file no/such/file\.pth"):
        found.net.backbone.load_pretrained()
