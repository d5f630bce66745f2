"""The page of the command line, from the help text of every command."""

WIDTH = 94


def page():
    """Every command of ``nearlin`` with its help, in MyST Markdown."""
    from nearlin.experiments.commands import cli

    root = _context(cli, "nearlin")
    commands = [cli.get_command(root, name) for name in cli.list_commands(root)]
    helps = [_section(context) for context in [root, *(_context(c, c.name, root) for c in commands)]]
    return "\n\n".join(helps) + "\n"


def _context(command, name, parent=None):
    return command.make_context(name, [], parent, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH)


def _section(context):
    return f"## {context.command_path}\n\n:::{{code-block}} text\n:class: help\n{context.get_help()}\n:::"
