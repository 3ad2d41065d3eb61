"""``t2iprobe store``: inspects, verifies, cleans up and exports what runs have stored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import typer

from t2iprobe.cli.command import takes
from t2iprobe.cli.console import Format, notes, print_json, say, tell
from t2iprobe.cli.options import PrintOptions
from t2iprobe.cli.tables import print_table
from t2iprobe.core.command_options import option
from t2iprobe.core.errors import ConfigError, DamagedError
from t2iprobe.core.names import counted
from t2iprobe.core.parse import size_text

app = typer.Typer(help="Inspect, verify, clean up and export what runs have stored.", no_args_is_help=True)

STUDY, MANIFEST = "study.zarr", "manifest.json"  # names in a run folder


class StoreOptions(PrintOptions):
    """The options of ``t2iprobe store info`` and ``verify``."""

    panel: ClassVar[str] = "Store"
    path: str = option(help="Run folder, .zarr folder, or URL of a store.", argument=True)


class RemoveOptions(StoreOptions):
    """The options of ``t2iprobe store rm``."""

    activations: bool = option(False, help="Remove all activations too, after asking for confirmation.")
    run: str | None = option(None, help="With --activations: only those of this captured run.", only_with="activations")
    all: bool = option(False, help="Remove the whole run folder, of any kind, after asking for confirmation.")
    yes: bool = option(False, flag="-y", help="Do not ask for confirmation.")


class ExportOptions(StoreOptions):
    """The options of ``t2iprobe store export``."""

    out: Path = option(help="File to write: .csv, or .parquet (pip install 't2iprobe[parquet]').")


class Place:
    """The run folder and the store that a command's path stands for.

    Args:
        path: a run folder, the store in it, another store, or the URL of one.
    """

    def __init__(self, path: str) -> None:
        self.path, folder = path, Path(path)
        inside = folder.parent if folder.name == STUDY else folder
        is_run = "://" not in path and ((inside / STUDY).is_dir() or (inside / MANIFEST).is_file())
        self.folder = inside if is_run else None  #: the run folder, if it is one or the store of one

    @cached_property
    def store(self) -> str | None:
        """The store of the run, or the path itself if it is not a run; ``None`` if the run has none."""
        from t2iprobe.core.runs import runfolder

        if self.folder is None or not (self.folder / MANIFEST).is_file():
            return self.path
        with suppress(DamagedError):
            if elsewhere := runfolder.read_manifest(self.folder).get("store"):
                return str(elsewhere)
        return self.path if (self.folder / STUDY).is_dir() else None

    def stores(self) -> Iterator[tuple[str, str]]:
        """The stores of the run and of the runs within it, and where each one is below the run's folder."""
        if self.store is not None:
            yield self.store, f"{STUDY}/"
        for inner in self.folder.glob(f"*/**/{STUDY}") if self.folder else ():
            yield str(inner), f"{inner.relative_to(self.folder or '').as_posix()}/"

    def is_elsewhere(self, store: str) -> bool:
        """Whether a store lies outside the run folder that names it."""
        return self.folder is not None and (
            "://" in store or not Path(store).resolve().is_relative_to(self.folder.resolve())
        )

    def held(self) -> AbstractContextManager[None]:
        """The lock of the run folder, or of a store elsewhere, so that nothing else can be writing."""
        from t2iprobe.core.runs.lock import claim, lock

        if "://" in self.path:
            return claim(self.path, Path.cwd())
        return lock(self.folder) if self.folder else nullcontext()


@app.command()
@takes(StoreOptions)
def info(options: StoreOptions, context: typer.Context) -> None:
    """Show what a store contains and how large it is, raw and as stored; for a run without a store, its state and size.

    Example: t2iprobe store info runs/keys
    """
    from t2iprobe.core.runs.status import state_of
    from t2iprobe.core.store import keys, verify

    if (store := Place(options.path).store) is None:
        state = state_of(Path(options.path))
        answer: dict[str, Any] = {"path": options.path, "bytes": state.bytes, "study": None, "runs": [], "arrays": []}
        lines = [f"{state.kind}, {state.state}: no store"]
    else:
        root = keys.open_root(store)
        answer = {
            "path": options.path,
            "bytes": sum(keys.sizes(root.store, keys.listed(root.store)).values()),
            "study": _study(root),
            "runs": [_run(run) for run in verify.captured(root)],
            "arrays": [asdict(size) for size in verify.table(store)],
        }
        lines = [_said(run) for run in answer["runs"]] or ["no activations (`t2iprobe capture` keeps some)"]
    if options.format is Format.json:
        print_json(answer)
        return
    if study := answer["study"]:
        counts = ", ".join(counted(study[name], name.removesuffix("s")) for name in ("trials", "pairs", "pictures"))
        measured = f"{study['answers']:,} of {study['trials'] * study['pairs']:,} measured"
        tell(f"study: {counts}; {measured}, by {', '.join(study['scores'])}")
    if sizes := answer["arrays"]:
        print_table(("site", "branch", "dtype", "shape", "raw", "stored"), [*map(_size_cells, sizes)])
    for line in lines:
        tell(line)
    tell(f"{size_text(answer['bytes'])} in all in {options.path}")


def _study(root: Any) -> dict[str, Any] | None:
    """What a study has left in a store; ``None`` if there was no study."""
    from t2iprobe.core.runs.files import understood
    from t2iprobe.core.store.keys import name_of
    from t2iprobe.core.study import arrays
    from t2iprobe.core.study.stored_results import RecordedResults

    with understood(f"the metadata of {name_of(root.store)}"):
        names = arrays.score_names(root)
        if not names:
            return None
        results = RecordedResults(root, names)
        counts = {"trials": len(results.trials), "pairs": len(results.pairs), "answers": int(results.done.sum())}
        return {"scores": names, **counts, "pictures": results.pictures}


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


def _said(run: dict[str, Any]) -> str:
    """A captured run in words."""
    steps = ", ".join(map(str, run["steps"][:6])) + (f", … ({len(run['steps'])})" if len(run["steps"]) > 6 else "")
    return (
        f"{run['name']}: {run['rows_committed']} of {counted(run['rows'], 'prompt')}, steps {steps}, "
        f"packed with {run['codec']['name']}, {run['round_bits'] or 'all'} mantissa bits kept"
    )


def _size_cells(size: dict[str, Any]) -> tuple[str, ...]:
    sizes = size_text(size["raw"]), size_text(size["stored"])
    return size["site"], size["branch"], size["dtype"], " × ".join(map(str, size["shape"])), *sizes


@app.command()
@takes(StoreOptions)
def verify(options: StoreOptions, context: typer.Context) -> None:
    """Compare every file of a run, of any kind, and every chunk of a store with its checksum.

    Damaged ones are named, and the exit code is 1.

    Example: t2iprobe store verify runs/keys
    """
    from t2iprobe.core.store.verify import StoreReport
    from t2iprobe.core.store.verify import verify as look

    place = Place(options.path)
    files, count = _damaged_files(place.folder) if place.folder is not None else ([], 0)
    known, report = {name for name, _ in files}, StoreReport()
    for store, inside in place.stores():
        if f"{inside}zarr.json" not in known:  # if it is damaged, the store cannot even be opened
            found = look(store)
            report.chunks, report.bytes = report.chunks + found.chunks, report.bytes + found.bytes
            report.unfinished |= found.unfinished
            report.damaged += [one for one in found.damaged if inside + one.chunk not in known]
    if options.format is Format.json:
        damaged = [{"file": name, "reason": reason} for name, reason in files]
        print_json({"path": options.path, "files": count, "damaged_files": damaged, **asdict(report)})
    else:
        for name, reason in [*files, *((one.chunk, one.reason) for one in report.damaged)]:
            tell(f"damaged: {name}: {reason}")
        for run, rows in report.unfinished.items():
            tell(f"{run}: {counted(rows, 'prompt')} not captured yet")
        beside = "" if place.folder is None else f"{counted(count, 'file')}, "
        bad = len(report.damaged) + len(files)
        tell(f"{beside}{counted(report.chunks, 'chunk')}, {size_text(report.bytes)} whole, {bad} damaged")
        if files:
            tell(f"restore copies of the files, or delete {place.folder} and run it again")
    if report.damaged or files:
        raise typer.Exit(1)


def _damaged_files(folder: Path) -> tuple[list[tuple[str, str]], int]:
    """The damaged files of a run and of the runs within it, and how many files were compared."""
    from t2iprobe.core.runs import checksums
    from t2iprobe.core.runs.status import state_of

    broken, count = [], 0
    for run in [folder, *(path.parent for path in folder.rglob(checksums.CHECKSUMS) if path.parent != folder)]:
        try:
            if (run / MANIFEST).is_file():
                state_of(run)
            count += checksums.counted(run)
            broken += [(str((run / name).relative_to(folder)), reason) for name, reason in checksums.damaged(run)]
        except DamagedError as error:
            broken.append((str(run.relative_to(folder)), str(error)))
    return broken, count


@app.command()
@takes(RemoveOptions)
def rm(options: RemoveOptions, context: typer.Context) -> None:
    """Remove what interrupted runs left behind; with options, also the activations or the whole run.

    Without --all, scores, images and manifest stay.

    Examples:

      t2iprobe store rm runs/keys

      t2iprobe store rm runs/keys --activations --yes

      t2iprobe store rm runs/finetune-tiny-sd3-localized --all
    """
    place = Place(options.path)
    removed = _remove_run(place, options.yes) if options.all else _remove_rest(place, options)
    size = sum(removed.values())
    if options.format is Format.json:
        print_json({"path": options.path, "removed": len(removed), "bytes": size})
    else:
        tell(f"removed {counted(len(removed), 'file')}, {size_text(size)}")


def _remove_rest(place: Place, options: RemoveOptions) -> dict[str, int]:
    """Remove leftovers and, with ``--activations``, activations; returns the sizes by name."""
    from t2iprobe.core.runs import checksums
    from t2iprobe.core.store import keys, verify

    store = place.store
    if store is not None and place.is_elsewhere(store):  # a copied manifest can name any store
        if options.activations:
            raise ConfigError(
                f"{place.path} keeps its activations in {store}; to remove them: "
                f"t2iprobe store rm {store} --activations"
            )
        say(f"nothing is removed in {store}, which is outside the run folder; run store rm on it to clean up there")
        store = None
    if store is not None:
        keys.open_root(store)
    with place.held():
        removed = (verify.sweep_up(store) if store else {}) | _sweep_parts(place.folder)
        if store and options.activations:
            _confirm(verify.activations(store, options.run), "activations", options.yes)
            removed |= verify.remove_activations(store, options.run)
        if store and place.folder is not None and (place.folder / checksums.CHECKSUMS).is_file():
            checksums.seal(place.folder)
    return removed


def _remove_run(place: Place, yes: bool) -> dict[str, int]:
    """Remove a run folder with everything in it; links are removed, but not what they lead to.

    Raises:
        ConfigError: it is not a run folder, or the user did not confirm.
        LockedError: a process is working on it.
    """
    from t2iprobe.core.runs import runfolder

    folder = Path(place.path)
    if not (folder / MANIFEST).is_file():
        runfolder.read_manifest(folder)  # raises the error
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a link; delete it yourself, or name the folder that it leads to")
    sizes = {str(path): path.lstat().st_size for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    _confirm(sizes, "files", yes)
    with place.held():
        shutil.rmtree(folder)
    return sizes


def _confirm(sizes: dict[str, int], what: str, yes: bool) -> None:
    size = size_text(sum(sizes.values()))
    if yes:
        return
    notes.print(f"remove {size} of {what} for good? [y/N] ", end="")
    agreed = ""
    with suppress(EOFError):
        agreed = input().strip().lower()
    if agreed not in {"y", "yes"}:
        raise ConfigError(f"{size} of {what} were not removed; add --yes to remove them")


def _sweep_parts(folder: Path | None) -> dict[str, int]:
    """Remove files and folders that a killed process left unfinished in a run folder."""
    from t2iprobe.core.runs.files import parts

    leftover = {} if folder is None else parts(folder)
    for part in leftover:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    return {str(part): size for part, size in leftover.items()}


@app.command()
@takes(ExportOptions)
def export(options: ExportOptions, context: typer.Context) -> None:
    """Write the scores as a table: one line for each trial and pair, one column for each score.

    Example: t2iprobe store export runs/patch-tiny-sd3-text --out scores.csv
    """
    from t2iprobe.core.study.export import scores, write

    rows, out = scores(options.path), options.out
    if not rows:
        raise ConfigError(f"{options.path} has no trials yet, so there is nothing to export")
    write(rows, out)
    if options.format is Format.json:
        print_json({"path": options.path, "out": str(out), "rows": len(rows), "columns": list(rows[0])})
    else:
        tell(f"{counted(len(rows), 'row')} of {counted(len(rows[0]), 'column')} in {out}")
