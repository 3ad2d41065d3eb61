"""Takes the name of a built-in command."""

from t2iprobe import hookimpl


@hookimpl
def t2iprobe_register_commands():
    """A command group called ``patch``."""
    import typer

    return {"patch": typer.Typer()}
