"""Model files put together piece by piece, so that they can lie; shared by tests of readers."""

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict

import torch


def safetensors_bytes(header, data=b""):
    """A file with this header, a dict or raw text, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(begin=0, end=8, dtype="F32", shape=(2,)):
    """How a header describes a tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def zipped(members=(("m/a", b"one"), ("m/b", b"three")), **how):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive, warnings.catch_warnings(action="ignore"):
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sparse(path, sizes):
    """A zip whose members hold zeros that take no space on disk; zip64 past 4 GiB."""
    directory, long = [], 0xFFFFFFFF
    with path.open("wb") as file:
        for number, size in enumerate(sizes):
            name, at = f"m/data/{number}".encode(), file.tell()
            local = (20, 0, 0, 0, 0, 0, long, long, len(name), 20)
            file.write(struct.pack("<4s5H3I2H", b"PK\3\4", *local) + name)
            file.write(struct.pack("<2H2Q", 1, 16, size, size))
            file.seek(size, 1)
            fields = (45, 45, 0, 0, 0, 0, 0, long, long, len(name), 28, 0, 0, 0, 0, long)
            entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + name
            directory.append(entry + struct.pack("<2H3Q", 1, 24, size, size, at))
        start, listed, count = file.tell(), b"".join(directory), len(directory)
        numbers = (44, 45, 45, 0, 0, count, count, len(listed), start)
        file.write(listed + struct.pack("<4sQ2H2I4Q", b"PK\6\6", *numbers))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, start + len(listed), 1))
        short = 0xFFFF
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, short, short, long, long, 0))


def saved(thing, **how):
    buffer = io.BytesIO()
    torch.save(thing, buffer, **how)
    return buffer.getvalue()


class Call:
    """Pickles as a call of a name, whatever it is called with."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return tuple(thing[1:]) if isinstance(thing, list) and thing[:1] == ["bytes"] else None


def lying(*tensors, members=(("data/0", bytes(24)), ("byteorder", b"little"))):
    """An archive whose pickle says this of its tensors: (numel, offset, shape, strides)."""
    state = OrderedDict()
    for number, (numel, *where) in enumerate(tensors):
        data = ["bytes", "storage", torch.FloatStorage, "0", "cpu", numel]
        state[f"w{number}"] = Call(torch._utils._rebuild_tensor_v2, data, *where, False, {})
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(state)
    return archived(("data.pkl", buffer.getvalue()), *members)


def archived(*members, **how):
    return zipped([(f"m/{name}", content) for name, content in members], **how)


def export(model, *inputs, **options):
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(model, inputs, **options), buffer)
    return buffer.getvalue()


def changed(sound, member, change):
    """The archive with one JSON member changed in place."""
    document = json.loads(sound[member])
    change(document)
    return {**sound, member: json.dumps(document).encode()}


def weight(name, **fields):
    """A change of what the weights config says of one weight."""

    def change(config):
        meta = {key: value for key, value in fields.items() if key in config["config"][name]}
        config["config"][name].update(meta)
        rest = {key: value for key, value in fields.items() if key not in meta}
        if rest:
            config["config"][name]["tensor_meta"].update(rest)

    return change


def ints(*numbers):
    return [{"as_int": number} for number in numbers]


def constant(path_name, *, use_pickle):
    document = {"path_name": path_name, "is_param": False, "use_pickle": use_pickle}
    return lambda config: config["config"].update(c={**document, "tensor_meta": None})
