"""Removal of what has expired, and of orphans."""

import os
from datetime import UTC, datetime

from palettery.app.uploads.parts import part_path
from tests.app.uploads.conftest import (
    DAY,
    check_only_models_are_left,
    completed,
    run,
)


def aged(world, path, days):
    when = (datetime.now(UTC) - days * DAY).timestamp()
    os.utime(world.store.root / path, (when, when))


def test_expiry_leaves_open_uploads_alone(world, large):
    upload = world.start(m=large)
    run(world.send(upload, large, {1, 2}))
    aged(world, part_path(upload.id, 1), 10)
    world.expiry.run()
    world.expiry.remove_orphans(DAY * 0)
    assert world.left() == {part_path(upload.id, number) for number in (1, 2)}


def test_expiry_removes_expired_uploads_and_models(world, large, small):
    upload = world.start(m=large)
    run(world.send(upload, large, {1, 2}))
    done = world.start(m=small)
    run(world.put(done, 1, small))
    completed(world, done)
    world.now += 2 * DAY
    world.expiry.run()
    check_only_models_are_left(world)
    assert len(world.left()) == 3
    world.now += 30 * DAY
    world.expiry.run()
    assert world.left() == set()
    assert world.models.page("a", 9, None).items == ()


def test_expiry_removes_old_orphans(world):
    paths = [part_path("0" * 36, 1), part_path("no id", 1), "uploads/x", f"models/{'0' * 64}/c"]
    for path in paths:
        world.store.write(path, b"1")
        aged(world, path, 0.9)
    world.expiry.run()
    assert world.left() == set(paths)
    for path in paths:
        aged(world, path, 1.1)
    world.expiry.run()
    assert world.left() == set()
