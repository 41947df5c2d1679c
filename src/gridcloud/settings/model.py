"""What may be configured: one frozen class per section, every field with its help."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gridcloud.errors import GridcloudError
from gridcloud.settings.apps import APP_NAME, AppSettings, check_apps
from gridcloud.settings.budgets import BUDGET_NAME, BudgetSettings, Words
from gridcloud.settings.grid import GridSettings
from gridcloud.settings.lending import LendingSettings
from gridcloud.settings.login import (
    WAYS,
    CILogonSettings,
    GlobusSettings,
    HeaderSettings,
    LDAPSettings,
    LTISettings,
    NativeSettings,
    OIDCSettings,
    check_way,
)
from gridcloud.settings.profiles import PROFILE_NAME, CourseSettings, ProfileSettings
from gridcloud.settings.shares import SharesSettings
from gridcloud.settings.values import Duration, Size

__all__ = [
    "PROVIDER_NAME",
    "DefaultSettings",
    "HubSettings",
    "JobSettings",
    "LimitSettings",
    "LogSettings",
    "ProviderSettings",
    "Section",
    "ServiceSettings",
    "SessionSettings",
    "Settings",
    "StoreSettings",
]

PROVIDER_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class Section(BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ProviderSettings(Section):
    """What every provider's entry has; each driver's ``Settings`` extends it. Every field carries help."""

    place: ClassVar[tuple[str, ...]] = ()
    """The fields that say where things are made: an entry in which they change means another place."""

    driver: str = Field(description="the driver that serves this entry: local, container, ssh, …")
    price: Decimal = Field(
        default=Decimal(0), ge=0, description="price per hour of the whole, in the currency set"
    )
    location: str = Field(default="", description="where it is, in any words; requests may ask for it")

    def exposure(self) -> str:
        """Return what of this gridcloud itself whoever uses its machines may get at, in words; empty: nothing."""
        return ""


class DefaultSettings(Section):
    """What a request asks for where it does not say."""

    cpus: float = Field(default=1, gt=0, le=1_000_000, description="CPU cores")
    memory: Size = Field(default=1024**3, description="memory, e.g. 4GiB")
    time: Duration = Field(default=0, description="time limit, e.g. 8h; 0: the longest allowed")
    idle: Duration = Field(
        default=0, description="end it after this long without use, e.g. 1h; 0: the longest allowed"
    )


class LimitSettings(Section):
    """How long things may take, and how often they are tried."""

    time: Duration = Field(default=0, description="longest life of an instance, e.g. 2d; 0: no end")
    idle: Duration = Field(
        default=0,
        description="longest that an instance may live without being used, e.g. 1h; 0: as long as it likes",
    )
    warning: Duration = Field(default=600, description="time between the warning and the end of an instance")
    instances: int = Field(
        default=0,
        ge=0,
        description="instances and nodes of clusters that one owner may have at once; 0: any number",
    )
    offers: Duration = Field(default=10, ge=1, description="longest wait for a provider's offers")
    start: Duration = Field(
        default=900, ge=1, description="longest time from a chosen offer to a machine that answers"
    )
    orphan: Duration = Field(
        default=3600,
        description="what serves all instances of a provider (a network, a security group) is removed when there "
        "was none for so long",
    )
    silence: Duration = Field(
        default=1800,
        description="a machine that has not answered for so long is given up, with what runs on it; 0: never",
    )
    configure: Duration = Field(default=3600, ge=1, description="longest time for configuring a machine")
    before_end: Duration = Field(
        default=60, ge=1, description="longest time for saving what is on an instance before it is ended"
    )
    retry_first: float = Field(
        default=1.0,
        gt=0,
        le=3600,
        description="seconds before a removal that failed is tried again; then doubled",
    )
    retry_longest: float = Field(
        default=60.0, gt=0, le=86400, description="longest pause between two tries, in seconds"
    )


class HubSettings(Section):
    """JupyterHub, as `gridcloud up` starts it."""

    bind: str = Field(default="127.0.0.1", description="address that the hub's proxy listens on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="port that the hub's proxy listens on; 0: any free one"
    )
    base_url: str = Field(
        default="/", pattern=r"^/([\w.~-]+/)*$", description="path that all pages lie under: /…/"
    )
    public_url: str = Field(
        default="",
        pattern=r"^(https?://[^\s?#]+)?$",
        description="URL that people type, where a server stands before",
    )
    authenticator: str = Field(
        default="",
        description="how people log in: header, oidc, globus, cilogon, ldap, lti, native, or an authenticator of "
        "JupyterHub (name or class); empty: one link to log in, printed at start",
    )
    header: HeaderSettings | None = Field(default=None, description="for authenticator: header")
    oidc: OIDCSettings | None = Field(default=None, description="for authenticator: oidc")
    globus: GlobusSettings | None = Field(default=None, description="for authenticator: globus")
    cilogon: CILogonSettings | None = Field(default=None, description="for authenticator: cilogon")
    ldap: LDAPSettings | None = Field(default=None, description="for authenticator: ldap")
    lti: LTISettings | None = Field(default=None, description="for authenticator: lti")
    native: NativeSettings | None = Field(default=None, description="for authenticator: native")
    allow_all: bool = Field(
        default=False, description="everybody whom the authenticator knows may log in, beside allowed_users"
    )
    allowed_users: tuple[str, ...] = Field(
        default=(), description="users who may log in, for an authenticator"
    )
    admin_users: tuple[str, ...] = Field(default=(), description="users who may administer the hub")
    named_servers: int = Field(
        default=0, ge=0, le=1000, description="sessions with names that each user may have beside the first"
    )
    templates: str = Field(
        default="",
        description="a file of the MultipleSpawner's spawner templates, whose lines become profiles; "
        "MULTIPLE_SPAWNER_TEMPLATE_FILE where that is set",
    )
    deployments: str = Field(
        default="",
        description="the file of spawner deployments that goes with it; MULTIPLE_SPAWNER_DEPLOYMENT_FILE where "
        "that is set",
    )
    course_folders: str = Field(
        default="",
        pattern=r"^(/.*)?$",
        description="folder of this computer below which all hand-out and shared folders of courses lie",
    )
    before_start: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="hooks to run before each session starts, in order, each {use: NAME, …}, such as ldap",
    )
    database: str = Field(
        default="",
        description="postgresql+psycopg://USER@HOST/DATABASE of JupyterHub's own records, for this hub alone; empty: a "
        "file in the data folder",
    )
    starting: Duration = Field(
        default=120,
        ge=1,
        description="longest wait for the service, the proxy or the hub to answer once `gridcloud up` has started it",
    )
    configuration: str = Field(
        default="", description="Python file with more JupyterHub configuration, read after gridcloud's own"
    )

    @model_validator(mode="after")
    def _has_its_way(self) -> Self:
        check_way(self.authenticator, {name: getattr(self, name) for name in WAYS})
        return self


class ServiceSettings(Section):
    """The service's HTTPS door; its private socket is always there."""

    host: str = Field(
        default="", description="address to listen on with HTTPS; empty: only the private socket"
    )
    port: int = Field(default=8443, ge=0, le=65535, description="port to listen on; 0: any free one")
    certificate: str = Field(default="", description="file of the certificate and its chain (PEM)")
    key: str = Field(
        default="", description="file of the certificate's private key (PEM), readable by its owner only"
    )


class SessionSettings(Section):
    """What a session on an instance is."""

    command: tuple[str, ...] = Field(
        default=("jupyterhub-singleuser",),
        min_length=1,
        description="program that serves a session, with its arguments",
    )
    packages: tuple[str, ...] = Field(
        default=(), description="Python packages that an instance must have before its session starts"
    )
    idle: Duration = Field(
        default=0,
        description="longest that a session may go without use before it is ended, e.g. 2h; 0: as any instance",
    )
    extend: Duration = Field(
        default=3600,
        description="how much longer a session lives when its user presses Extend; 0: nobody may extend theirs",
    )
    before_end: str = Field(
        default="",
        description="shell command to run in a session's environment before it is ended, to save what is there; "
        "limits.before_end is its time",
    )
    start: Duration = Field(
        default=180, ge=1, description="longest time from the program's start to its first answer"
    )

    def configure(self) -> list[dict[str, Any]]:
        """Return what makes a machine have the packages that a session needs."""
        wanted = list(self.packages)
        return [{"use": "packages", "requirements": wanted, "session": True}] if wanted else []


class JobSettings(Section):
    """Jobs, whatever runs them."""

    log: Size = Field(
        default=64 * 1024**2,
        ge=1024**2,
        description="size of what a job says on each of its outputs, at most; of more, the first half and the newest "
        "part are kept",
    )
    input: Size = Field(
        default=1024**3, description="size of one file that a job is given from here, at most"
    )
    keep: Duration = Field(
        default=30 * 86400,
        description="how long a job's folder is kept once it has ended; its record and results stay; 0: for ever",
    )


class LogSettings(Section):
    """What is logged, by the service and the hub."""

    format: Literal["text", "json"] = Field(
        default="text", description="text: a line for people; json: a document on each line, for programs"
    )


class StoreSettings(Section):
    """Where records are kept."""

    url: str = Field(
        default="",
        description="postgresql+psycopg://USER@HOST/DATABASE, or a file; empty: a file in the data folder",
    )


class Settings(Section):
    """The whole configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    providers: dict[Annotated[str, Field(pattern=PROVIDER_NAME)], ProviderSettings | GridcloudError] = Field(
        default_factory=dict,
        description="sources of capacity by name; an entry whose driver cannot be loaded holds the error instead",
    )
    clusters: dict[Annotated[str, Field(pattern=PROVIDER_NAME)], ProviderSettings | GridcloudError] = Field(
        default_factory=dict,
        description="what makes Kubernetes clusters, by name; an entry whose driver cannot be loaded holds the error",
    )
    schedulers: dict[Annotated[str, Field(pattern=PROVIDER_NAME)], ProviderSettings | GridcloudError] = Field(
        default_factory=dict,
        description="what runs jobs, by name; none: this computer; an entry whose driver cannot be loaded holds the "
        "error",
    )
    currency: str = Field(
        default="EUR", pattern=r"^[A-Z]{3}$", description="currency of all prices (ISO 4217)"
    )
    budgets: dict[Annotated[str, Field(pattern=BUDGET_NAME)], BudgetSettings] = Field(
        default_factory=dict, description="who may spend how much, by name"
    )
    groups: dict[Annotated[str, Field(min_length=1, max_length=200)], Words] = Field(
        default_factory=dict, description="users by the name of their group, for budgets"
    )
    profiles: dict[Annotated[str, Field(pattern=PROFILE_NAME)], ProfileSettings] = Field(
        default_factory=dict,
        description="what the spawn page offers, and to whom, by name; none: any request",
    )
    courses: dict[Annotated[str, Field(pattern=PROFILE_NAME)], CourseSettings] = Field(
        default_factory=dict, description="courses by name: their rosters, what they may use and when"
    )
    defaults: DefaultSettings = Field(
        default_factory=DefaultSettings, description="what requests ask for by default"
    )
    limits: LimitSettings = Field(default_factory=LimitSettings, description="times and numbers")
    hub: HubSettings = Field(default_factory=HubSettings, description="JupyterHub")
    service: ServiceSettings = Field(default_factory=ServiceSettings, description="the service's HTTPS door")
    session: SessionSettings = Field(default_factory=SessionSettings, description="sessions on instances")
    apps: Annotated[
        dict[Annotated[str, Field(pattern=APP_NAME)], AppSettings], AfterValidator(check_apps)
    ] = Field(
        default_factory=dict,
        description="applications beside JupyterLab by name: one's own, and changes to desktop, code, rstudio and dask",
    )
    store: StoreSettings = Field(default_factory=StoreSettings, description="where records are kept")
    jobs: JobSettings = Field(default_factory=JobSettings, description="jobs, whatever runs them")
    logs: LogSettings = Field(default_factory=LogSettings, description="how the logs are written")
    shares: SharesSettings = Field(
        default_factory=SharesSettings, description="shared folders, and the doors to them"
    )
    grid: GridSettings = Field(default_factory=GridSettings, description="the grid of institutions")
    lending: LendingSettings = Field(
        default_factory=LendingSettings, description="what is lent to other institutions, and to whom"
    )
