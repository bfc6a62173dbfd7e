"""HEAD is GET without its body, which is not even made."""

import asyncio

from palettery.app.http.head_requests import HeadAsGet


def answered(method, app, *headers):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request"}

    scope = {"type": "http", "method": method, "headers": [*headers]}
    asyncio.run(HeadAsGet(app)(scope, receive, send))
    return scope, sent


def test_head_of_a_get_and_no_body():
    made = []

    async def app(scope, _receive, send):
        made.append(scope["method"])
        made.append(scope["headers"])
        scope["route"] = "route"
        await send({"type": "http.response.start", "status": 200})
        made.append("body")
        await send({"type": "http.response.body", "body": b"x"})

    ranged = [(b"range", b"bytes=0-"), (b"if-range", b"x"), (b"accept", b"*/*")]
    scope, sent = answered("HEAD", app, *ranged)
    assert sent == [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}]
    assert made == ["GET", [(b"accept", b"*/*")]], "the endpoint ends once its head is sent"
    assert (scope["method"], scope["route"]) == ("HEAD", "route")


def test_other_methods_pass():
    async def app(scope, _receive, send):
        await send({"type": scope["method"]})

    assert answered("POST", app)[1] == [{"type": "POST"}]
