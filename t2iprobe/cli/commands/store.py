"""``t2iprobe store``: sizes, integrity, garbage and export of what runs have kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from rich.table import Table

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, answers, notes, print_json
from t2iprobe.cli.options import PrintOptions
from t2iprobe.core import parse
from t2iprobe.core.command_options import option
from t2iprobe.core.errors import ConfigError
from t2iprobe.core.names import counted

if TYPE_CHECKING:
    from t2iprobe.core.store.verify import Size

app = typer.Typer(help="Look after what runs have kept: sizes, integrity, garbage, export.", no_args_is_help=True)

STUDY = "study.zarr"  # the store's name in a run folder


class StoreOptions(PrintOptions):
    """The options of ``t2iprobe store info`` and ``verify``."""

    panel: ClassVar[str] = "Store"
    path: str = option(help="Run folder, .zarr folder, or URL of a store.", argument=True)


class RemoveOptions(StoreOptions):
    """The options of ``t2iprobe store rm``."""

    activations: bool = option(False, help="Remove all activations too; asks first.")
    run: str | None = option(None, help="With --activations: only those of this captured run.")
    all: bool = option(False, help="Remove the whole run folder, of any kind; asks first.")
    yes: bool = option(False, flag="-y", help="Do not ask.")


class ExportOptions(StoreOptions):
    """The options of ``t2iprobe store export``."""

    out: Path = option(help="File to write: .csv, or .parquet (pip install 't2iprobe[parquet]').")


@app.command()
@takes(StoreOptions)
def info(asked: StoreOptions, context: typer.Context) -> None:
    """What a store holds and how large it is, raw and as stored; of a run without a store, how far and how large.

    Example: t2iprobe store info runs/keys
    """
    from t2iprobe.core.store import keys, verify

    if (store := _store_of(asked.path)) is None:
        _info_of_run(Path(asked.path), asked.format)
        return
    root = keys.open_root(store)
    sizes = verify.table(store)
    runs = [_run(run) for run in verify.captured(root)]
    total = sum(keys.sizes(root.store, keys.listed(root.store)).values())
    study = _study(root)
    if asked.format is Format.json:
        arrays = [asdict(size) for size in sizes]
        print_json({"path": asked.path, "bytes": total, "study": study, "runs": runs, "arrays": arrays})
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
    answers.print(f"{parse.size_text(total)} in all in {asked.path}", highlight=False)


def _info_of_run(path: Path, format: Format) -> None:
    from t2iprobe.core.runs.status import state_of

    state = state_of(path)
    if format is Format.json:
        print_json({"path": str(path), "bytes": state.bytes, "study": None, "runs": [], "arrays": []})
        return
    answers.print(f"{state.kind}, {state.state}: no store, {parse.size_text(state.bytes)} in all in {path}")


def _study(root: Any) -> dict[str, Any] | None:
    """What a study has left in a store; ``None`` if there was no study."""
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
    return {
        "name": run.name,
        "rows": layout.rows,
        "rows_committed": len(run.rows),
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
@takes(StoreOptions)
def verify(asked: StoreOptions, context: typer.Context) -> None:
    """Compare every file of a run, of any kind, and every chunk of a store with its checksum.

    Damaged ones are named, and the exit code is 1.

    Example: t2iprobe store verify runs/keys
    """
    from t2iprobe.core.store.verify import StoreReport
    from t2iprobe.core.store.verify import verify as look

    folder = _run_folder(asked.path)
    files, count = _damaged_files(folder) if folder is not None else ([], 0)
    known, report = {name for name, _ in files}, StoreReport()
    for store, place in _stores_of(asked.path):
        if f"{place}zarr.json" not in known:  # if it is damaged, the store cannot even be opened
            found = look(store)
            report.chunks, report.bytes = report.chunks + found.chunks, report.bytes + found.bytes
            report.unfinished |= found.unfinished
            report.damaged += [one for one in found.damaged if place + one.chunk not in known]
    if asked.format is Format.json:
        damaged = [{"file": name, "reason": reason} for name, reason in files]
        print_json({"path": asked.path, "files": count, "damaged_files": damaged, **asdict(report)})
    else:
        for name, reason in [*files, *((one.chunk, one.reason) for one in report.damaged)]:
            answers.print(f"damaged: {name}: {reason}", highlight=False, soft_wrap=True, markup=False)
        for run, rows in report.unfinished.items():
            answers.print(f"{run}: {counted(rows, 'prompt')} not captured yet", highlight=False)
        beside = "" if folder is None else f"{counted(count, 'file')}, "
        answers.print(
            f"{beside}{counted(report.chunks, 'chunk')}, {parse.size_text(report.bytes)} whole, "
            f"{len(report.damaged) + len(files)} damaged",
            highlight=False,
        )
        if files and folder is not None:
            answers.print(f"restore copies of the files, or delete {folder} and run it again", highlight=False)
    if report.damaged or files:
        raise typer.Exit(1)


def _damaged_files(folder: Path) -> tuple[list[tuple[str, str]], int]:
    """The damaged files of a run and of the runs within it, and how many files were compared."""
    from t2iprobe.core.errors import DamagedError
    from t2iprobe.core.runs import checksums, runfolder
    from t2iprobe.core.runs.status import state_of

    found, count = [], 0
    for run in [folder, *(one.parent for one in folder.rglob(checksums.CHECKSUMS) if one.parent != folder)]:
        try:
            if (run / runfolder.MANIFEST).is_file():
                state_of(run)
            count += checksums.counted(run)
            found += [(str((run / name).relative_to(folder)), reason) for name, reason in checksums.damaged(run)]
        except DamagedError as error:
            found.append((str(run.relative_to(folder)), str(error)))
    return found, count


def _stores_of(path: str) -> Iterator[tuple[str, str]]:
    """The stores of a run and of the runs within it, and where each one is below the run's folder."""
    if (store := _store_of(path)) is not None:
        yield store, f"{STUDY}/"
    folder = _run_folder(path)
    if folder is not None:
        for inner in folder.glob(f"*/**/{STUDY}"):
            yield str(inner), f"{inner.relative_to(folder).as_posix()}/"


def _store_of(path: str) -> str | None:
    """The store of a run, or the path itself if it is a store; ``None`` if a run has none.

    Raises:
        ConfigError: there is neither.
    """
    from t2iprobe.core.errors import DamagedError
    from t2iprobe.core.runs import runfolder

    folder = _run_folder(path)
    if folder is None or not (folder / runfolder.MANIFEST).is_file():
        return path
    with suppress(DamagedError):
        if elsewhere := runfolder.read_manifest(folder).get("store"):
            return str(elsewhere)
    return path if (folder / STUDY).is_dir() else None


@app.command()
@takes(RemoveOptions)
def rm(asked: RemoveOptions, context: typer.Context) -> None:
    """Remove what interrupted runs left behind and, if asked to, the activations, or the run with everything.

    Without --all, scores, pictures and manifest stay.

    Examples:

      t2iprobe store rm runs/keys

      t2iprobe store rm runs/keys --activations --yes

      t2iprobe store rm runs/finetune-tiny-sd3-localized --all
    """
    from t2iprobe.core.runs import checksums
    from t2iprobe.core.store import keys, verify

    path = asked.path
    if asked.run is not None and not asked.activations:
        run, activations = asked.called("run"), asked.called("activations")
        raise ConfigError(
            f"{run} {asked.run} chooses whose activations are removed; add {activations}, or leave it out"
        )
    folder, removed = _run_folder(path), {}
    if asked.all:
        removed = _remove_run(path, asked.yes)
    elif (store := _store_of(path)) is None:
        with _held(path):
            removed = _sweep_parts(path)
    else:
        keys.open_root(store)
        with _held(path):
            removed = verify.sweep_up(store) | _sweep_parts(path)
            if asked.activations:
                _confirm(verify.activations(store, asked.run), "activations", asked.yes)
                removed |= verify.remove_activations(store, asked.run)
            if folder is not None and (folder / checksums.CHECKSUMS).is_file():
                checksums.seal(folder)
    answer = {"path": path, "removed": len(removed), "bytes": sum(removed.values())}
    if asked.format is Format.json:
        print_json(answer)
    else:
        answers.print(
            f"removed {counted(len(removed), 'file')}, {parse.size_text(sum(removed.values()))}", highlight=False
        )


def _remove_run(path: str, yes: bool) -> dict[str, int]:
    """Remove a run folder with everything in it; links are removed, but not what they lead to.

    Raises:
        ConfigError: it is not a run folder, or nobody agreed.
        LockedError: a process is working on it.
    """
    import shutil

    from t2iprobe.core.runs import runfolder

    folder = Path(path)
    if not (folder / runfolder.MANIFEST).is_file():
        runfolder.read_manifest(folder)
    if folder.is_symlink():
        raise ConfigError(f"{path} is a link; delete it yourself, or name the folder that it leads to")
    found = {str(one): one.lstat().st_size for one in folder.rglob("*") if one.is_file() or one.is_symlink()}
    _confirm(found, "files", yes)
    with _held(path):
        shutil.rmtree(folder)
    return found


def _confirm(found: dict[str, int], what: str, yes: bool) -> None:
    size = parse.size_text(sum(found.values()))
    if yes:
        return
    notes.print(f"remove {size} of {what} for good? \\[y/N] ", end="", highlight=False)
    try:
        agreed = input().strip().lower() in {"y", "yes"}
    except EOFError:
        agreed = False
    if not agreed:
        raise ConfigError(f"{size} of {what} are left where they are; add --yes to remove them")


@contextmanager
def _held(path: str) -> Iterator[None]:
    """Hold the lock of a run folder, or of a store elsewhere, so that nothing else can be writing."""
    from t2iprobe.core.runs.lock import claim, lock

    folder = _run_folder(path)
    with claim(path, Path.cwd()) if "://" in path else lock(folder) if folder else nullcontext():
        yield


def _run_folder(path: str) -> Path | None:
    """The run folder that a path is, or that contains it if it is a store."""
    if "://" in path:
        return None
    folder = Path(path)
    inside = folder.parent if folder.name == STUDY else folder
    return inside if (inside / STUDY).is_dir() or (inside / "manifest.json").is_file() else None


def _sweep_parts(path: str) -> dict[str, int]:
    """Remove files and folders that a killed process left unfinished in a run folder."""
    import shutil

    from t2iprobe.core.runs.files import parts

    folder = _run_folder(path)
    found = {} if folder is None else parts(folder)
    for part in found:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    return {str(part): size for part, size in found.items()}


@app.command()
@takes(ExportOptions)
def export(asked: ExportOptions, context: typer.Context) -> None:
    """Write the scores as a table: one line a trial and pair, one column a score.

    Example: t2iprobe store export runs/patch-tiny-sd3-text --out scores.csv
    """
    from t2iprobe.core.study.export import scores, write

    rows, out = scores(asked.path), asked.out
    write(rows, out)
    if asked.format is Format.json:
        print_json({"path": asked.path, "out": str(out), "rows": len(rows), "columns": list(rows[0])})
    else:
        answers.print(f"{counted(len(rows), 'row')} of {counted(len(rows[0]), 'column')} in {out}", highlight=False)
