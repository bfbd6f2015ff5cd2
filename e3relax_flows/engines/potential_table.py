"""Table of potentials: packages, checkpoints, their training data, and the files of their weights."""

from __future__ import annotations

from dataclasses import dataclass

# what the Materials Project's trajectories hold: everything up to Pu without these
MPTRJ_ELEMENTS = frozenset(range(1, 95)) - {84, 85, 86, 87, 88}
MACE_RELEASES = "https://github.com/ACEsuit/mace-foundations/releases/download"


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of a potential.

    Attributes
    ----------
    label
        Its versioned name in documents.
    functional
        Functional of its training data; by modal where one network serves several.
    weights
        File in the folder of the package, or below ~/.cache where its package keeps downloads.
    url
        Where weights that no wheel holds are downloaded.
    modals
        Label and functional of each modal of a network that serves several, by its name.
    """

    label: str
    functional: str
    weights: str
    url: str = ""
    modals: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Family:
    """Potentials of one package.

    Attributes
    ----------
    force_fields
        Names of it in atomate2, with the checkpoint that each stands for; the first is the usual one.
    package, install
        What is imported, and what to type where it is not installed.
    argument
        Keyword argument of atomate2's calculator by which a checkpoint may be given.
    """

    name: str
    force_fields: dict[str, str]
    package: str
    install: str
    argument: str
    checkpoints: dict[str, Checkpoint]
    elements: frozenset[int] = MPTRJ_ELEMENTS


def _mace(label: str, functional: str, release: str, file: str) -> Checkpoint:
    return Checkpoint(label, functional, f"mace/{file}", url=f"{MACE_RELEASES}/{release}/{file}")


CHGNET = Family(
    name="CHGNet",
    force_fields={"CHGNet": "0.3.0"},
    package="chgnet",
    install="pip install 'e3relax-flows[mlip]'",
    argument="model_name",
    checkpoints={
        "0.3.0": Checkpoint("CHGNet-0.3.0", "PBE(+U)", "pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar"),
        "r2scan": Checkpoint(
            "CHGNet-r2SCAN", "r2SCAN", "pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar"
        ),
        "0.2.0": Checkpoint("CHGNet-0.2.0", "PBE(+U)", "pretrained/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar"),
    },
)
SEVENNET = Family(
    name="SevenNet",
    force_fields={"SevenNet": "7net-0"},
    package="sevenn",
    install="pip install 'e3relax-flows[sevennet]'",
    argument="model",
    checkpoints={
        "7net-0": Checkpoint(
            "SevenNet-0-11Jul2024", "PBE(+U)", "pretrained_potentials/SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth"
        ),
        "7net-0_22may2024": Checkpoint(
            "SevenNet-0-22May2024", "PBE(+U)", "pretrained_potentials/SevenNet_0__22May2024/checkpoint_sevennet_0.pth"
        ),
        "7net-l3i5": Checkpoint("SevenNet-l3i5", "PBE(+U)", "pretrained_potentials/SevenNet_l3i5/checkpoint_l3i5.pth"),
        "7net-mf-0": Checkpoint(
            "SevenNet-MF-0",
            "PBE(+U)",
            "pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
            modals=(("PBE", "SevenNet-MF-0-PBE", "PBE(+U)"), ("R2SCAN", "SevenNet-MF-0-r2SCAN", "r2SCAN")),
        ),
    },
)
MACE = Family(
    name="MACE",
    force_fields={
        "MACE-MP-0": "mp-0-medium",
        "MACE": "mp-0-medium",
        "MACE-MPA-0": "mpa-0-medium",
        "MACE-MP-0b3": "mp-0b3-medium",
    },
    package="mace",
    install="pip install mace-torch, in an environment of its own where it wants another e3nn than this package",
    argument="model",
    checkpoints={
        "mp-0-medium": _mace("MACE-MP-0-medium", "PBE(+U)", "mace_mp_0", "2023-12-03-mace-128-L1_epoch-199.model"),
        "mp-0b3-medium": _mace("MACE-MP-0b3-medium", "PBE(+U)", "mace_mp_0b3", "mace-mp-0b3-medium.model"),
        "mpa-0-medium": _mace("MACE-MPA-0-medium", "PBE(+U)", "mace_mpa_0", "mace-mpa-0-medium.model"),
        "omat-0-medium": _mace("MACE-OMAT-0-medium", "PBE(+U)", "mace_omat_0", "mace-omat-0-medium.model"),
    },
)
FAMILIES = (CHGNET, SEVENNET, MACE)


def find_family(name: str) -> tuple[Family, str] | None:
    """Family of a force-field name, in any case, and the checkpoint it stands for; None where none has it."""
    wanted = name.removeprefix("MLFF.").replace("_", "-").lower()
    for family in FAMILIES:
        for force_field, checkpoint in family.force_fields.items():
            if wanted == force_field.lower():
                return family, checkpoint
    return None
