"""The whole configuration as one pydantic-settings model, and the order of its sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from mirror_sync.config import schema
from mirror_sync.config.environment import PREFIX
from mirror_sync.config.lines import KeyPath


class Tree(BaseSettings):
    """Every section.  Made by :func:`parse` only."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, env_prefix=PREFIX, env_nested_delimiter="__"
    )

    server: schema.Server = Field(default_factory=schema.Server)
    database: schema.Database = Field(default_factory=schema.Database)
    storage: schema.Storage = Field(default_factory=schema.Storage)
    workers: schema.Workers = Field(default_factory=schema.Workers)
    git: schema.Git = Field(default_factory=schema.Git)
    lfs: schema.Lfs = Field(default_factory=schema.Lfs)
    schedule: schema.Schedule = Field(default_factory=schema.Schedule)
    link: schema.Link = Field(default_factory=schema.Link)
    upstream: dict[schema.HostKey, schema.Upstream] = Field(default_factory=dict)
    class_: dict[schema.ClassKey, schema.Class] = Field(default_factory=dict, alias="class")
    mirror: tuple[schema.Mirror, ...] = ()
    webhooks: schema.Webhooks = Field(default_factory=schema.Webhooks)
    access: schema.AccessRules = Field(default_factory=schema.AccessRules)
    serve: schema.Serve = Field(default_factory=schema.Serve)
    huggingface: schema.HuggingFace = Field(default_factory=schema.HuggingFace)
    metrics: schema.Metrics = Field(default_factory=schema.Metrics)
    log: schema.Log = Field(default_factory=schema.Log)
    ui: schema.Ui = Field(default_factory=schema.Ui)

    def tables(self, section: str) -> list[KeyPath]:
        """Return the paths of all tables of one section: one, or one per host, class or mirror."""
        if section == "upstream":
            return [("upstream", host) for host in self.upstream]
        if section == "class":
            return [("class", name) for name in self.class_]
        if section == "mirror":
            return [("mirror", index) for index in range(len(self.mirror))]
        return [(section,)]


class _Variables(EnvSettingsSource):
    """Environment variables, already sorted out, instead of those of the process."""

    def __init__(self, model: type[BaseSettings], variables: Mapping[str, str]) -> None:
        self.given = {name.lower(): value for name, value in variables.items()}
        super().__init__(model)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return dict(self.given)


class _Tables(PydanticBaseSettingsSource):
    """The merged TOML tables."""

    def __init__(self, model: type[BaseSettings], tree: Mapping[str, Any]) -> None:
        super().__init__(model)
        self.tree = tree

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - pydantic's
        return self.tree.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self.tree)


def parse(
    flags: Mapping[str, Any], variables: Mapping[str, str], files: Mapping[str, Any]
) -> tuple[Tree | None, list[ErrorDetails], str]:
    """Return the model, or every error in it, or the text of what stopped the sources themselves."""

    class Given(Tree):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, _Variables(settings_cls, variables), _Tables(settings_cls, files)

    try:
        return Given(**flags), [], ""
    except ValidationError as error:
        return None, error.errors(include_url=False, include_input=False), ""
    except SettingsError:
        # The exception's text may repeat the value.
        return None, [], f"environment {PREFIX}MIRROR is not a JSON list of tables"
