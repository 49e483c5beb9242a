"""Every verb's help has an example, and the shell completes verbs and options."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from rich.text import Text

from hyperkit_mol import terminal
from hyperkit_mol.cli import app


def verbs(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for sub, found in getattr(command, "commands", {}).items():
        yield from verbs(found, f"{name} {sub}")


ALL = dict(verbs(typer.main.get_command(app), "hyperkit-mol"))


def test_all_verbs_are_there() -> None:
    wanted = "train generate evaluate demo doctor potential relax".split()
    assert {f"hyperkit-mol {v}" for v in wanted} <= set(ALL)
    assert {
        f"hyperkit-mol potential {v}" for v in ("train", "evaluate", "relax", "attention", "label")
    } <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_help_has_an_example_that_parses(name: str) -> None:
    """The example is a command of this program, with options that exist."""
    text = ALL[name].help or ""
    examples = re.findall(r"\[bold\](hyperkit-mol .+?)\[/\]", text)
    assert "Example" in text
    assert examples
    for example in examples:
        words = shlex.split(example)[1:]
        command: click.Command = ALL["hyperkit-mol"]
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        command.make_context(example, words, resilient_parsing=False)
        # As a person sees it: an unescaped [nH] would be taken for markup and vanish.
        assert re.sub(r"\\(?=\[)", "", example) in Text.from_markup(text).plain


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_explained(name: str) -> None:
    for parameter in ALL[name].params:
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
            assert parameter.help, f"{name} {parameter.opts}"


@pytest.mark.slow
def test_completion_in_bash() -> None:
    """What `hyperkit-mol --show-completion bash` prints, used as a shell uses it."""
    program = Path(sys.executable).with_name("hyperkit-mol")
    if shutil.which("bash") is None or not program.exists():
        pytest.skip("needs bash and the installed command")
    script = """
    set -e
    eval "$(hyperkit-mol --show-completion bash)"
    complete_words() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        $named hyperkit-mol
        echo "${COMPREPLY[@]}"
    }
    named=$(complete -p hyperkit-mol | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    complete_words hyperkit-mol ge
    complete_words hyperkit-mol potential r
    complete_words hyperkit-mol generate --temp
    """
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PATH": path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["generate", "relax", "--temperature"]


def test_messages_keep_what_looks_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        terminal.fail("line 2: 'c1cc[nH]c1[/]' cannot be parsed, nor 'c1:o:c'")
    assert "'c1cc[nH]c1[/]' cannot be parsed, nor 'c1:o:c'" in capsys.readouterr().err
