"""How a command ends that cannot go on: in one sentence, with an exit code. Importing this module needs click."""

import traceback

import click

INTERRUPTED, USER_ERROR = 130, 2


def say(error):
    """Tell an error, or Ctrl-C, on standard error; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        click.echo(f"\n{error}" if str(error) else "\nInterrupted.", err=True)
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if not expected(error):
        traceback.print_exception(error)
        return 1
    click.echo(f"Error: {sentence(error)}", err=True)
    return USER_ERROR


def expected(error):
    """Whether ``error`` speaks about the user's input or machine."""
    known = ValueError | TypeError | OSError | MemoryError | ImportError | ArithmeticError
    return isinstance(error, known) or _out_of_memory(error)


def _out_of_memory(error):
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__


def sentence(error):
    """An error in one line."""
    text = " ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split()) or type(error).__name__
    if _out_of_memory(error):
        return f"out of memory ({text}); a smaller --width or --batch-size, or --dtype float32, needs less"
    return text
