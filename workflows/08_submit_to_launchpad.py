"""Submit one flow per structure to a FireWorks launchpad: predict, relax with an engine, record the outcome.

    python workflows/08_submit_to_launchpad.py candidates/ --dry-run
    python workflows/08_submit_to_launchpad.py candidates/
    python workflows/08_submit_to_launchpad.py candidates/ --where remote     # jobflow-remote's current project

Everything that can be checked is checked first; typed twice, a flow is submitted once. Workers read ~/.e3relax.yaml and
~/.jobflow.yaml (configs/). For many candidates with controls and limits there is `e3relax screen --submit fireworks`.
"""

from __future__ import annotations

import argparse
import sys

from e3relax_flows import (
    ConfigError,
    E3RelaxError,
    PrerelaxFlowMaker,
    get_engine,
    identify_flow,
    load_settings,
    read_structures,
    submit_many,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="structure files and folders")
    parser.add_argument("--engine", default="vasp-mp-gga", help="engine that relaxes; `e3relax doctor` lists them")
    parser.add_argument("--where", choices=("fireworks", "remote"), default="fireworks")
    parser.add_argument("--dry-run", action="store_true", help="build the flows, submit nothing")
    arguments = parser.parse_args()

    engine = get_engine(arguments.engine)
    flows, samples, n_unread = {}, [], 0
    for item in read_structures(arguments.inputs):
        if item.structure is None:
            print(f"error: {item.error}", file=sys.stderr)
            n_unread += 1
            continue
        flow = PrerelaxFlowMaker(name=item.id, engine=engine).make(item.structure)
        flows[identify_flow(flow)] = flow
        samples = samples or [engine.make(item.structure)]  # the jobs that will follow, to be checked as well
    if not flows:
        raise ConfigError(f"{', '.join(arguments.inputs)}: no structure; give files that pymatgen reads, or folders")
    if arguments.dry_run:
        print(f"{len(flows)} flows would be submitted; nothing was done: that was a dry run")
        return int(n_unread > 0)
    submission = submit_many(flows, arguments.where, settings=load_settings(), samples=samples)
    for warning in submission.warnings:
        print(f"error: {warning}", file=sys.stderr)
    print(submission.describe())
    return int(n_unread > 0)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
