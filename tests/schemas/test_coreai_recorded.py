"""Documents and dumps of coreai-opt 0.2 and 0.3, recorded by tests/record_coreai_opt.py."""

import json
from pathlib import Path

import pytest

from palettery.schemas.config import KMeansPalettizerConfig
from tests.config_documents import meaning

RECORDED = {
    version: json.loads((Path(__file__).parent / f"coreai_opt_{version}.0.json").read_text())
    for version in ("0.2", "0.3")
}
CASES = [(version, case) for version, cases in RECORDED.items() for case in cases]


def switched_off(data):
    """A dump in which what is off says so in one way; 0.2 writes `{}` for a null spec dict."""
    if not isinstance(data, dict):
        return data
    states = {"op_state_spec": {"*": None}} if "op_state_spec" in data else {}
    off = {name: value for name, value in states.items() if data[name] in (None, {})}
    return {key: switched_off(value) for key, value in (data | off).items()}


def canonical(config):
    """The meaning of a config, with a rule in place of null for what is off."""
    off, config = {"op_state_spec": None}, config.model_copy(deep=True)
    config.global_config = config.global_config or off
    for name in ("module_type_configs", "module_name_configs"):
        setattr(config, name, without_null(getattr(config, name), off))
    named = [*config.module_type_configs.values(), *config.module_name_configs.values()]
    for module in (config.global_config, *named):
        for name in ("op_type_config", "op_name_config"):
            setattr(module, name, without_null(getattr(module, name), off))
    return switched_off(meaning(config.to_dict()))


def without_null(rules, off):
    return {key: off if rule is None else rule for key, rule in rules.items()}


def assert_within(ours, theirs, place=""):
    """Check that a document has no key that a dump of the same version lacks."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() <= theirs.keys(), place
        for key, value in ours.items():
            assert_within(value, theirs[key], f"{place}/{key}")


@pytest.mark.parametrize(("version", "case"), CASES)
def test_documents_and_dumps_of_older_versions_mean_here_what_they_mean_there(version, case):
    config = KMeansPalettizerConfig.from_dict(case["document"])
    dumped = KMeansPalettizerConfig.from_dict(case["dump"])
    assert canonical(config) == canonical(dumped)
    written = config.to_dict(version)
    assert_within(written, case["dump"])
    assert KMeansPalettizerConfig.from_dict(written) == config
