"""Cost of hostile files and floods of requests for a server and its other users.

Run as `python -m benchmarks.abuse [--only WORD ...]`. Needs Linux and 8 GB of memory. Each attack
runs in ten threads, as several owners; meanwhile another owner plans a small model repeatedly.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import save

from benchmarks import hostile_files
from benchmarks.serving import Service, embedded, pss_bytes

THREADS, HOSTILE_OWNERS = 10, 3
ATTACK_S, RECOVERY_S = 45.0, 60.0
IDLE_S = 8.0
"""Time without requests before the memory of a server is measured."""
SAMPLE_EVERY_S = 0.1
ADMIN_KEY = "abuse-" * 8
PEAK_GOAL_MB, GROWTH_GOAL_MB, PLAN_GOAL_S = 600, 100, 2.0
SESSIONS, SESSION_FILES = 300, 1_000
FORM = {"preset": "w4"}
JSON = {"Content-Type": "application/json"}

Attack = Callable[[httpx.Client], None]
"""One round of an attack, with a client of the attacker."""


def _plans(file: str, content: bytes) -> Attack:
    return lambda http: _post(http, "/v1/plans", files={"model": (file, content)}, data=FORM)


def _abandoned_plans(file: str, content: bytes) -> Attack:
    def attack(http: httpx.Client) -> None:
        with suppress(httpx.TimeoutException):
            http.post("/v1/plans", files={"model": (file, content)}, data=FORM, timeout=1.0)

    return attack


def _configs(method: str, path: str) -> Attack:
    """Send a config of empty rules, all of whose fields are defaults."""
    text = json.dumps({"module_name_configs": {f"{number:x}": {} for number in range(20_000)}})

    def attack(http: httpx.Client) -> None:
        with http.stream(method, path, content=text, headers=JSON) as response:
            for _ in response.iter_raw():
                pass
        if method == "PUT":
            http.get(path)

    return attack


def _many_uploads(http: httpx.Client) -> None:
    """Open uploads with the most files allowed, and list them in the longest pages allowed."""
    for session in range(SESSIONS // THREADS):
        files = [
            {"name": f"{n}-{'x' * 240}", "size_bytes": 1, "sha256": _digest(session, n)}
            for n in range(SESSION_FILES)
        ]
        http.post("/v1/uploads", json={"files": files})
    for _ in range(10):
        http.get("/v1/uploads?limit=1000")


def _digest(*parts: int) -> str:
    return hashlib.sha256(f"{threading.get_ident()} {parts}".encode()).hexdigest()


def _invalid_uploads(http: httpx.Client) -> None:
    body = json.dumps({"files": [1] * 600_000}).encode()
    _post(http, "/v1/uploads", content=body, headers=JSON)


def _post(http: httpx.Client, path: str, **body: object) -> None:
    with http.stream("POST", path, **body) as response:  # type: ignore[arg-type]
        for _ in response.iter_raw():
            pass


ATTACKS: dict[str, Callable[[], Attack]] = {
    "a 2.1 MB pickle with one list under very many keys": lambda: _plans(
        "m.pt", hostile_files.shared_list()
    ),
    "a 58 KB pickle that makes the same dict again and again": lambda: _plans(
        "m.pt", hostile_files.repeated_call()
    ),
    "a .pt2 with 40,000 keys in its JSON": lambda: _plans("m.pt2", hostile_files.repeated_keys()),
    "300 uploads of 1,000 files each, listed": lambda: _many_uploads,
    "upload requests of 2 MB with an error in every file": lambda: _invalid_uploads,
    "a header of 60 MB": lambda: _plans("m.safetensors", hostile_files.wide_header()),
    "configs of 200 KB that become 12 MB, validated": lambda: _configs(
        "POST", "/v1/configs/validate"
    ),
    "the same, stored and fetched": lambda: _configs("PUT", "/v1/configs/large"),
    "a 2.1 MB pickle whose clients leave": lambda: _abandoned_plans(
        "m.pt", hostile_files.shared_list()
    ),
}


def main() -> None:
    """Run each attack against a new server, and print a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="words in the names of attacks")
    words = parser.parse_args().only
    print(
        "| attack, ten at once | server: before, peak, 60 s after | peak with its readers | small "
        "plans of others: median, worst | goals |\n| --- | --- | --- | --- | --- |"
    )
    for name in ATTACKS:
        if not words or any(word in name for word in words):
            with tempfile.TemporaryDirectory(prefix="palettery-bench-") as folder:
                _measure(Path(folder), name)


def _measure(folder: Path, name: str) -> None:
    small = save({"w": np.ones((8, 8), np.float32)})
    with embedded(folder, 1, PALETTERY_ADMIN_KEY=ADMIN_KEY) as service:
        keys = [_key(service, f"hostile{number}") for number in range(HOSTILE_OWNERS)]
        with httpx.Client(
            base_url=service.url, headers=_key(service, "other"), timeout=120
        ) as http:
            for _ in range(20):  # fill caches first
                _plan_s(http, small)
            time.sleep(IDLE_S)
            before = _server_bytes(service)
            with _peak(service) as peak, _under_attack(name, service.url, keys) as goes_on:
                times = []
                while goes_on():
                    times.append(_plan_s(http, small))
                    time.sleep(SAMPLE_EVERY_S)
            time.sleep(RECOVERY_S)
            after = _server_bytes(service)
    goals = {
        "peak": peak.server < PEAK_GOAL_MB << 20,
        "memory back": after - before < GROWTH_GOAL_MB << 20,
        "others": max(times) < PLAN_GOAL_S,
    }
    missed = ", ".join(goal for goal, is_met in goals.items() if not is_met)
    print(
        f"| {name} | {before >> 20}, {peak.server >> 20}, {after >> 20} MB | {peak.all >> 20} MB | "
        f"{statistics.median(times):.2f} s, {max(times):.2f} s of {len(times)} | "
        f"{f'missed: {missed}' if missed else 'met'} |",
        flush=True,
    )


def _key(service: Service, owner: str) -> dict[str, str]:
    """Return request headers with a new key of an owner."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    response = service.http.post("/v1/keys", json={"owner": owner, "name": "a"}, headers=headers)
    return {"Authorization": f"Bearer {response.raise_for_status().json()['secret']}"}


def _plan_s(http: httpx.Client, model: bytes) -> float:
    started = time.perf_counter()
    http.post("/v1/plans", files={"model": ("m", model)}, data=FORM).raise_for_status()
    return time.perf_counter() - started


@contextmanager
def _under_attack(
    name: str, url: str, keys: Sequence[dict[str, str]]
) -> Iterator[Callable[[], bool]]:
    """Run attackers in another process; yields a function that tells whether time is left."""
    attacking = multiprocessing.get_context("spawn").Process(
        target=_attack, args=(name, url, keys), daemon=True
    )
    attacking.start()
    until = time.monotonic() + ATTACK_S
    try:
        yield lambda: time.monotonic() < until
    finally:
        attacking.kill()  # closes every connection
        attacking.join()


def _attack(name: str, url: str, keys: Sequence[dict[str, str]]) -> None:
    os.nice(10)  # attackers would run on other machines
    attack = ATTACKS[name]()

    def repeat(number: int) -> None:
        with httpx.Client(base_url=url, headers=keys[number % len(keys)], timeout=600) as http:
            while True:
                attack(http)

    with ThreadPoolExecutor(THREADS) as attackers:
        list(attackers.map(repeat, range(THREADS)))


@dataclass
class Peak:
    """Highest memory use in bytes."""

    server: int = 0
    """Of the server's process."""
    all: int = 0
    """Including the processes that read documents; shared memory counts once."""


@contextmanager
def _peak(service: Service) -> Iterator[Peak]:
    peak, stop = Peak(), threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_EVERY_S):
            workers = set(service.workers())
            ours = [pid for pid in service.processes() if pid not in workers]
            peak.server = max(peak.server, _server_bytes(service))
            peak.all = max(peak.all, sum(map(pss_bytes, ours)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        stop.set()
        sampler.join()


def _server_bytes(service: Service) -> int:
    pages = Path(f"/proc/{service.leaders[0]}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    main()
