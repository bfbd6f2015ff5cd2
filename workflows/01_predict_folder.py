"""Predict every structure of a folder and write the accepted ones as POSCAR files.

    python workflows/01_predict_folder.py candidates/ --out runs/predicted

`e3relax predict` does the same and more; this is how it is done from Python.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from e3relax_flows import PredictOptions, Predictor, Verdict, load_settings, read_structures, resolve_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of structure files, or one file")
    parser.add_argument("--out", type=Path, default=Path("runs/predicted"))
    arguments = parser.parse_args()

    items = list(read_structures([arguments.folder]))
    readable = [item for item in items if item.structure is not None]
    for item in items:
        if item.error:
            print(item.error)
    settings = load_settings()
    predictor = Predictor.load(str(resolve_model(settings.MODEL, settings).path), settings.DEVICE)
    predictions = predictor.predict(
        [item.structure for item in readable], PredictOptions(passes=2), ids=[item.id for item in readable]
    )

    arguments.out.mkdir(parents=True, exist_ok=True)
    for prediction in predictions:
        print(f"{prediction.id}: {prediction.verdict} {prediction.message or ''}")
        if prediction.verdict == Verdict.ACCEPT and prediction.structure is not None:
            prediction.structure.to(str(arguments.out / f"{prediction.id}.vasp"), fmt="poscar")
    return int(len(readable) < len(items) or any(p.verdict == Verdict.ERROR for p in predictions))


if __name__ == "__main__":
    raise SystemExit(main())
