"""Every endpoint requires the right scope, and the OpenAPI document lists it."""

from palettery.app.configs import schemas_endpoints as catalog
from palettery.app.dashboard import endpoints as dashboard
from palettery.app.keys.authentication import authenticate
from palettery.app.main import PROTECTED, create_app
from palettery.app.system import health

OPEN = {"/livez", "/readyz", "/metrics", "/v1/presets", "/v1/schemas", "/v1/schemas/{name}"}
PAGE = {"/", "/assets/plotly.min.js", "/{name}.{suffix}"}
"""Files that are no secret; what the page shows, it asks for with the key of who looks at it."""
READING = {"GET", "HEAD"}
SECRET = {"/v1/webhook-secret"}
"""Whoever only reads must not be able to sign."""
CHANGES_NOTHING = {"/v1/configs/validate"}
"""Though it is a POST."""


def guards_of(dependant):
    """Where an endpoint asks for a key, itself or in what it depends on."""
    for each in dependant.dependencies:
        if each.call is authenticate:
            yield each
        yield from guards_of(each)


def scopes_of(route):
    """What an endpoint asks for; None where it asks for no key."""
    scopes = [each.own_oauth_scopes for each in guards_of(route.dependant)]
    assert len(scopes) < 2, route.path
    return scopes[0] if scopes else None


def test_every_endpoint_asks_for_the_scope_of_its_method():
    routes = [
        route
        for router in (*PROTECTED.values(), catalog.router, dashboard.router, health.router)
        for route in router.routes
    ]
    assert len(routes) > 20
    for route in routes:
        (method,) = route.methods
        only_looks = (method in READING or route.path in CHANGES_NOTHING) and (
            route.path not in SECRET
        )
        scope = "read" if only_looks else "write"
        scope = "admin" if route.path.startswith("/v1/keys") else scope
        expected = None if route.path in OPEN | PAGE else [scope]
        assert scopes_of(route) == expected, (route.path, method)


def test_document_tells_of_keys():
    document = create_app(None).openapi()
    (name,) = document["components"]["securitySchemes"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            statuses = {"401", "403"} & operation["responses"].keys()
            if path in OPEN:
                assert not statuses, path
                assert "security" not in operation, path
            else:
                assert statuses == {"401", "403"}, (path, method)
                (scopes,) = [each[name] for each in operation["security"]]
                assert len(scopes) == 1, (path, method)
                assert operation["responses"]["401"]["content"].keys() == {
                    "application/problem+json"
                }


def test_controller_asks_for_no_key():
    paths = create_app(None, "controller").openapi()["paths"].keys()
    assert {"/livez", "/readyz"} <= paths <= OPEN
