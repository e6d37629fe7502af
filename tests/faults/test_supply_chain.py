"""What is installed and loaded: nothing that is read is run, weights are safetensors, versions close the known holes."""

from __future__ import annotations

import ast
import re
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from source_tree import OWN, ROOT, calls_of, imports_of, requirements, sources, tree_of, where

from skygen.advisories import ADVISORIES

CALLS_THAT_RUN = {
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "yaml.load",
    "yaml.full_load",
    "yaml.unsafe_load",
    "torch.hub.load",
    "torch.export.load",
    "torch.jit.load",
}
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
LEFT_OUT = {"pycocoevalcap", "bitsandbytes", "c2pa-python", "prodigyopt"}
"""Extras that `make install` leaves out: Java programs of 104 MB, a library for GPUs, signing of 55 MB, an optimizer."""


def test_nothing_runs_code_that_was_read() -> None:
    wrong, files, calls, loads = [], sources(*OWN), 0, 0
    pickled: set[tuple[str, str]] = set()
    read_plainly: set[str] = set()
    for path in files:
        names = imports_of(path) | {ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
        pickled |= {(path.name, name) for name in names if name.split(".")[0].strip("_") in PICKLERS}
        read_plainly |= {path.name for name in names if name.startswith("skygen.data.metas.plain_pickles")}
        for call, name in calls_of(path):
            calls += 1
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name in CALLS_THAT_RUN and not (name == "yaml.load" and "SafeLoader" in ast.unparse(call)):
                wrong.append(f"{where(path, call)}: {name}")
            if name == "torch.load":
                loads += 1
                if keywords.get("weights_only") != "True":
                    wrong.append(f"{where(path, call)}: torch.load without weights_only=True")
            if {"trust_remote_code", "custom_pipeline"} & keywords.keys() or keywords.get("shell") == "True":
                wrong.append(f"{where(path, call)}: {name}({', '.join(map(str, keywords))})")
            if keywords.get("allow_pickle", "False") != "False":
                wrong.append(f"{where(path, call)}: {name}(allow_pickle)")
    assert wrong == []
    assert len(files) > 300
    assert calls > 10_000
    assert loads == 1  # skygen.models.weights, the one reader of published files
    writers = ("fabricate.py", "damaged_world.py")  # of metas as SkyScript has them; no Unpickler in any form
    assert pickled == {(name, word) for name in writers for word in ("pickle", "pickle.dumps")}
    assert read_plainly == {"meta.py"}  # the one reader of pickled metas, by an interpreter that calls nothing


def test_every_array_is_read_without_pickles() -> None:
    """NumPy asks for no pickles by default since 1.16; a file of it is opened here all the same only where that is said."""
    calls = [
        (where(path, call), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords})
        for path in sources(*OWN)
        for call, name in calls_of(path)
        if name in ("np.load", "numpy.load")
    ]
    assert len(calls) >= 1
    assert [place for place, keywords in calls if keywords.get("allow_pickle") == "True"] == []


def test_weights_are_asked_for_as_safetensors() -> None:
    """Left to themselves, diffusers and transformers fall back to pickles."""
    without_weights = re.compile(r"(Processor|Tokenizer|Config|Scheduler)\.from_pretrained$|^kind\.from_pretrained$")
    calls = [
        (where(path, call), name, {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords})
        for path in sources(*OWN)
        for call, name in calls_of(path)
        if name.endswith(".from_pretrained")
    ]
    loaders = [(place, keywords) for place, name, keywords in calls if not without_weights.search(name)]
    assert len(loaders) >= 15
    assert [place for place, keywords in loaders if keywords.get("use_safetensors") != "True"] == []
    others = [place for place, name, _ in calls if name == "kind.from_pretrained"]
    assert [place.partition(":")[0] for place in others] == ["skygen/models/captioners/prompted.py"]  # a processor by its class


def test_programs_forbid_the_hub_to_send_code() -> None:
    """`diffusers` runs a `pipeline.py` of a model's folder unless it is told not to; every program begins with that."""
    text = (ROOT / "skygen" / "runs.py").read_text(encoding="utf-8")
    assert 'os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")' in text


def test_what_is_installed_is_new_enough() -> None:
    """The floors close known holes; an old environment must not pass unseen."""
    checked = 0
    installed = {canonicalize_name(distribution.name) for distribution in metadata.distributions()}
    for requirement in (requirement for texts in requirements().values() for requirement in texts):
        if requirement.name in LEFT_OUT and requirement.name not in installed:
            continue
        if requirement.name != "skygen":
            version = metadata.version(requirement.name)
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but {version} is installed"
            checked += 1
    assert checked > 22


def test_nothing_installed_or_pinned_has_a_known_hole_that_can_be_reached() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    found, checked = [], 0
    for advisory in (each for each in ADVISORIES if not each.meanwhile):
        for version in filter(None, (pinned.get(advisory.package), installed_version(advisory.package))):
            checked += 1
            if advisory.holds_for(version):
                found.append(f"{advisory.package} {version}: {advisory.reference}")
    assert found == []
    assert checked > 15


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def test_what_is_declared_leaves_out_every_version_with_a_known_hole() -> None:
    """Whoever installs skygen without the constraints gets none of them either."""
    declared = {canonicalize_name(each.name): each for texts in requirements().values() for each in texts}
    compared = [each for each in ADVISORIES if each.package in declared and not each.meanwhile]
    assert len(compared) >= 8
    assert {each.package for each in compared} >= {"torch", "diffusers", "transformers", "gradio", "pillow", "jinja2"}
    for advisory in compared:
        (bound,) = SpecifierSet(advisory.affected)
        assert bound.operator == "<"
        assert not allows_below(declared[advisory.package], bound.version), (advisory, declared[advisory.package])


def allows_below(requirement: Requirement, fixed: str) -> bool:
    """Tell whether a requirement takes a version before the one that closes a hole."""
    floors = [each.version for each in requirement.specifier if each.operator == ">="]
    return not any(SpecifierSet(f">={fixed}").contains(floor) for floor in floors)


def test_an_advisory_names_its_source_and_says_what_is_at_stake() -> None:
    assert len(ADVISORIES) >= 10
    for each in ADVISORIES:
        assert re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[a-z0-9]{4}){3}", each.reference), each
        assert each.package == canonicalize_name(each.package)
        assert len(each.danger) > 10


def test_constraints_pin_each_requirement_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 80
    assert [line for line in lines if "/" in line or "@" in line or line.count("==") != 1] == []
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    wanted = [requirement for texts in requirements().values() for requirement in texts if requirement.name != "skygen"]
    for requirement in wanted:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
