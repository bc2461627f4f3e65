"""What commands that need a predictor take: a predictor, or a table that one is fitted to on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from lut import LatencyTable
    from predictors import LatencyPredictor

__all__ = ["check_files", "check_one_of", "open_predictor"]


def check_one_of(predictor: Path | None, table: Path | None) -> None:
    """See that one of the two is given, and not both."""
    from lut import UsageError

    if (predictor is None) == (table is None):
        raise UsageError("give either --predictor FOLDER (see fit-predictor) or --table FILE (see profile-device)")


def check_files(predictor: Path | None, table: Path | None, *, takes_tables: bool = True) -> None:
    """See that a predictor is a folder, and a table a file, as far as that is seen without reading them."""
    from lut import UsageError

    if predictor is not None and predictor.is_file():
        other = f", or --table {predictor}" if takes_tables else ""
        raise UsageError(f"--predictor {predictor} is a file: give a folder that fit-predictor wrote{other}")
    if table is not None and table.is_dir():
        raise UsageError(f"--table {table} is a folder: give a file that profile-device wrote, or --predictor {table}")


def open_predictor(
    folder: Path | None,
    file: Path | None,
    *,
    target: str | None,
    batch: int | None,
    seed: int,
    console: Console,
) -> tuple[LatencyPredictor, LatencyTable | None]:
    """Return the predictor, and the table it was fitted to on the way."""
    from lut import LatencyTable, UsageError
    from predictors import LatencyPredictor

    table = None
    if file is not None:
        table = LatencyTable.load(file)
        setting, what = table.setting, str(file)
    else:
        assert folder is not None
        loaded = LatencyPredictor.load(folder)
        setting, what = loaded.setting, str(folder)
    if target is not None and setting.target != target:
        raise UsageError(f"{what} is of target {setting.target}, and --target asks for {target}")
    if batch is not None and setting.batch != batch:
        raise UsageError(
            f"{what} is of batch {setting.batch}, and --batch asks for {batch}; measure it: profile-device --target "
            f"{setting.target} --batch {batch}"
        )
    if table is None:
        return loaded, None
    assert file is not None
    with console.status("Fitting a predictor …"):
        loaded = LatencyPredictor.fit(table, sources=[file.name], seed=seed)
    return loaded, table
