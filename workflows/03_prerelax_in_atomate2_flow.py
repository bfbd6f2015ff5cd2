"""Put a prediction in the place of the first relaxation of an atomate2 flow; print the flow, run it with --run.

    python workflows/03_prerelax_in_atomate2_flow.py POSCAR
    python workflows/03_prerelax_in_atomate2_flow.py POSCAR --run     # needs VASP as atomate2 is configured for it

`PrerelaxMaker` fits every slot that takes a relax maker: DoubleRelaxMaker, the Materials Project's double relaxations,
`bulk_relax_maker` of elastic and phonon flows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from atomate2.vasp.flows.core import DoubleRelaxMaker
from atomate2.vasp.jobs.core import RelaxMaker
from jobflow import Flow
from pymatgen.core import Structure

from e3relax_flows.core.settings import load_settings
from e3relax_flows.data.prototypes import build_candidates
from e3relax_flows.data.stores import open_job_store
from e3relax_flows.jobs.predict import PrerelaxMaker
from e3relax_flows.submit.local import run_flow_locally


def build_flow(structure: Structure) -> Flow:
    """One prediction, then one VASP relaxation from the predicted structure (from the initial one if refused)."""
    return DoubleRelaxMaker(name="predict and relax", relax_maker1=PrerelaxMaker(), relax_maker2=RelaxMaker()).make(
        structure
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="structure file; none: one of the demo's candidates")
    parser.add_argument("--run", action="store_true", help="run it here; otherwise it is only printed")
    arguments = parser.parse_args()

    structure = Structure.from_file(arguments.file) if arguments.file else build_candidates()[3][1]
    flow = build_flow(structure)
    print(f"{flow.name} for {structure.composition.reduced_formula}:")
    for job, parents in flow.iterflow():
        names = [parent.name for parent, _ in flow.iterflow() if parent.uuid in parents]
        print(f"  {job.name}{' after ' + ', '.join(names) if names else ''}")
    if not arguments.run:
        return 0

    with open_job_store(load_settings()) as store:
        run = run_flow_locally(flow, store, Path("runs/double_relax"))
    for failure in run.failures:
        print(f"{failure.name} failed: {failure.error}")
    return int(bool(run.failures))


if __name__ == "__main__":
    raise SystemExit(main())
