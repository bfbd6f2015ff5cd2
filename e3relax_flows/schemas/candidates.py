"""Configuration of sources of candidates and of rankings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pymatgen.core import Composition, Element

VolumeRule = Literal["atomic", "ionic", "bonds", "keep"]


def split_function(name: str) -> tuple[str, str]:
    """Module and function of "module:function"; ValueError for another form."""
    module, colon, function = name.partition(":")
    if not (module and colon and function.isidentifier()):
        raise ValueError(f"{name!r} is not of the form module:function")
    return module, function


class SourceConfig(BaseModel):
    """Base of all sources: unknown keys are refused, and instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSource(SourceConfig):
    """Files and folders of structures, as `inputs` of a screen."""

    type: Literal["files"]
    paths: list[Path] = Field(min_length=1, description="anything that pymatgen reads, folders, lists of structures")


class OptimadeQuery(BaseModel):
    """A filter, and the OPTIMADE servers to query."""

    filter: str = Field(min_length=1, description='such as elements HAS ALL "Na","Cl" AND nelements=2')
    servers: list[str] = Field(default_factory=list, description="base URLs, such as https://optimade.odbx.science")
    providers: list[str] = Field(default_factory=list, description="ids in the register of OPTIMADE, such as odbx")
    limit: int | None = Field(None, ge=1, description="most structures of each server; none: all")

    @model_validator(mode="after")
    def _names_servers(self) -> Self:
        if not self.servers and not self.providers:
            raise ValueError("a filter needs servers (URLs) or providers (ids in the register of OPTIMADE)")
        if wrong := [url for url in self.servers if not url.startswith(("http://", "https://"))]:
            raise ValueError(f"{wrong[0]!r} is not a URL; write https://..., or the id of a provider under providers")
        return self


class OptimadeSource(SourceConfig):
    """Responses of OPTIMADE servers: saved files, or the result of a filter."""

    type: Literal["optimade"]
    paths: list[Path] = Field(default_factory=list, description="JSON or JSON lines, also .gz, and folders of them")
    filter: str | None = Field(None, description="instead of paths: the filter of the query")
    servers: list[str] = Field(default_factory=list, description="with a filter: base URLs")
    providers: list[str] = Field(default_factory=list, description="with a filter: ids in the register of OPTIMADE")
    limit: int | None = Field(None, ge=1, description="with a filter: most structures of each server; none: all")
    refresh: bool = Field(False, description="query again instead of using the response on disk")

    @property
    def query(self) -> OptimadeQuery | None:
        """The query; None where files are read."""
        if self.filter is None:
            return None
        return OptimadeQuery(filter=self.filter, servers=self.servers, providers=self.providers, limit=self.limit)

    @model_validator(mode="after")
    def _choose_one(self) -> Self:
        if bool(self.paths) == (self.filter is not None):
            raise ValueError("give either paths of saved responses, or a filter with servers or providers")
        if self.paths and (self.servers or self.providers or self.limit):
            raise ValueError("servers, providers and limit belong to a filter; saved responses are read whole")
        _ = self.query  # checked now, not when the query runs
        return self


class BuiltInSource(SourceConfig):
    """The candidates of the demo."""

    type: Literal["built-in"]


class PrototypeSource(SourceConfig):
    """Prototypes of pymatgen's AFLOW table, or compounds put into them.

    Examples
    --------
    >>> from e3relax_flows import PrototypeSource, load_settings, read_sources
    >>> source = PrototypeSource(type="prototypes", prototypes=["B1", "B2"], compounds=["LiF"])
    >>> [item.structure.composition.reduced_formula for item in read_sources([source], load_settings())]
    ['LiF', 'LiF']
    """

    type: Literal["prototypes"]
    prototypes: list[str] = Field(
        min_length=1, description="AFLOW labels, Strukturbericht symbols, minerals or formulas: [B1, Fluorite]"
    )
    compounds: list[str] = Field(
        default_factory=list, description="formulas to put into those of their composition; none: the prototypes"
    )
    volume: VolumeRule = Field("atomic", description="atomic | ionic | bonds scale the prototype's; keep does not")

    @field_validator("compounds")
    @classmethod
    def _know_formulas(cls, compounds: list[str]) -> list[str]:
        for compound in compounds:
            try:
                elements = Composition(compound).elements
            except ValueError as error:
                raise ValueError(f"{compound!r} is not a formula ({error})") from error
            if not all(isinstance(element, Element) for element in elements):
                raise ValueError(f"{compound!r} is not a formula of elements")
        return compounds


class MPQuery(BaseModel):
    """A query of the summary documents of the Materials Project; deprecated materials are left out."""

    chemsys: list[str] = Field(default_factory=list, description="chemical systems such as Li-Fe-O or Si-*")
    elements: list[str] = Field(default_factory=list, description="elements that must all be there")
    exclude_elements: list[str] = Field(default_factory=list, description="elements that must not be there")
    formula: list[str] = Field(default_factory=list, description="formulas such as Fe2O3 or ABO3")
    material_ids: list[str] = Field(default_factory=list, description="ids such as mp-149")
    energy_above_hull: tuple[float, float] | None = Field(None, description="eV per atom, from and to")
    num_sites: tuple[int, int] | None = Field(None, description="sites per primitive cell, from and to")
    num_elements: tuple[int, int] | None = Field(None, description="different elements, from and to")
    is_stable: bool | None = Field(None, description="only those on the hull, or only those above")
    theoretical: bool | None = Field(None, description="only those never made, or only those observed")
    limit: int | None = Field(None, ge=1, description="most materials, in the order of their ids; none: all")

    @model_validator(mode="after")
    def _narrows(self) -> MPQuery:
        """Refuse the query for everything, and ranges that are empty."""
        terms = self.express()
        if not terms.keys() - {"deprecated"} and self.limit is None:
            raise ValueError("a query for the whole Materials Project; give chemsys, elements, ..., or a limit")
        for name in ("energy_above_hull", "num_sites", "num_elements"):
            if name in terms and terms[name][0] > terms[name][1]:
                raise ValueError(f"{name} is {list(terms[name])}; write the smaller number first")
        return self

    def express(self) -> dict[str, Any]:
        """Arguments of mp-api's `materials.summary.search`."""
        terms = {name: getattr(self, name) for name in MPQuery.model_fields if name != "limit"}
        return {"deprecated": False} | {name: value for name, value in terms.items() if value not in (None, [])}


class MaterialsProjectSource(SourceConfig, MPQuery):
    """Materials of the Materials Project that match a query.

    Examples
    --------
    Stable oxides of few atoms; `read_sources` downloads them:

    >>> from e3relax_flows import MaterialsProjectSource
    >>> source = MaterialsProjectSource(type="materials-project", elements=["O"], num_sites=(1, 10), is_stable=True)
    >>> source.num_sites, source.limit
    ((1, 10), None)
    """

    type: Literal["materials-project"]
    refresh: bool = Field(False, description="query again instead of using the response on disk")


class StoreSource(SourceConfig):
    """Documents of a maggma store."""

    type: Literal["store"]
    store: dict[str, Any] = Field(description="maggma store, written as in jobflow.yaml")
    criteria: dict[str, Any] = Field(default_factory=dict, description="MongoDB query")
    structure: str = Field("structure", description="field of the structure, with dots")
    id: str = Field("material_id", description="field of the id, with dots")


ParentSource = Annotated[
    FileSource | OptimadeSource | BuiltInSource | PrototypeSource | MaterialsProjectSource | StoreSource,
    Field(discriminator="type"),
]


class SubstitutionRules(BaseModel):
    """Which elements are exchanged, and how the volume is scaled.

    Of the volumes, atomic, ionic and bonds scale that of the parent: by the atomic radii of its elements (0.3 ms per
    structure), by their ionic radii (0.1 s), by the shortest data-mined bond (0.03 s). For 353 exchanges between
    simple salts, semiconductors and perovskites their medians were 8 %, 6 % and 8 % off the measured volume, and 22 %
    that of the parent.
    """

    exchanges: list[dict[str, list[str]]] = Field(
        default_factory=list,
        description="elements that replace each: {Na: [Li, K], Cl: [F, Br]} makes four of NaCl",
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="instead: smallest probability of a substitution by the predictor, such as 0.01"
    )
    elements: list[str] = Field(default_factory=list, description="only these may come in; none: all")
    per_parent: int | None = Field(None, ge=1, description="most candidates of one parent, the most probable first")
    volume: VolumeRule = Field("atomic", description="atomic | ionic | bonds scale the parent's volume; keep does not")

    @field_validator("exchanges")
    @classmethod
    def _know_elements(cls, exchanges: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
        names = {name for exchange in exchanges for old, new in exchange.items() for name in (old, *new)}
        if unknown := sorted(name for name in names if not Element.is_valid_symbol(name)):
            raise ValueError(f"no elements: {', '.join(unknown)}")
        if any(not exchange or not all(exchange.values()) for exchange in exchanges):
            raise ValueError("an exchange is empty; write {Na: [Li, K]}")
        return exchanges

    @model_validator(mode="after")
    def _choose_one(self) -> SubstitutionRules:
        if bool(self.exchanges) == (self.threshold is not None):
            raise ValueError("give either exchanges or a threshold for the predictor")
        return self


class SubstitutionSource(SourceConfig, SubstitutionRules):
    """Structures of other sources with their elements exchanged.

    Examples
    --------
    >>> from e3relax_flows import SubstitutionSource, load_settings, read_sources
    >>> source = SubstitutionSource(type="substitution", parents=[{"type": "built-in"}], exchanges=[{"Na": ["Rb"]}])
    >>> [item.id for item in read_sources([source], load_settings())]
    ['RbBr from rock salt NaBr from NaCl', 'Rb2S from antifluorite Na2S from Li2S']
    """

    type: Literal["substitution"]
    parents: list[ParentSource] = Field(min_length=1, description="sources of the structures to begin from")


Source = Annotated[
    FileSource
    | OptimadeSource
    | BuiltInSource
    | PrototypeSource
    | MaterialsProjectSource
    | StoreSource
    | SubstitutionSource,
    Field(discriminator="type"),
]


class RankingConfig(BaseModel):
    """Base of all rankings: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RankByChange(RankingConfig):
    """Candidates that the network moves little come first: their predictions are the likeliest to be good."""

    by: Literal["change"]


class RankByTable(RankingConfig):
    """By a number of each candidate in a file."""

    by: Literal["table"]
    file: Path = Field(description="CSV with a header, or JSON {id: number} or [{id: ..., COLUMN: number}, ...]")
    column: str | None = Field(None, description="of the numbers; none: the only one")
    id_column: str = Field("id", description="of the ids of candidates")
    largest_first: bool = False


class RankByHull(RankingConfig):
    """By the energy above the hull of given entries, of a potential at the structure as it is."""

    by: Literal["hull"]
    entries: Path = Field(description="JSON of pymatgen's entries, on the potential's scale of energies")
    potential: str = Field("chgnet", description="chgnet, or module:function that gives an ASE calculator")


class RankByFunction(RankingConfig):
    """By the user's own function of id and structure; None where it gives no number."""

    by: Literal["function"]
    function: str = Field(description="module:function, called with id and structure")

    @field_validator("function")
    @classmethod
    def _has_colon(cls, function: str) -> str:
        split_function(function)
        return function


Ranking = Annotated[RankByChange | RankByTable | RankByHull | RankByFunction, Field(discriminator="by")]


class CandidatesConfig(BaseModel):
    """Sources of candidates, and their ranking."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: list[str] = Field(default_factory=list, description="files and folders of structures")
    sources: list[Source] = Field(default_factory=list, description="databases, stores and substitutions")
    ranking: Ranking | None = Field(None, description="most promising first; none: in the order of the sources")

    @model_validator(mode="after")
    def _has_candidates(self) -> Self:
        if not self.inputs and not self.sources:
            raise ValueError("no candidates; give inputs, sources, or both")
        return self
