import inspect
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from palettery.app.client import AsyncClient, Client
from tests.app.client.conftest import Answer
from tests.app.client.test_connection import FOUND, JOB


def public(kind):
    return {name: each for name, each in vars(kind).items() if not name.startswith("_")}


def test_both_clients_have_the_same_methods():
    waiting, awaited = public(Client), public(AsyncClient)
    assert waiting.keys() - {"run", "start"} == awaited.keys()
    for name, method in awaited.items():
        assert inspect.signature(waiting[name]) == inspect.signature(method)
        assert waiting[name].__doc__ == method.__doc__


def test_every_method_says_what_it_does():
    for method in public(AsyncClient).values():
        assert method.__doc__


def test_no_thread_stays(scripted):
    scripted.answers = [FOUND]
    before = threading.active_count()
    with Client(scripted.url) as client:
        client.job("j")
        assert threading.active_count() > before
    client.close()
    assert threading.active_count() <= before + 1  # the server's, for the connection


def test_python_ends_though_a_client_was_not_closed():
    program = "import sys\nfrom palettery.app.client import Client\n"
    program += "client = Client(sys.argv[1], attempts=1)\nprint(client.ready())"
    words = [sys.executable, "-W", "error", "-c", program, "http://127.0.0.1:1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_one_client_for_many_threads(scripted):
    scripted.answers = [FOUND]
    with Client(scripted.url) as client, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(client.job, "abcdefgh")) == [JOB] * 8
    assert sorted(scripted.request_lines()) == [f"GET /v1/jobs/{name}" for name in "abcdefgh"]


def test_pages_are_fetched_when_they_are_needed(scripted, client):
    item = JOB.model_dump_json().encode()
    first = b'{"items": [' + item + b'], "next_cursor": "c"}'
    scripted.answers = [Answer(body=first), Answer(body=b'{"items": [' + item + b"]}")]
    jobs = client.jobs()
    assert scripted.requests == []
    assert next(jobs) == JOB
    assert len(scripted.requests) == 1
    assert list(jobs) == [JOB]
    assert scripted.request_lines() == ["GET /v1/jobs?limit=100", "GET /v1/jobs?limit=100&cursor=c"]
