"""An option is written once, as a field of Config: signature, docstring and command line follow."""

import inspect
import re

import pytest

from nearlin.experiments import Config, compare, train, tune

NAMES = [name for name in Config().to_dict() if name != "data"]


@pytest.fixture
def commands():
    pytest.importorskip("rich")
    return pytest.importorskip("nearlin.experiments.commands").cli.commands


def documented(function):
    """Names and texts of the parameters in a docstring."""
    section = function.__doc__.split("----------\n")[1].split("    Returns\n")[0]
    return dict(re.findall(r"^    (\w+) : .*\n((?:        .*\n)+)", section, flags=re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_an_option_stands_in_signature_docstring_and_command_line_with_its_default(name, commands):
    default = getattr(Config(), name)
    shown = inspect.signature(train).parameters[name]
    assert (shown.kind, repr(shown.default)) == (inspect.Parameter.KEYWORD_ONLY, repr(default))
    (option,) = (p for p in commands["train"].params if p.name == name)
    assert option.opts == ["--set" if name == "settings" else f"--{name.replace('_', '-')}"]
    assert commands["train"].make_context("train", ["sphere"]).params[name] == default
    help, text = option.help.split("  [default:")[0], " ".join(documented(train)[name].split()).replace("- ", "-")
    sentence = help.split(". ")[0].rstrip(".").replace("--lr-period", "``lr_period``").replace("--steps", "``steps``")
    assert text.startswith(sentence)


def test_the_docstring_has_no_other_parameters_than_the_signature():
    assert set(documented(train)) == set(inspect.signature(train).parameters)


def test_the_commands_take_the_same_options_by_the_same_names(commands):
    helps = {p.name: p.help for p in commands["train"].params if p.name in NAMES}
    assert set(helps) == set(NAMES)
    own = {"optimizer", "epsilon", "lr", "damping"}
    for command in ("compare", "tune"):
        assert {p.name: p.help for p in commands[command].params if p.name in set(NAMES) - own} == {
            name: text for name, text in helps.items() if name not in own
        }


@pytest.mark.parametrize(("name", "bad"), [("width", "0"), ("seed", "-1"), ("test_fraction", "1"), ("tol", "-1"), ("task", "x")])
def test_the_command_line_knows_the_bounds_of_a_field(name, bad, commands):
    testing = pytest.importorskip("click.testing")
    result = testing.CliRunner().invoke(commands["train"], ["sphere", f"--{name.replace('_', '-')}", bad])
    assert (result.exit_code, "Invalid value for" in result.output) == (2, True)


@pytest.mark.parametrize("function", [train, compare, tune])
def test_an_option_that_does_not_exist_is_named(function):
    with pytest.raises(TypeError, match=f"{function.__name__} has no option 'widht'"):
        function("sphere", widht=3)
