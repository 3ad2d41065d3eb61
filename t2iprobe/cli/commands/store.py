"""``t2iprobe store``: sizes, integrity, garbage and export of what runs have kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from t2iprobe.cli import parse
from t2iprobe.cli.console import Format, answers, notes, print_json
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted

if TYPE_CHECKING:
    from t2iprobe.core.store.verify import Size

app = typer.Typer(help="Look after what runs have kept: sizes, integrity, garbage, export.", no_args_is_help=True)

StorePath = Annotated[str, typer.Argument(metavar="PATH", help="Run folder, .zarr folder, or URL of a store.")]
FormatOption = Annotated[Format, typer.Option(help="table, or one JSON object on stdout.")]


@app.command()
def info(path: StorePath, format: FormatOption = Format.table) -> None:
    """What a store holds and how large it is, raw and as stored.

    Example: t2iprobe store info runs/keys
    """
    from t2iprobe.core.store import keys, verify

    root = keys.open_root(path)
    sizes = verify.table(path)
    runs = [_run(run) for run in verify.captured(root)]
    total = sum(keys.sizes(root.store, keys.listed(root.store)).values())
    study = _study(root)
    if format is Format.json:
        arrays = [asdict(size) for size in sizes]
        print_json({"path": path, "bytes": total, "study": study, "runs": runs, "arrays": arrays})
        return
    if study is not None:
        _print_study(study)
    if runs:
        _print_sizes(sizes)
    else:
        answers.print("no activations (`t2iprobe capture` keeps some)", highlight=False)
    for run in runs:
        rows = f"{run['rows_committed']} of {counted(run['rows'], 'prompt')}"
        answers.print(
            f"{run['name']}: {rows}, steps {_steps(run['steps'])}, "
            f"packed with {run['codec']['name']}, {run['round_bits'] or 'all'} mantissa bits kept",
            highlight=False,
        )
    answers.print(f"{parse.size_text(total)} in all in {path}", highlight=False)


def _study(root: Any) -> dict[str, Any] | None:
    """What a study has left in a store; ``None`` where none has been there."""
    from t2iprobe.core.study import arrays
    from t2iprobe.core.study.stored_results import RecordedResults

    names = arrays.score_names(root)
    if not names:
        return None
    found = RecordedResults(root, names)
    counts = {"trials": len(found.trials), "pairs": len(found.pairs), "answers": int(found.done.sum())}
    return {"scores": names, **counts, "pictures": found.pictures}


def _print_study(study: dict[str, Any]) -> None:
    counts = ", ".join(counted(study[name], name.removesuffix("s")) for name in ("trials", "pairs", "pictures"))
    answers.print(
        f"study: {counts}; {study['answers']:,} of {study['trials'] * study['pairs']:,} measured, "
        f"by {', '.join(study['scores'])}",
        highlight=False,
    )


def _run(run: Any) -> dict[str, Any]:
    layout = run.layout
    done = sum(len(layout.unit_rows(unit)) for unit, there in enumerate(run.committed) if there)
    return {
        "name": run.name,
        "rows": layout.rows,
        "rows_committed": done,
        "batch": layout.batch,
        "steps": list(layout.steps),
        "sites": len(layout.entries),
        "static_sites": sum(entry.static for entry in layout.entries),
        "codec": layout.codec.as_json(),
        "round_bits": layout.round_bits,
    }


def _steps(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:6]))
    return shown if len(steps) <= 6 else f"{shown}, … ({len(steps)})"


def _print_sizes(sizes: list[Size]) -> None:
    table = Table("site", "branch", "dtype", "shape", "raw", "stored", box=None, header_style="bold")
    for size in sizes:
        shape = " × ".join(map(str, size.shape))
        table.add_row(
            size.site, size.branch, size.dtype, shape, parse.size_text(size.raw), parse.size_text(size.stored)
        )
    answers.print(table)


@app.command()
def verify(path: StorePath, format: FormatOption = Format.table) -> None:
    """Read every chunk and compare it with its checksum. Damaged chunks are named, and the exit code is 1.

    Example: t2iprobe store verify runs/keys
    """
    from t2iprobe.core.store.verify import verify as look

    report = look(path)
    if format is Format.json:
        print_json({"path": path, **asdict(report)})
    else:
        for one in report.damaged:
            answers.print(f"damaged: {one.chunk}: {one.reason}", highlight=False, soft_wrap=True)
        for run, rows in report.unfinished.items():
            answers.print(f"{run}: {counted(rows, 'prompt')} not captured yet", highlight=False)
        answers.print(
            f"{counted(report.chunks, 'chunk')}, {parse.size_text(report.bytes)} whole, {len(report.damaged)} damaged",
            highlight=False,
        )
    if report.damaged:
        raise typer.Exit(1)


@app.command()
def rm(
    path: StorePath,
    activations: Annotated[bool, typer.Option("--activations", help="Remove all activations too; asks first.")] = False,
    run: Annotated[str | None, typer.Option(help="With --activations: only those of this captured run.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Remove what interrupted runs left behind and, if asked to, the activations.

    Scores, pictures and manifest stay.

    Examples:

      t2iprobe store rm runs/keys

      t2iprobe store rm runs/keys --activations --yes
    """
    from t2iprobe.core.store import keys, verify

    if run is not None and not activations:
        raise ConfigError(f"--run {run} chooses whose activations are removed; add --activations, or leave it out")
    keys.open_root(path)
    with _held(path):
        removed = verify.sweep_up(path) | _sweep_parts(path)
        if activations:
            _confirm(verify.activations(path, run), yes)
            removed |= verify.remove_activations(path, run)
    answer = {"path": path, "removed": len(removed), "bytes": sum(removed.values())}
    if format is Format.json:
        print_json(answer)
    else:
        answers.print(
            f"removed {counted(len(removed), 'file')}, {parse.size_text(sum(removed.values()))}", highlight=False
        )


def _confirm(found: dict[str, int], yes: bool) -> None:
    size = parse.size_text(sum(found.values()))
    if yes:
        return
    notes.print(f"remove {size} of activations for good? \\[y/N] ", end="", highlight=False)
    try:
        agreed = input().strip().lower() in {"y", "yes"}
    except EOFError:
        agreed = False
    if not agreed:
        raise ConfigError(f"{size} of activations are left where they are; add --yes to remove them")


@contextmanager
def _held(path: str) -> Iterator[None]:
    """The lock of a run folder, or of a store elsewhere: nothing may be writing."""
    from t2iprobe.core.lock import claim, lock

    folder = _run_folder(path)
    with claim(path, Path.cwd()) if "://" in path else lock(folder) if folder else nullcontext():
        yield


def _run_folder(path: str) -> Path | None:
    from t2iprobe.core.store.keys import STUDY

    if "://" in path:
        return None
    folder = Path(path)
    return folder.parent if folder.name == STUDY else folder if (folder / STUDY).is_dir() else None


def _sweep_parts(path: str) -> dict[str, int]:
    """``*.part`` in a run folder: files of runs that were killed before they were whole."""
    folder = _run_folder(path)
    found = {} if folder is None else {part: part.stat().st_size for part in folder.glob("*.part") if part.is_file()}
    for part in found:
        part.unlink()
    return {str(part): size for part, size in found.items()}


@app.command()
def export(
    path: StorePath,
    out: Annotated[Path, typer.Option(help="File to write: .csv, or .parquet (pip install 't2iprobe[parquet]').")],
    format: FormatOption = Format.table,
) -> None:
    """Write the scores as a table: one line a trial and pair, one column a score.

    Example: t2iprobe store export runs/patch-tiny-sd3-text --out scores.csv
    """
    from t2iprobe.core.study.export import scores, write

    rows = scores(path)
    write(rows, out)
    if format is Format.json:
        print_json({"path": path, "out": str(out), "rows": len(rows), "columns": list(rows[0])})
    else:
        answers.print(f"{counted(len(rows), 'row')} of {counted(len(rows[0]), 'column')} in {out}", highlight=False)
