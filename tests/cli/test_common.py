"""How scripts end: exit codes and messages."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from d2ls.cli.common import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_PROBLEMS, parser, run_main
from d2ls.errors import CheckpointError, ConfigError, D2LSError, DataError

ROOT = Path(__file__).parents[2]


def raising(error: BaseException):
    def main(_: object = None) -> int:
        raise error

    return main


def test_codes_pass_through() -> None:
    assert [run_main(lambda _, code=code: code, []) for code in (0, EXIT_PROBLEMS)] == [0, 1]


@pytest.mark.parametrize("kind", [D2LSError, ConfigError, DataError, CheckpointError])
def test_errors_of_the_user_are_one_message(kind: type[D2LSError], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(raising(kind("what is wrong")), []) == EXIT_BAD_INPUT == 2
    assert capsys.readouterr() == ("", "error: what is wrong\n")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(raising(DataError("what is wrong")), ["--debug"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: what is wrong\n")


def test_errors_of_the_system_name_their_file(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: object) -> int:
        return len(Path("no/such/file").read_bytes())

    assert run_main(main, []) == 2
    assert capsys.readouterr().err == "error: no/such/file: No such file or directory\n"
    assert run_main(raising(OSError("network is down")), []) == 2
    assert capsys.readouterr().err == "error: network is down\n"


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(raising(KeyboardInterrupt()), []) == EXIT_INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_mistakes_of_ours_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_main(raising(ZeroDivisionError()), [])


class Broken(Dataset[int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        raise DataError(f"image {index}.png: broken.\nMake it again.")


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the worker needs the class of this file")
def test_an_error_in_a_loading_process_is_as_short_as_in_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(lambda _: len(list(DataLoader(Broken(), num_workers=1))), []) == 2
    assert capsys.readouterr().err == "error: image 0.png: broken.\nMake it again.\n"


def test_parser_shows_examples_as_they_are_typed() -> None:
    text = parser("Does it.", "examples:\n  python it.py   -x").format_help()
    assert "examples:\n  python it.py   -x" in text
    assert "--debug" in text


def test_exit_codes_of_a_real_process(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py")]
    done = subprocess.run([*command, "-c", "gone.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: no config file gone.py. Those that come with the project are config/<data set>/d2ls.py.\n"
    )
    assert not list(tmp_path.iterdir())
