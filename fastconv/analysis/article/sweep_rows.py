"""Rows of a sweep's runs. What a sweep varies has a place in them, so that no two different runs are taken for one."""

import dataclasses
from collections.abc import Iterable, Sequence

from fastconv.analysis.article.rows import KNOWN, Row, row_of
from fastconv.runs.collection import Entry

# The overrides of `KNOWN` that decide columns of a row, and the choice of augmentation, which is told apart by itself.
COLUMNS = ("dataset", "augment", "seed", "model.width", "schedule.max_epochs", "trainer.precision")


def rows_of_sweep(entries: Sequence[Entry]) -> list[Row]:
    """Return the rows of the finished runs of a sweep.

    Settings without a column, such as `budget.seconds`, are named if the sweep varies them. Of several augmentations
    each is compared by itself with the runs without one: these then have a row in each comparison, whose settings are
    `augment=NAME,none`. Of several runs that would be the same row, the first counts.
    """
    found = [(entry, row) for entry in entries if (row := row_of(entry.results, entry.folder.name))]
    varied = [key for key in KNOWN if key not in COLUMNS and len({entry.written.get(key) for entry, _ in found}) > 1]
    rows, policies = [], {}
    for entry, row in found:
        row = _with_settings(row, (f"{key}={entry.written[key]}" for key in varied if key in entry.written))
        rows.append(row)
        if row.augmented:
            policies[row.run] = entry.written.get("augment", "")
    if len(set(policies.values())) > 1:
        rows = _by_policy(rows, policies)
    once: dict[object, Row] = {}
    for row in rows:
        once.setdefault(row.key, row)
    return list(once.values())


def _by_policy(rows: Sequence[Row], policies: dict[str, str]) -> list[Row]:
    """The rows by the augmentations of their runs, each with the rows without augmentation that it is compared with."""
    found = []
    for row in rows:
        alike = [each for each in rows if each.augmented and (each.dataset, each.setup) == (row.dataset, row.setup)]
        own = [row] if row.augmented else alike
        names = list(dict.fromkeys(policies[each.run] for each in own))
        found += [_with_settings(row, [f"augment={name},none" * bool(name)]) for name in names] or [row]
    return found


def _with_settings(row: Row, further: Iterable[str]) -> Row:
    return dataclasses.replace(row, settings=" ".join(filter(None, (row.settings, *further))))
