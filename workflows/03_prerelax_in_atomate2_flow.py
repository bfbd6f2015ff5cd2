"""Put a prediction in the place of the first relaxation of an atomate2 flow; print the flow, run it with --run.

    python workflows/03_prerelax_in_atomate2_flow.py POSCAR
    python workflows/03_prerelax_in_atomate2_flow.py POSCAR --kind elastic
    python workflows/03_prerelax_in_atomate2_flow.py POSCAR --kind phonon   # needs: pip install 'atomate2[phonons]'
    python workflows/03_prerelax_in_atomate2_flow.py POSCAR --run           # needs VASP, as atomate2 is configured

`PrerelaxMaker` fits every slot that takes a relax maker. Elastic constants and phonons want the minimum of the code
that computes them, so that their slot `bulk_relax_maker` gets a double relaxation: the prediction, then DFT from there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from atomate2.vasp.flows.core import DoubleRelaxMaker
from atomate2.vasp.flows.elastic import ElasticMaker
from atomate2.vasp.jobs.core import RelaxMaker, TightRelaxMaker
from jobflow import Flow, Maker
from pymatgen.core import Structure

from e3relax_flows import (
    E3RelaxError,
    MissingDependencyError,
    PrerelaxMaker,
    build_candidates,
    load_settings,
    open_job_store,
    run_flow_locally,
)

KINDS = ("double", "elastic", "phonon")


def build_maker(kind: str, model: str = "small-pbesol") -> Maker:
    """A maker of atomate2 whose bulk is relaxed from a prediction (from the initial structure where it is refused)."""
    if kind == "double":
        return predict_first(RelaxMaker(), model)
    if kind == "elastic":
        return ElasticMaker(bulk_relax_maker=predict_first(TightRelaxMaker(), model))
    try:
        from atomate2.vasp.flows.phonons import PhononMaker
    except ImportError as error:
        raise MissingDependencyError("phonons need more packages; type: pip install 'atomate2[phonons]'") from error
    return PhononMaker(bulk_relax_maker=predict_first(TightRelaxMaker(), model))


def predict_first(relax_maker: Maker, model: str) -> DoubleRelaxMaker:
    predict = PrerelaxMaker(model=model)
    return DoubleRelaxMaker(name="predict and relax", relax_maker1=predict, relax_maker2=relax_maker)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="structure file; none: one of the demo's candidates")
    parser.add_argument("--kind", choices=KINDS, default="double", help="what comes after the prediction")
    parser.add_argument("--model", default="small-pbesol", help="one of the functional of atomate2's makers, PBEsol")
    parser.add_argument("--run", action="store_true", help="run it here; otherwise it is only printed")
    parser.add_argument("--out", type=Path, default=Path("runs/atomate2"), help="folder of the jobs' folders")
    arguments = parser.parse_args()

    structure = Structure.from_file(arguments.file) if arguments.file else build_candidates()[3][1]
    flow = build_maker(arguments.kind, arguments.model).make(structure)
    show(flow, structure)
    if not arguments.run:
        return 0

    with open_job_store(load_settings()) as store:
        run = run_flow_locally(flow, store, arguments.out)
    for failure in run.failures:
        print(f"{failure.name} failed: {failure.error}")
    return int(bool(run.failures))


def show(flow: Flow, structure: Structure) -> None:
    """Print the jobs of a flow with those that they wait for."""
    print(f"{flow.name} for {structure.composition.reduced_formula}:")
    jobs = list(flow.iterflow())
    for job, parents in jobs:
        names = [parent.name for parent, _ in jobs if parent.uuid in parents]
        print(f"  {job.name}{' after ' + ', '.join(names) if names else ''}")


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
