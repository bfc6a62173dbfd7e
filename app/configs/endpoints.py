"""Named configs over HTTP."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from palettery.app.configs.documents import SHA256_CHARACTERS, ConfigDocument, Language
from palettery.app.configs.service import ConfigService
from palettery.app.errors import UnsupportedMediaType
from palettery.app.http.pagination import Cursor, Limit
from palettery.app.http.problems import problems
from palettery.app.http.request_body import media_type, read_body
from palettery.app.http.services import ServiceLookup
from palettery.app.http.streamed_json import external_path, json_response
from palettery.app.keys.authentication import Reader, Writer
from palettery.app.sandbox.document_pool import DocumentClient
from palettery.schemas.configs import ConfigPage, ConfigSummary, NamedConfig, ValidatedConfig

router = APIRouter(prefix="/v1", responses=problems(default="an error of another kind"))

LANGUAGES: dict[str, Language] = {
    "application/json": "json",
    "application/yaml": "yaml",
    "application/x-yaml": "yaml",
    "text/yaml": "yaml",
    "text/x-yaml": "yaml",
}
"""Media type -> language. Source: RFC 9512 for `application/yaml`; the others are older."""
EXAMPLE = {"global_config": {"op_state_spec": {"weight": {"n_bits": 4}}}}
EXAMPLE_YAML = "global_config:\n  op_state_spec:\n    weight: {n_bits: 4}\n"
BODY_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A config, bare or in the form of coreai-opt's files.",
        "content": {
            kind: {"schema": {"type": "object"}, "example": EXAMPLE}
            if language == "json"
            else {"schema": {"type": "string"}, "example": EXAMPLE_YAML}
            for kind, language in LANGUAGES.items()
        },
    }
}
BODY_PROBLEMS = problems(
    _413="the document is over a limit", _415="the body is neither JSON nor YAML by its type"
)
NOT_FOUND_PROBLEMS = problems(_404="no such config")


async def read_document(request: Request, max_bytes: int) -> ConfigDocument:
    """Return the config document in a request's body.

    Raises:
        UnsupportedMediaType: its type is neither JSON nor YAML.
        TooLarge: it has more than `max_bytes`.
    """
    kind = media_type(request)
    if kind not in LANGUAGES:
        raise UnsupportedMediaType(
            f"the body is {kind[:100] or 'of no named type'}; send {' or '.join(LANGUAGES)}"
        )
    return ConfigDocument(await read_body(request, max_bytes), LANGUAGES[kind])


Service = Annotated[ConfigService, Depends(ServiceLookup(ConfigService))]


@router.post(
    "/configs/validate",
    openapi_extra=BODY_OPENAPI,
    response_model=ValidatedConfig,
    responses=BODY_PROBLEMS,
)
async def validate(request: Request, configs: Service, caller: Reader) -> Response:
    """Return every error of a config, or the config in full; nothing is stored."""
    document = await read_document(request, configs.max_bytes)
    return json_response(await configs.validate(DocumentClient(caller.owner, request), document))


@router.put(
    "/configs/{name}",
    openapi_extra=BODY_OPENAPI,
    response_model=NamedConfig,
    responses=BODY_PROBLEMS
    | problems(
        _422="the name or the config is not valid", _429="the owner has as many bytes as it may"
    )
    | {201: {"model": NamedConfig, "description": "a new version, at Location"}},
)
async def put(name: str, request: Request, configs: Service, caller: Writer) -> Response:
    """Store a config as the next version of a name, unless the newest version is the same."""
    document = await read_document(request, configs.max_bytes)
    client = DocumentClient(caller.owner, request)
    summary, config, is_new = await configs.put(caller, client, name, document)
    location = {"Location": external_path(request, summary.links["self"])}
    status = 201 if is_new else 200
    return json_response(
        _json_beginning(summary),
        config,
        "}",
        status=status,
        headers=location,
        skipped_bytes=SHA256_CHARACTERS,
    )


@router.get("/configs", responses=problems(_422="limit or cursor is not valid"))
def page(configs: Service, caller: Reader, limit: Limit = 100, cursor: Cursor = None) -> ConfigPage:
    """List the newest version of each config, in the order of their names."""
    return configs.page(caller.owner, limit, cursor)


@router.get("/configs/{name}", response_model=NamedConfig, responses=NOT_FOUND_PROBLEMS)
async def get(
    name: Annotated[str, Path(description="`name` for the newest version, or `name@version`.")],
    configs: Service,
    caller: Reader,
) -> Response:
    """Return one version of a config."""
    summary, config = await configs.get(caller.owner, name)
    return json_response(_json_beginning(summary), config, "}")


@router.delete("/configs/{name}", status_code=204, responses=NOT_FOUND_PROBLEMS)
def delete(name: str, configs: Service, caller: Writer) -> None:
    """Delete a name with all its versions; jobs keep their configs."""
    configs.delete(caller.owner, name)


def _json_beginning(summary: ConfigSummary) -> str:
    """Return the JSON of a `NamedConfig` up to its config."""
    return summary.model_dump_json().removesuffix("}") + ',"config":'
