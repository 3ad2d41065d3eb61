"""Registers a metric, an aggregate of it, and a section of the report."""

from t2iprobe import hookimpl


@hookimpl
def t2iprobe_register_metrics():
    """How many letters are right."""
    from t2iprobe_letters.letters import Letters

    return [Letters]


@hookimpl
def t2iprobe_register_aggregates():
    """How often a letter is right, per time that it is wrong."""
    from t2iprobe_letters.letters import LetterOdds

    return [LetterOdds]


@hookimpl
def t2iprobe_report_sections(result):
    """Letters by patch, in studies that measured them."""
    from t2iprobe_letters.letters import section

    return [section(result)] if "letters_target" in result.scores else []
