"""What a denoiser is told of how an image was taken, and what it makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.diffusions.small_pipelines import KINDS
from torch import Tensor

from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.data.pair import Pair
from skygen.data.skyscript import SOURCES
from skygen.errors import ConfigError, StorageError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.metadata import MetadataConditioner, load_conditioner
from skygen.models.diffusions.metadata_fields import (
    FIELDS,
    MetadataSettings,
    MetadataStatistics,
    MetadataWish,
    count_known,
    encode_field,
    field_size,
    withhold_with_captions,
)
from skygen.models.diffusions.metadata_record import RECORD_FILE, WEIGHTS_FILE, require_untold
from skygen.seeding import Seeds

ALL = MetadataSettings(FIELDS)
ALIASES = tuple(SOURCES)
SWISS = ImageMetadata(0.1, "CH", 6, 47.0, 8.0)
LANDSAT = ImageMetadata(30.0, "L8", 1, -3.0, -60.0)
PARTLY = ImageMetadata(gsd=0.6, month=12)
DESCRIBED = [SWISS, LANDSAT, PARTLY]
PROMPTS = ["two storage tanks", "a dam in a forest", ""]


@pytest.fixture
def load(pipeline_folders: dict[str, Path]) -> Callable[[str], Diffusion]:
    return lambda kind: Diffusion.load(str(pipeline_folders[kind]))


@pytest.fixture(params=KINDS)
def diffusion(request: pytest.FixtureRequest, load: Callable[[str], Diffusion]) -> Diffusion:
    return load(request.param)


def draw_weights(conditioner: MetadataConditioner) -> MetadataConditioner:
    """Give it an effect: its projections begin at zero."""
    for name, parameter in conditioner.trained_parameters.items():
        if "projections" in name:
            with torch.no_grad():
                parameter.normal_(0, 0.3, generator=Seeds(2).generator(name))
    return conditioner


def denoise(diffusion: Diffusion, rows: int = 3) -> Tensor:
    config, generator = diffusion.network.config, Seeds(3).generator("noisy")
    noisy = torch.randn((3, config.in_channels, 8, 8), generator=generator).repeat((rows // 3, 1, 1, 1))
    said = diffusion.encode_prompts(PROMPTS * (rows // 3))
    return diffusion.family.denoise(noisy, torch.full((rows,), 500.0 if "3" in diffusion.family.pipeline_class else 500), said)


def test_before_training_nothing_changes_bit_for_bit(diffusion: Diffusion) -> None:
    names = set(diffusion.network.state_dict())
    with torch.no_grad():
        base = denoise(diffusion)
        picture = np.asarray(diffusion.sample(["a harbor"], [3], num_inference_steps=2)[0])
        conditioner = MetadataConditioner(ALL, diffusion.network, Seeds(0))
        untold = denoise(diffusion)
        with conditioner.told(DESCRIBED, Seeds(1).generator("dropout")):
            told = denoise(diffusion)
        with conditioner.told([SWISS]):
            drawn = np.asarray(diffusion.sample(["a harbor"], [3], num_inference_steps=2)[0])
    assert torch.equal(untold, base)
    assert torch.equal(told, base)
    assert np.array_equal(drawn, picture)
    assert set(diffusion.network.state_dict()) == names, "the conditioner is no part of the network that is saved"


def test_each_image_is_told_its_own(diffusion: Diffusion) -> None:
    base = denoise(diffusion)
    conditioner = draw_weights(MetadataConditioner(ALL, diffusion.network, Seeds(0)))
    untold = denoise(diffusion)
    with conditioner.told([SWISS, LANDSAT, UNKNOWN]):
        told = denoise(diffusion)
    with conditioner.told([SWISS, SWISS, SWISS]):
        same = denoise(diffusion)
    assert torch.allclose(told[0], same[0], atol=1e-5)
    assert torch.allclose(told[2], untold[2], atol=1e-5), "told that nothing is known is the same as told nothing"
    assert all(bool((told[row] - untold[row]).abs().max() > 1e-3) for row in (0, 1))
    assert bool((told[1] - same[1]).abs().max() > 1e-3)
    conditioner.detach()
    assert torch.equal(denoise(diffusion), base)


def test_the_first_half_under_guidance_is_told_nothing(diffusion: Diffusion) -> None:
    conditioner = draw_weights(MetadataConditioner(ALL, diffusion.network, Seeds(0)))
    with torch.no_grad():
        untold = denoise(diffusion)
        with conditioner.told(DESCRIBED):
            told, guided = denoise(diffusion), denoise(diffusion, 6)
            with conditioner.told([UNKNOWN] * 3):
                assert torch.allclose(denoise(diffusion), untold, atol=1e-5)
            assert torch.equal(denoise(diffusion), told), "the outer telling holds again"
    assert torch.allclose(guided, torch.cat([untold, told]), atol=1e-5)
    assert float((told - untold).abs().max()) > 1e-3
    with (
        pytest.raises(ValueError, match=r"^the network is called with 3 images, and was told of 2$"),
        conditioner.told(DESCRIBED[:2]),
    ):
        denoise(diffusion)
    assert torch.allclose(denoise(diffusion), untold, atol=1e-5), "and after a failure nothing is left over"


def test_pictures_follow_what_is_told(diffusion: Diffusion) -> None:
    conditioner = draw_weights(MetadataConditioner(ALL, diffusion.network, Seeds(0)))

    def pictures(*described: ImageMetadata) -> list[Any]:
        diffusion.metadata = conditioner
        prompts, seeds = ["a harbor"] * len(described), [3] * len(described)
        drawn = diffusion.sample(prompts, seeds, num_inference_steps=2, metadata=described)
        return [np.asarray(image, np.int16) for image in drawn]

    swiss, landsat, again = pictures(SWISS, LANDSAT, SWISS)
    assert np.abs(swiss - again).max() <= 1
    assert np.abs(swiss - landsat).max() > 3
    assert np.abs(pictures(SWISS)[0] - swiss).max() <= 1, "whatever else is in the batch"
    untold = np.asarray(diffusion.sample(["a harbor"], [3], num_inference_steps=2)[0], np.int16)
    assert np.abs(untold - swiss).max() > 3


def backward(diffusion: Diffusion, conditioner: MetadataConditioner) -> None:
    with conditioner.told(DESCRIBED):
        denoise(diffusion).square().sum().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it


def norms(conditioner: MetadataConditioner) -> dict[str, float]:
    return {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in conditioner.trained_parameters.items()}


def test_the_gradient_reaches_the_projections_first_and_then_everything(diffusion: Diffusion) -> None:
    diffusion.attach(LoraSettings(rank=2), Seeds(1))
    conditioner = MetadataConditioner(ALL, diffusion.network, Seeds(0))
    parameters = conditioner.trained_parameters
    assert len(parameters) == 4 * (4 + 1 + 1)
    assert all(name.startswith("metadata.") and p.dtype == torch.float32 for name, p in parameters.items())
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)
    backward(diffusion, conditioner)
    first = norms(conditioner)
    assert all((norm > 0) == ("projections" in name) for name, norm in first.items())
    optimizer.step()
    optimizer.zero_grad()
    backward(diffusion, conditioner)
    second = norms(conditioner)
    nulls = {name for name in second if "nulls" in name}
    assert len(nulls) == 4
    unmoved = {name for name, norm in second.items() if norm == 0}
    assert unmoved == {"metadata.nulls.gsd", "metadata.nulls.month"}, "these were known of every image"
    optimizer.step()
    optimizer.zero_grad()
    denoise(diffusion).square().sum().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    assert all(norms(conditioner)[name] > 0 for name in nulls), "and a call that tells nothing trains the null vectors"


@pytest.mark.parametrize("half", ["autocast", "network"])
def test_half_precision_takes_a_float32_vector(diffusion: Diffusion, half: str) -> None:
    conditioner = draw_weights(MetadataConditioner(ALL, diffusion.network, Seeds(0)))
    expected = conditioner(DESCRIBED)
    if half == "network":
        diffusion.network.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half == "autocast"):
        assert torch.equal(conditioner(DESCRIBED), expected)
        backward(diffusion, conditioner)
    assert expected.dtype == torch.float32
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in conditioner.trained_parameters.values())
    assert sum(norm > 0 for norm in norms(conditioner).values()) >= 20


def test_checkpointing_gives_the_same_gradient(diffusion: Diffusion) -> None:
    conditioner = draw_weights(MetadataConditioner(ALL, diffusion.network, Seeds(0)))
    diffusion.network.train()
    backward(diffusion, conditioner)
    plain = {name: p.grad.clone() for name, p in conditioner.trained_parameters.items() if p.grad is not None}
    conditioner.zero_grad()
    diffusion.network.enable_gradient_checkpointing()
    backward(diffusion, conditioner)
    assert len(plain) == 24
    for name, gradient in plain.items():
        again = conditioner.trained_parameters[name].grad
        assert again is not None
        assert torch.equal(again, gradient), name


@pytest.mark.slow
def test_a_compiled_network_is_told_anew_without_being_compiled_anew(load: Callable[[str], Diffusion]) -> None:
    diffusion = load("stable_diffusion")
    conditioner = draw_weights(MetadataConditioner(ALL, diffusion.network, Seeds(0)))
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    def prediction(described: list[ImageMetadata]) -> Tensor:
        with torch.no_grad(), conditioner.told(described):
            return denoise(diffusion)

    expected = [prediction(DESCRIBED), prediction(DESCRIBED[::-1])]
    diffusion.network.compile(backend=count)
    first, needed = prediction(DESCRIBED), len(graphs)
    second = prediction(DESCRIBED[::-1])
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])
    assert not torch.equal(first, second)
    assert len(graphs) == needed > 0


@pytest.fixture
def conditioner(load: Callable[[str], Diffusion]) -> MetadataConditioner:
    return draw_weights(MetadataConditioner(ALL, load("stable_diffusion").network, Seeds(0)))


def test_what_is_withheld_follows_from_the_generator_at_the_rates_set(conditioner: MetadataConditioner) -> None:
    def kept(seed: int) -> Tensor:
        return conditioner._encode([SWISS] * 4000, Seeds(seed).generator("noise"))[1]

    known = kept(1)
    assert torch.equal(known, kept(1))
    assert not torch.equal(known, kept(2))
    assert known.float().mean(dim=0).tolist() == pytest.approx([0.81] * 4, abs=0.02)  # 0.9 apart times 0.9 together
    assert float((~known).all(dim=1).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float((known[:, 0] != known[:, 1]).float().mean()) == pytest.approx(0.9 * 2 * 0.1 * 0.9, abs=0.02)
    assert bool(conditioner._encode([SWISS] * 100, None)[1].all())
    assert conditioner._encode([PARTLY, UNKNOWN], None)[1].tolist() == [[True, False, True, False], [False] * 4]


def test_initial_values_follow_from_the_seed_and_leave_the_global_generator(load: Callable[[str], Diffusion]) -> None:
    network, state = load("stable_diffusion").network, torch.get_rng_state()
    first, again, other = (MetadataConditioner(ALL, network, Seeds(seed)).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["nulls.gsd"], other["nulls.gsd"])


def distance(one: ImageMetadata, other: ImageMetadata, field: str) -> float:
    pair = [encode_field(field, metadata, ALIASES) for metadata in (one, other)]
    assert all(
        values is not None and len(values) == field_size(field, ALIASES) and max(map(abs, values)) <= 1 for values in pair
    )
    return math.dist(*pair)  # type: ignore[arg-type]  # neither is None


def test_features_are_as_far_apart_as_what_they_say() -> None:
    months = [ImageMetadata(month=month) for month in range(1, 13)]
    steps = [distance(months[index - 1], months[index], "month") for index in range(12)]
    assert steps == pytest.approx([steps[0]] * 12), "December is as near to January as any month to the next"
    assert all(distance(months[0], month, "month") > 0.9 * steps[0] for month in months[1:])
    east, west = (ImageMetadata(latitude=10.0, longitude=side * 179.99) for side in (1, -1))
    assert distance(east, west, "place") < 0.05
    poles = [ImageMetadata(latitude=90.0, longitude=degrees) for degrees in (0.0, 135.0)]
    assert distance(poles[0], poles[1], "place") < 1e-6
    assert distance(SWISS, LANDSAT, "place") > 1
    finer, coarser = (
        distance(ImageMetadata(0.5), ImageMetadata(0.6), "gsd"),
        distance(ImageMetadata(10), ImageMetadata(12), "gsd"),
    )
    assert finer == pytest.approx(coarser, rel=0.01), "by ratio"
    assert finer > 0.3
    assert distance(ImageMetadata(200.0), ImageMetadata(100.0), "gsd") == 0
    assert distance(SWISS, LANDSAT, "source") == pytest.approx(math.sqrt(2))


def test_values_that_cannot_be_are_not_known() -> None:
    impossible = [
        ("gsd", ImageMetadata(gsd=0.0)),
        ("gsd", ImageMetadata(gsd=math.nan)),
        ("gsd", ImageMetadata(gsd=math.inf)),
        ("source", ImageMetadata(source="XX")),
        ("month", ImageMetadata(month=13)),
        ("place", ImageMetadata(latitude=47.0)),
        ("place", ImageMetadata(latitude=91.0, longitude=0.0)),
        ("place", ImageMetadata(latitude=math.nan, longitude=0.0)),
        *((field, UNKNOWN) for field in FIELDS),
    ]
    assert [encode_field(field, metadata, ALIASES) for field, metadata in impossible] == [None] * 12


def test_an_empty_caption_withholds_the_metadata() -> None:
    assert withhold_with_captions(DESCRIBED, PROMPTS) == (SWISS, LANDSAT, UNKNOWN)


def test_a_saved_conditioner_comes_back(diffusion: Diffusion, tmp_path: Path) -> None:
    settings = MetadataSettings(("month", "gsd"), dropout=0.2)
    conditioner = draw_weights(MetadataConditioner(settings, diffusion.network, Seeds(0)))
    conditioner.statistics = MetadataStatistics(10, {"gsd": 10, "month": 4})
    conditioner.save(tmp_path)
    with torch.no_grad(), conditioner.told(DESCRIBED):
        expected = denoise(diffusion)
    content = [(tmp_path / name).read_bytes() for name in (WEIGHTS_FILE, RECORD_FILE)]
    conditioner.detach()
    loaded = load_conditioner(tmp_path, diffusion.network)
    assert loaded is not None
    with torch.no_grad(), loaded.told(DESCRIBED):
        assert torch.equal(denoise(diffusion), expected)
    assert (loaded.fields, loaded.settings.dropout, loaded.statistics) == (("gsd", "month"), 0.2, conditioner.statistics)
    loaded.save(tmp_path)
    again = [(tmp_path / name).read_bytes() for name in (WEIGHTS_FILE, RECORD_FILE)]
    assert again[0] == content[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD_FILE, WEIGHTS_FILE]
    begun = MetadataConditioner(settings, diffusion.network, Seeds(5))
    begun.start_from(tmp_path)
    assert all(torch.equal(value, conditioner.state_dict()[name]) for name, value in begun.state_dict().items())


def test_the_adapter_beside_it_is_loaded_as_ever(
    load: Callable[[str], Diffusion], pipeline_folders: dict[str, Path], tmp_path: Path
) -> None:
    diffusion = load("stable_diffusion")
    adapter = diffusion.attach(LoraSettings(rank=2), Seeds(1), base="the/base")
    draw_weights(MetadataConditioner(ALL, diffusion.network, Seeds(0))).save(tmp_path)
    adapter.save(tmp_path)
    assert not [name for name in adapter.parameters if "metadata" in name]
    pipeline = load("stable_diffusion").pipeline
    pipeline.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    pipeline = load("stable_diffusion").pipeline
    pipeline.load_lora_weights(str(tmp_path))
    assert pipeline.get_active_adapters() == ["default_0"]
    assert load_conditioner(pipeline_folders["stable_diffusion"], pipeline.unet) is None


def test_what_does_not_fit_is_refused(
    conditioner: MetadataConditioner, load: Callable[[str], Diffusion], tmp_path: Path
) -> None:
    conditioner.save(tmp_path)
    network, other = load("stable_diffusion").network, load("stable_diffusion_3").network
    prefix = rf"^--model\.adapter {tmp_path}: "
    for foreign in (load("stable_diffusion_xl").network, other):
        with pytest.raises(
            ConfigError,
            match=prefix + r"its metadata conditioning was trained on a UNet2DConditionModel of widths 256 and 128, and "
            r"--model\.name is a \w+ of widths \d+ and \d+; give the base that it was trained on\.$",
        ):
            load_conditioner(tmp_path, foreign)
    fewer = MetadataConditioner(MetadataSettings(("gsd",)), network, Seeds(0))
    with pytest.raises(
        ConfigError, match=prefix + r"was trained on the metadata gsd, source, month, place of the sources CH, "
    ):
        fewer.start_from(tmp_path)
    with pytest.raises(ConfigError, match=prefix + r"was trained with metadata, and would go on without; set [^\n]*\.$"):
        require_untold(tmp_path)
    with pytest.raises(ConfigError, match=r"^metadata\.fields: a Linear has no place for metadata that skygen knows; leave"):
        MetadataConditioner(ALL, torch.nn.Linear(1, 1), Seeds(0))
    with pytest.raises(ConfigError, match=r"^metadata\.fields: no field is named; "):
        MetadataConditioner(MetadataSettings(), network, Seeds(0))


def test_damage_is_explained(conditioner: MetadataConditioner, load: Callable[[str], Diffusion], tmp_path: Path) -> None:
    network = load("stable_diffusion").network
    conditioner.save(tmp_path)
    weights, record = (tmp_path / WEIGHTS_FILE).read_bytes(), json.loads((tmp_path / RECORD_FILE).read_text())
    changed = weights[:-4] + bytes(4 - len(weights) % 2)
    versions = {"schema": 2, "encoding": {}}
    broken: list[tuple[bytes | None, Any, type[Exception], str]] = [
        (weights, None, UnavailableError, rf"{WEIGHTS_FILE} is there without {RECORD_FILE}; copy all of the adapter\.$"),
        (None, record, UnavailableError, r"its files are not all here \([^\n]*\); copy or download all of it again\.$"),
        (
            weights[:100],
            record,
            UnavailableError,
            r"its files are not all here \([^\n]*\); copy or download all of it again\.$",
        ),
        (changed, record, UnavailableError, rf"{WEIGHTS_FILE} and {RECORD_FILE} do not belong together; copy both again\.$"),
        (weights, record | {"fields": ["gsd"]}, UnavailableError, r" do not belong together; copy both again\.$"),
        (
            weights,
            record | {"fields": ["sun"]},
            UnavailableError,
            r"not a record of skygen's \([^\n]*\); copy the adapter again\.$",
        ),
        (
            weights,
            record | {"sources": []},
            UnavailableError,
            r"not a record of skygen's \([^\n]*\); copy the adapter again\.$",
        ),
        (weights, [], UnavailableError, r"not a record of skygen's \([^\n]*\); copy the adapter again\.$"),
        *(
            (weights, record | {k: v}, ConfigError, r"written in another version of the format; use")
            for k, v in versions.items()
        ),
    ]
    hooks = len(network.time_embedding._forward_hooks)
    for content, said, error, sentence in broken:
        for name, kept in ((WEIGHTS_FILE, content), (RECORD_FILE, None if said is None else json.dumps(said).encode())):
            (tmp_path / name).unlink(missing_ok=True)
            if kept is not None:
                (tmp_path / name).write_bytes(kept)
        with pytest.raises(error, match=sentence):
            load_conditioner(tmp_path, network)
    assert len(broken) == 10
    assert len(network.time_embedding._forward_hooks) == hooks, "a refused conditioner is not left on the network"


def test_a_disk_that_lies_is_noticed(conditioner: MetadataConditioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path)[:-4] + b"\x01\x02\x03\x04")
    with pytest.raises(StorageError, match=rf"{WEIGHTS_FILE}: what was read back differs from what is in memory; the disk"):
        conditioner.save(tmp_path)
    assert not (tmp_path / RECORD_FILE).exists()


def test_settings_are_checked() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"fields": ("sun",)}, r"^metadata\.fields: there is no field sun; choose from gsd, source, month, place$"),
        ({"fields": ("gsd", "gsd")}, r"^metadata\.fields is gsd, gsd; name each field once$"),
        ({"dropout": 1.0}, r"^metadata\.dropout is 1; it must be in \[0, 1\)$"),
        ({"joint_dropout": -0.5}, r"^metadata\.joint_dropout is -0\.5; it must be in \[0, 1\)$"),
    ]
    for settings, sentence in wrong:
        with pytest.raises(ConfigError, match=sentence):
            MetadataSettings(**settings)
    assert MetadataSettings(("place", "gsd")).ordered == ("gsd", "place")


def test_wishes_are_checked(load: Callable[[str], Diffusion]) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"gsd": -1.0}, r"^metadata\.gsd is -1; it must be from 0\.05 to 100 metres a pixel$"),
        ({"gsd": math.nan}, r"^metadata\.gsd is nan; it must be from 0\.05 to 100 metres a pixel$"),
        ({"source": "XX"}, r"^metadata\.source: there is no source XX; choose from CH, ES, DE, FI, US, P3, P5, S2, L8, L9$"),
        ({"month": 0}, r"^metadata\.month is 0; it must be from 1 to 12$"),
        ({"latitude": 91.0, "longitude": 0.0}, r"^metadata\.latitude is 91; it must be from -90 to 90 degrees$"),
        ({"latitude": 1.0, "longitude": 181.0}, r"^metadata\.longitude is 181; it must be from -180 to 180 degrees$"),
        ({"latitude": 1.0}, r"^metadata\.latitude says no place without metadata\.longitude; give both or neither$"),
        ({"longitude": 1.0}, r"^metadata\.longitude says no place without metadata\.latitude; give both or neither$"),
    ]
    for wish, sentence in wrong:
        with pytest.raises(ConfigError, match=sentence):
            MetadataWish(**wish)
    assert MetadataWish().describe() == UNKNOWN
    assert MetadataWish(0.1, "CH", 6, 47.0, 8.0).describe() == SWISS
    conditioner = MetadataConditioner(MetadataSettings(("gsd", "source")), load("stable_diffusion").network, Seeds(0), ("CH",))
    conditioner.require(MetadataWish(gsd=1.0, source="CH").describe())
    with pytest.raises(ConfigError, match=r"^metadata\.month: the adapter was trained on gsd, source alone; leave it out\.$"):
        conditioner.require(MetadataWish(month=3).describe())
    with pytest.raises(ConfigError, match=r"^metadata\.source: the adapter was trained on CH; choose from these\.$"):
        conditioner.require(MetadataWish(source="US").describe())


def test_a_field_that_no_pair_knows_is_refused() -> None:
    pairs = [Pair(str(index), Path("x"), ("a dam",), gsd=1.0 if index % 2 else None, time=None) for index in range(40)]
    assert count_known(pairs, MetadataSettings(("gsd",))) == MetadataStatistics(40, {"gsd": 20})
    assert count_known(pairs, MetadataSettings()) == MetadataStatistics(40, {})
    with pytest.raises(
        ConfigError,
        match=r"^metadata\.fields: month is known of none of 40 pairs looked at; leave it out, or give pairs that say it\.$",
    ):
        count_known(pairs, MetadataSettings(("gsd", "month")))
    assert (
        count_known(
            [Pair("1", Path("x"), ("a dam",), time=datetime(2020, 6, 1, tzinfo=UTC))], MetadataSettings(("month",))
        ).images
        == 1
    )


def test_training_learns_to_make_use_of_what_it_is_told(load: Callable[[str], Diffusion]) -> None:
    """Bright images are Swiss, dark ones Landsat's: the wrong word costs, the right one helps, and pictures follow it."""
    diffusion = load("stable_diffusion")
    adapter = diffusion.attach(LoraSettings(rank=4), Seeds(1))
    conditioner = MetadataConditioner(ALL, diffusion.network, Seeds(0))
    optimizer = torch.optim.Adam([*adapter.parameters.values(), *conditioner.trained_parameters.values()], lr=3e-3)
    described = [SWISS, LANDSAT] * 2
    with torch.no_grad():
        prompts = diffusion.encode_prompts(["a harbor"] * 4)
    channels = diffusion.network.config.in_channels
    shade = torch.tensor([1.0, -1.0]).repeat(2)[:, None, None, None].expand(4, channels, 8, 8)

    def loss(told: list[ImageMetadata], step: int, *, training: bool) -> Tensor:
        with conditioner.told(told, Seeds(4).generator("dropout", step) if training else None):
            return diffusion.denoising_loss(shade, prompts, Seeds(step).generator("noise")).mean()

    for step in range(100):
        optimizer.zero_grad()
        loss(described, step, training=True).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
    with torch.no_grad():
        right, untold, wrong = (
            np.array([float(loss(told, step, training=False)) for step in range(1000, 1020)])
            for told in (described, [UNKNOWN] * 4, described[1:] + described[:1])
        )
        assert right.mean() < 0.9 * wrong.mean()
        assert (right < wrong).mean() >= 0.9
        assert right.mean() < untold.mean()
        with conditioner.told(described):
            drawn = (
                diffusion.pipeline(
                    ["a harbor"] * 4,
                    generator=Seeds(5).generator("noise"),
                    num_inference_steps=8,
                    height=32,
                    width=32,
                    output_type="latent",
                )
                .images.mean(dim=(1, 2, 3))
                .tolist()
            )
    assert min(drawn[0], drawn[2]) > max(drawn[1], drawn[3]), "pictures told to be Swiss are the brighter"
