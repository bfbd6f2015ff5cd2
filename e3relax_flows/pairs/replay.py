"""Mix old pairs among new ones, so that fine-tuning on the new ones does not forget the old."""

from __future__ import annotations

from collections.abc import Collection

from e3relax_flows.core.errors import ConfigError, TooFewPairsError
from e3relax_flows.core.ids import draw_uniform
from e3relax_flows.schemas.datasets import DatasetDoc


def choose_pairs(dataset: DatasetDoc, old: Collection[str], fraction: float, seed: int) -> set[str]:
    """Ids of all new pairs of a dataset and of so many old ones that these are `fraction` of the whole.

    Where there are fewer old pairs than that, all of them are taken. The choice depends on nothing but ids and seed.

    Parameters
    ----------
    dataset
        New and old pairs together.
    old
        Pair ids that count as old.

    Raises
    ------
    ConfigError
        When nothing is new, or old pairs are wanted and there are none.
    """
    ids = {*dataset.train, *dataset.val}
    new = ids.difference(old)
    if not new:
        raise TooFewPairsError(
            f"all {len(ids)} pairs were in the incumbent's training already; build pairs from new results first "
            "(e3relax data build), or train anew with method: scratch"
        )
    if fraction == 0:
        return new
    if new == ids:
        raise ConfigError(
            f"{fraction:.0%} of the pairs should be old ones, but none of the {len(ids)} is; import the pairs that the "
            "incumbent was trained on (e3relax data import FILE --source original) and set replay.sources: "
            "[original], or set replay.fraction: 0"
        )
    n_old = round(fraction / (1 - fraction) * len(new))
    drawn = sorted(ids - new, key=lambda name: (draw_uniform(seed, name), name))[:n_old]
    return new.union(drawn)
