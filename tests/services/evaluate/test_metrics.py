"""Every metric and extractor through `evaluate`, and what is refused."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from mdt_cli.config.evaluation import METRICS, MetricName
from mdt_cli.errors import MdtError
from mdt_cli.metrics.extractors import weights
from mdt_cli.metrics.intervals import Score, confidence_interval, share_interval
from mdt_cli.metrics.precision_recall import density_coverage, precision_recall
from mdt_cli.services.evaluate.evaluate import EvaluateRequest
from mdt_cli.services.events import Note
from tests.metrics.stand_in import write_stand_in
from tests.pictures import array, png, write_folder
from tests.reference import metrics as reference
from tests.services.evaluate.evaluation_kit import run

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
WITHOUT_CLASSES: tuple[MetricName, ...] = tuple(
    name for name in METRICS if name not in ("sfid", "is", "cmmd", "fid_infinity")
)


class Net(nn.Module):
    """Sixteen means of a few colours and places: fast, and not of full rank in few images."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)[:, :16] / 16


@pytest.fixture
def net(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Net()), str(tmp_path / "net.pt"))
    return tmp_path / "net.pt"


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    samples = write_folder(tmp_path / "samples", {f"{i:06d}.png": png(i) for i in range(24)})
    real = write_folder(tmp_path / "real", {f"c/{i}.png": png(50 + i) for i in range(30)})
    return samples, real


def features(start: int, count: int) -> Tensor:
    pictures = np.stack([array(start + i) for i in range(count)])
    return Net()(torch.from_numpy(pictures).permute(0, 3, 1, 2).float())


def test_numbers_of_a_module_are_those_of_other_tools_on_its_features(
    sets: tuple[Path, Path], net: Path
) -> None:
    report, _ = run(EvaluateRequest(*sets, metrics=WITHOUT_CLASSES, extractor=net))
    suffix = f"net_{weights.sha256_of(net)[:8]}"
    found = {name.removesuffix("_" + suffix): m for name, m in report["metrics"].items()}
    assert list(found) == ["fd", *WITHOUT_CLASSES[1:]]
    assert report["extractor"]["id"] == suffix.replace("_", "-")
    assert "not inception" in report["comparability"]["verdict"]
    x, y = features(0, 24).double(), features(50, 30).double()
    theirs = fid_statistics_to_metric(
        *({"mu": s.mean(0).numpy(), "sigma": s.T.cov().numpy()} for s in (x, y)), verbose=False
    )
    assert found["fd"]["value"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert found["fd"]["value"] == pytest.approx(
        reference.frechet_by_nuclear_norm(x.numpy(), y.numpy()), rel=1e-9
    )
    theirs = prc_features_to_metric(
        x, y, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False
    )
    assert found["precision"]["value"] == pytest.approx(theirs["precision"], abs=1e-6)
    assert found["recall"]["value"] == pytest.approx(theirs["recall"], abs=1e-6)
    assert found["kid"]["value"] == pytest.approx(
        reference.kernel_distance(x.numpy(), y.numpy()), rel=1e-9
    )
    assert (found["kid"]["blocks"]["count"], found["kid"]["blocks"]["size"]) == (1, 24)
    balls = reference.balls_around(x.numpy(), y.numpy(), 5)
    assert found["density"]["value"] == pytest.approx(balls.sum(1).mean() / 5)
    assert found["coverage"]["value"] == balls.any(0).mean()
    errors = {
        "recall": precision_recall(x, y, 3).recall_error,
        "coverage": density_coverage(x, y, 5).coverage_error,
    }
    for name, error in errors.items():
        larger = max(error, found[name]["standard_error"])
        assert found[name]["standard_error_of_samples"] == pytest.approx(larger, rel=1e-9)
    near = torch.cdist(x, y).min(1).values
    quantiles = found["memorisation"]["quantiles"]
    assert quantiles["sample_to_reference"] == pytest.approx(
        near.quantile(torch.tensor(quantiles["at"], dtype=torch.float64)).tolist(), rel=1e-6
    )


def test_every_score_has_its_interval_and_says_how(sets: tuple[Path, Path], net: Path) -> None:
    report, _ = run(EvaluateRequest(*sets, metrics=WITHOUT_CLASSES, extractor=net))
    for name, metric in report["metrics"].items():
        assert metric["interval_rule"].startswith("95 %, ")
        kind, error = name.partition("_")[0], metric["standard_error"]
        of_samples = metric.get("standard_error_of_samples")
        if kind in ("precision", "recall", "coverage", "memorisation"):
            of = 30 if kind in ("recall", "coverage") else 24
            assert tuple(metric["interval"]) == share_interval(metric["value"], of)
            assert (of_samples is None) == (of == 24)
            assert of_samples is None or of_samples >= error > 0
        else:
            assert tuple(metric["interval"]) == confidence_interval(Score(metric["value"], error))
            assert (of_samples is None) == (kind != "kid")
            assert of_samples is None or of_samples < error
    distance = next(iter(report["metrics"].values()))
    assert "here N = 24" in distance["bias"]


def test_the_limit_needs_samples_for_its_features(sets: tuple[Path, Path], tmp_path: Path) -> None:
    class Colours(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) / 16

    file = tmp_path / "colours.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Colours()), str(file))
    asked = EvaluateRequest(*sets, metrics=("fid", "fid_infinity"), extractor=file)
    with pytest.raises(MdtError, match=r"24 images; fid_infinity over 3 features needs 40, better"):
        run(asked)
    for count, enough in ((40, False), (60, True)):
        folder = tmp_path / str(count)
        write_folder(folder, {f"{i}.png": png(i) for i in range(count)})
        report, _ = run(replace(asked, samples=folder))
        plain, limit = report["metrics"].values()
        assert limit["distances"][-1] == pytest.approx(plain["value"], rel=1e-9)
        assert limit["standard_error"] > 1.1 * plain["standard_error"]
        assert limit["interval"][0] < limit["value"] < plain["value"]
        assert ("bias" in limit) == (not enough)
        told = [text for text in report["warnings"] if "fid_infinity" in text]
        assert len(told) == (not enough)


def test_neither_memory_nor_batches_nor_names_change_a_number(
    sets: tuple[Path, Path], net: Path, tmp_path: Path
) -> None:
    request = EvaluateRequest(*sets, metrics=WITHOUT_CLASSES, extractor=net)
    whole, _ = run(request)
    write_folder(tmp_path / "other", {f"{(i * 7) % 24}.png": png(i) for i in range(24)})
    again, _ = run(replace(request, samples=tmp_path / "other", memory=1, batch_size=5))
    for name, metric in whole["metrics"].items():
        assert again["metrics"][name]["value"] == pytest.approx(metric["value"], rel=1e-9)


def test_copies_show_in_memorisation_alone(
    sets: tuple[Path, Path], net: Path, tmp_path: Path
) -> None:
    copied = write_folder(tmp_path / "copied", {f"{i:06d}.png": png(50 + i) for i in range(24)})
    request = EvaluateRequest(*sets, metrics=("fid", "memorisation"), extractor=net)
    fresh, _ = run(request)
    learned, _ = run(replace(request, samples=copied))
    fd, memorised = (
        [list(report["metrics"].values())[k] for report in (fresh, learned)] for k in (0, 1)
    )
    assert fd[1]["value"] < fd[0]["value"]
    assert (memorised[0]["identical"], memorised[1]["identical"]) == (0, 24)
    assert memorised[0]["value"] < 0.2
    assert memorised[1]["value"] == 1


def test_statistics_of_a_module_bear_its_name(
    sets: tuple[Path, Path], net: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "ref.npz"
    request = EvaluateRequest(*sets, metrics=("fid",), extractor=net, save_reference=saved)
    whole, _ = run(request)
    again, events = run(EvaluateRequest(sets[0], saved, extractor=net))
    name = f"fd_net_{weights.sha256_of(net)[:8]}"
    assert list(again["metrics"]) == [name]
    assert again["metrics"][name]["value"] == pytest.approx(
        whole["metrics"][name]["value"], rel=1e-9
    )
    notes = [event.text for event in events if isinstance(event, Note)]
    assert f"{saved} holds statistics only; computed: fid" in notes
    with pytest.raises(MdtError, match=r"was computed with net-.*, a module in a file"):
        run(EvaluateRequest(sets[0], saved))
    other = tmp_path / "b" / "net.pt"
    other.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Sequential(Net(), nn.Softplus())), str(other))
    with pytest.raises(MdtError, match=r"was computed with net-.*, but the extractor is net-"):
        run(EvaluateRequest(sets[0], saved, extractor=other))


def test_sfid_is_kept_with_the_reference(sets: tuple[Path, Path], tmp_path: Path) -> None:
    file, saved = tmp_path / "stand-in.pt", tmp_path / "ref.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "INCEPTION_SHA256", write_stand_in(file))
        request = EvaluateRequest(*sets, weights=file)
        whole, _ = run(replace(request, metrics=("sfid",), save_reference=saved))
        with np.load(saved) as held:
            assert held["mu_s"].shape == (2023,)
            assert held["sigma_s"].shape == (2023, 2023)
            held_mu, held_sigma = held["mu"], held["sigma"]
        again, _ = run(replace(request, reference=saved, metrics=("sfid",)))
        assert list(again["metrics"]) == ["sfid"]
        assert again["metrics"]["sfid"]["value"] == pytest.approx(
            whole["metrics"]["sfid"]["value"], rel=1e-9
        )
        bare = tmp_path / "bare.npz"
        np.savez(bare, mu=held_mu, sigma=held_sigma)
        request = replace(request, resize="clean")
        without, _ = run(replace(request, reference=bare))
        assert list(without["metrics"]) == ["fid", "is"]
        with pytest.raises(MdtError, match=r"mu and sigma, but not the mu_s and sigma_s of sfid"):
            run(replace(request, reference=bare, metrics=("sfid",)))


def test_clip_gives_cmmd(sets: tuple[Path, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=10,
    )
    torch.manual_seed(0)
    folder = tmp_path / "clip"
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    request = EvaluateRequest(*sets, metrics=("cmmd", "kid"), extractor="clip", weights=folder)
    report, _ = run(request)
    name = report["extractor"]["id"].replace("-", "_")
    # Another size of CLIP is another metric than the published one.
    assert list(report["metrics"]) == [f"kid_{name}", f"cmmd_{name}"]
    assert report["metrics"][f"cmmd_{name}"]["value"] > 0
    assert report["extractor"]["resize_rule"].startswith("the middle square, Pillow bicubic")
    same, _ = run(replace(request, reference=sets[0]))
    assert same["metrics"][f"cmmd_{name}"]["value"] == pytest.approx(0, abs=1e-9)


def test_what_an_extractor_lacks_is_refused_or_left_out(
    sets: tuple[Path, Path], net: Path, tmp_path: Path
) -> None:
    asked = EvaluateRequest(*sets, extractor="efficientnet-lite0")
    five = write_folder(tmp_path / "five", {f"{i}.png": png(i) for i in range(5)})
    (tmp_path / "folder").mkdir()
    cases = [
        (replace(asked, metrics=("sfid",)), "sfid is defined only for inception, but the extr"),
        (replace(asked, metrics=("cmmd",)), "cmmd is defined only for clip, but the extractor"),
        (replace(asked, extractor=net, metrics=("is",)), "only for inception and efficientnet"),
        (
            replace(asked, samples=five, metrics=("coverage",)),
            "5 images; coverage needs at least 6",
        ),
        (replace(asked, metrics=("fid_infinity",)), "over 1,280 features needs 12,810, better 25,"),
        (replace(asked, memory=0), "--memory is 0"),
        (replace(asked, extractor=net, weights=net), "but --extractor is .*net.pt"),
        (replace(asked, extractor=None, weights=tmp_path / "folder"), "is a folder; the weights"),
        (replace(asked, extractor="dinov2"), "the weights of dinov2 were not found"),
        (replace(asked, extractor=tmp_path / "no.pt"), r"no such file: .*no.pt"),
        (replace(asked, extractor=net, resize="legacy_pytorch"), "belongs to the Inception graph"),
    ]
    for request, message in cases:
        with pytest.raises(MdtError, match=message):
            run(request)
    assert not (sets[0] / "report.json").exists()


def test_nan_features_of_a_module_name_the_image(sets: tuple[Path, Path], tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean((2, 3))
            return torch.where(mean < 128.0, mean, mean * float("nan"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Broken()), str(tmp_path / "broken.pt"))
    with pytest.raises(MdtError, match=r"the features of .*\.png are NaN or infinite"):
        run(EvaluateRequest(*sets, metrics=("fid",), extractor=tmp_path / "broken.pt"))
