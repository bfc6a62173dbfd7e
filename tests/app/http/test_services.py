"""Every service that an endpoint depends on exists, and has the class of its parameter."""

import inspect
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from fastapi import Request

from palettery.app.configs import schemas_endpoints
from palettery.app.http.services import ServiceLookup, find_service, lifespan_state
from palettery.app.main import PROTECTED
from palettery.app.roles.api import ServiceState
from palettery.app.system import api_reference, health

ROUTERS = (*PROTECTED.values(), schemas_endpoints.router, api_reference.router, health.router)


def functions(dependant):
    yield dependant.call
    for each in dependant.dependencies:
        yield from functions(each)


def services_of(function):
    """(Class of a parameter, class that is looked up for it) of a function's services."""
    if isinstance(function, ServiceLookup) or not inspect.isroutine(function):
        return
    for hint in get_type_hints(function, include_extras=True).values():
        if get_origin(hint) is Annotated:
            kind, *rest = get_args(hint)
            for each in rest:
                lookup = getattr(each, "dependency", None)
                if isinstance(lookup, ServiceLookup):
                    yield kind, lookup.kind


@pytest.mark.parametrize("route", [route for router in ROUTERS for route in router.routes])
def test_services_of_endpoints_are_declared(route):
    for function in functions(route.dependant) if hasattr(route, "dependant") else ():
        for kind, looked_up in services_of(function):
            assert kind is looked_up, (route.path, function)
            assert kind in get_type_hints(ServiceState).values(), (route.path, kind)


def test_no_two_services_have_the_same_class():
    kinds = list(get_type_hints(ServiceState).values())
    assert len(kinds) == len(set(kinds))


def test_services_are_found_by_their_class():
    class Services:
        number: int
        name: str

    services = Services()
    services.number, services.name = 7, "seven"
    request = Request({"type": "http", "state": lifespan_state(services)})
    assert (find_service(request, int), find_service(request, str)) == (7, "seven")
