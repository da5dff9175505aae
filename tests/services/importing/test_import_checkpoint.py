"""Official weights become ours: what is derived, asked for, written, refused."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mdt_cli.artifacts.data_facts import check_same_data, codec_doubt
from mdt_cli.artifacts.weights import read_header, read_tensors
from mdt_cli.errors import MdtError
from mdt_cli.services.events import ImportDone, Note, Warned
from mdt_cli.services.importing.families import FAMILIES
from mdt_cli.services.importing.import_checkpoint import ImportRequest, import_checkpoint
from mdt_cli.services.importing.shapes import Asked, Shapes
from mdt_cli.services.model import LoadedModel, find_weights, load_trained
from tests.reference import official_layouts as official
from tests.test_untrusted import write_malicious

CPU = torch.device("cpu")
HEADS = ("model.num_heads=2",)
NARROW = (*HEADS, "model.narrow_decoder.num_heads=2")


def convert(
    folder: Path, family: str, held: object, *assignments: str, out: str = "ours", **choices: object
) -> tuple[list, Path]:
    torch.save(held, folder / "official.pt")
    request = ImportRequest(
        folder / "official.pt", folder / out, family, assignments=assignments, **choices
    )
    return list(import_checkpoint(request)), folder / out


def loaded(folder: Path, family: str, held: object, *assignments: str, **choices) -> LoadedModel:
    return load_trained(convert(folder, family, held, *assignments, **choices)[1], None, CPU)


def notes(events: list) -> str:
    return "\n".join(event.text for event in events if isinstance(event, (Note, Warned)))


def test_dit_is_read_off_its_shapes(tmp_path: Path) -> None:
    held = official.filled(official.dit(width=48, depth=2, grid=3, classes=5, patch=4, channels=6))
    # Six latent channels: no published autoencoder has so many.
    with pytest.raises(MdtError, match="takes 6 latent channels, and no published codec"):
        convert(tmp_path, "dit", held, *HEADS)
    held = official.filled(official.dit(width=48, depth=2, grid=3, classes=5, patch=4))
    trained = loaded(tmp_path, "dit", held, "model.num_heads=3")
    model = trained.config.model
    assert (model.patch_size, model.hidden_size, model.depth, model.num_heads) == (4, 48, 2, 3)
    assert (model.positions, model.relative_bias, model.decoder_depth) == ("fixed", False, 0)
    assert trained.facts["latent_shape"] == [4, 12, 12]
    assert (trained.facts["image_size"], trained.num_classes) == (96, 5)
    assert trained.facts["class_names"] == ["0", "1", "2", "3", "4"]
    codec = trained.facts["codec"]
    assert (codec["id"], codec["scale"]) == ("stabilityai/sd-vae-ft-ema", [0.18215] * 4)
    assert trained.config.objective.learned_variance


def test_heads_are_published_asked_for_or_seen(tmp_path: Path) -> None:
    held = official.filled(official.dit())
    with pytest.raises(
        MdtError, match="the number of attention heads, and none is published for width 32"
    ):
        convert(tmp_path, "dit", held)
    wide = official.filled(official.dit(width=384, depth=1))
    events, out = convert(tmp_path, "dit", wide)
    assert load_trained(out, None, CPU).config.model.num_heads == 6
    assert (
        "assuming model.num_heads=6 (published for width 384); the checkpoint does not store it"
        in notes(events)
    )
    biased = official.filled(official.mdt(heads=4))
    trained = loaded(tmp_path, "mdt", biased, out="mdt", decoder_depth=1)
    assert trained.config.model.num_heads == 4
    with pytest.raises(MdtError, match=r"--set model.num_heads=2: .* has 4"):
        convert(tmp_path, "mdt", biased, *HEADS, out="again", decoder_depth=1)


def test_the_depth_of_a_decoder_is_asked_for_where_the_file_cannot_say(tmp_path: Path) -> None:
    held = official.filled(official.mdt(depth=4))
    with pytest.raises(MdtError, match="does not store how many of its 4 blocks") as caught:
        convert(tmp_path, "mdt", held)
    assert "published weights have 2: add --decoder-depth 2" in str(caught.value)
    for wrong in (0, 4):
        with pytest.raises(MdtError, match=f"--decoder-depth {wrong} does not fit 4 blocks"):
            convert(tmp_path, "mdt", held, decoder_depth=wrong)
    trained = loaded(tmp_path, "mdt", held, decoder_depth=3)
    assert trained.config.model.decoder_depth == 3
    assert trained.config.masking.restore_at == -3
    other = official.filled(official.mdt(depth=6, decoder=2))
    with pytest.raises(MdtError, match=r"--decoder-depth 4: .* has a decoder of 2"):
        convert(tmp_path, "mdtv2", other, out="v2", decoder_depth=4)
    trained = loaded(tmp_path, "mdtv2", other, out="v2")
    assert (trained.config.model.decoder_depth, trained.config.model.depth) == (2, 6)
    with pytest.raises(MdtError, match="has a decoder of 0"):
        convert(tmp_path, "dit", official.filled(official.dit()), *HEADS, out="d", decoder_depth=2)


DDPM = ("ddpm", 250, "power_cosine", 3.8, "truncate")
PUBLISHED = [
    ("dit", official.dit(), HEADS, {}, ("ddpm", 250, "constant", 1.5, "round")),
    ("mdt", official.mdt(), (), {"decoder_depth": 2}, DDPM),
    ("mdtv2", official.mdt(depth=6, decoder=2), (), {}, DDPM),
    ("maskdit", official.maskdit(), NARROW, {}, ("heun", 40, "constant", 1.5, "truncate")),
    ("uvit", official.uvit(), HEADS, {}, ("dpm++3s", 50, "constant", 1.4, "round")),
    ("maskdm", official.maskdm(), HEADS, {}, ("ddim", 250, "none", None, "round")),
]


@pytest.mark.parametrize(
    ("family", "shapes", "assignments", "choices", "published"), PUBLISHED, ids=lambda x: str(x)[:8]
)
def test_sampling_is_the_published_one(
    tmp_path: Path, family: str, shapes: dict, assignments: tuple, choices: dict, published: tuple
) -> None:
    held = official.filled(shapes, fixed_positions=family not in ("uvit", "maskdm"))
    trained = loaded(tmp_path, family, held, *assignments, **choices)
    sampling = trained.config.sampling
    scale = getattr(sampling.guidance, "scale", None)
    seen = (sampling.solver, sampling.steps, sampling.guidance.kind, scale, sampling.uint8)
    assert seen == published
    assert trained.ema == ("0.999" if family == "maskdm" else "0.9999")


def test_tokens_without_classes_and_betas_in_the_file(tmp_path: Path) -> None:
    state = official.filled(official.maskdm(), fixed_positions=False)
    inner = {f"ema_model.model.{name}": tensor for name, tensor in state.items()}
    share = torch.arange(1001, dtype=torch.float64) / 1000
    signal = torch.cos((share + 0.008) / 1.008 * torch.pi / 2) ** 2
    betas = (1 - signal[1:] / signal[:-1]).clamp(0, 0.999)
    held = {"ema": inner | {"ema_model.betas": betas.float()}, "step": 200_000}
    events, out = convert(tmp_path, "maskdm", held, *HEADS)
    trained = load_trained(out, None, CPU)
    assert trained.config.objective.betas == "cosine"
    assert "objective.betas" not in notes(events)
    assert (trained.num_classes, trained.step) == (0, 200_000)
    assert (trained.facts["codec"], trained.facts["image_size"]) == ({"name": "pixels"}, 16)
    held["ema"]["ema_model.betas"] = betas.float() / 2
    with pytest.raises(MdtError, match=r"\(betas\) that is not linear, cosine or"):
        convert(tmp_path, "maskdm", held, *HEADS, out="again")
    plain = official.filled(official.uvit(classes=0, conv=False), fixed_positions=False)
    trained = loaded(tmp_path, "uvit", plain, *HEADS, out="uvit")
    assert (trained.num_classes, trained.config.model.output_conv) == (0, False)
    assert trained.facts["latent_shape"] == [4, 8, 8]


def test_trained_positions_of_dit_are_kept(tmp_path: Path) -> None:
    held = official.filled(official.dit())
    held["pos_embed"] = held["pos_embed"] + 1e-3
    trained = loaded(tmp_path, "dit", held, *HEADS)
    assert trained.config.model.positions == "learned"
    torch.testing.assert_close(trained.network.positions_ND, held["pos_embed"][0], rtol=0, atol=0)
    narrow = official.filled(official.maskdit())
    narrow["model.decoder_pos_embed"] += 1e-3
    with pytest.raises(MdtError, match=r"model.decoder_pos_embed differs from the fixed table"):
        convert(tmp_path, "maskdit", narrow, *NARROW, out="maskdit")
    assert not (tmp_path / "maskdit").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fixed_tables_in_half_precision_are_fixed_tables(tmp_path: Path, dtype) -> None:
    held = {name: tensor.to(dtype) for name, tensor in official.filled(official.dit()).items()}
    assert loaded(tmp_path, "dit", held, *HEADS).config.model.positions == "fixed"
    narrow = official.filled(official.maskdit())
    narrow = {name: tensor.to(dtype) for name, tensor in narrow.items()}
    convert(tmp_path, "maskdit", narrow, *NARROW, out="maskdit")
    # A step of the precision is more than rounding explains.
    held["pos_embed"] = held["pos_embed"] + torch.finfo(dtype).eps
    kept = loaded(tmp_path, "dit", held, *HEADS, out="changed")
    assert kept.config.model.positions == "learned"


def test_no_class_is_zeros_in_maskdit(tmp_path: Path) -> None:
    held = official.filled(official.maskdit(classes=3))
    trained = loaded(tmp_path, "maskdit", held, *NARROW)
    table = trained.network.label(torch.tensor([0, 1, 2, 3]))
    assert torch.equal(table[:3], held["model.y_embedder.embedding_table.weight"].t())
    assert torch.equal(table[3], torch.zeros(32))


def test_a_network_that_never_dropped_labels(tmp_path: Path) -> None:
    """Then the last row of its table is a class, which no shape can tell."""
    held = official.filled(official.uvit(classes=9), fixed_positions=False)
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefghij"))
    with pytest.raises(MdtError, match=r"has 10 names, but the network has 9 classes") as caught:
        convert(tmp_path, "uvit", held, *HEADS, classes=names)
    assert "--set data.class_dropout=0" in str(caught.value)
    trained = loaded(tmp_path, "uvit", held, *HEADS, "data.class_dropout=0", classes=names)
    assert trained.facts["class_names"] == list("abcdefghij")
    assert trained.config.sampling.guidance.kind == "none"
    table = trained.network.extras.label.table.weight
    assert torch.equal(table[:10], held["label_emb.weight"])
    assert torch.equal(table[10], torch.zeros(32))
    held = official.filled(official.dit(classes=9))
    trained = loaded(tmp_path, "dit", held, *HEADS, "data.class_dropout=0", out="dit")
    assert (trained.num_classes, trained.config.sampling.guidance.kind) == (10, "none")


@pytest.mark.parametrize(
    ("width", "halves", "heads", "betas"),
    [(512, 6, 8, "linear"), (1024, 10, 16, "linear"), (1152, 14, 16, "scaled_linear")],
)
def test_published_sizes_of_uvit(width: int, halves: int, heads: int, betas: str) -> None:
    shapes = official.uvit(width=width, halves=halves, grid=16, classes=1000)
    held = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    seen = FAMILIES["uvit"].see(Shapes(held, "a file"), Asked())
    assert seen.assumed["model.num_heads"].value == heads
    assert seen.assumed["objective.betas"].value == betas
    assert (seen.keys["model.depth"], seen.num_classes) == (2 * halves + 1, 1000)


def test_class_names(tmp_path: Path) -> None:
    held = official.filled(official.dit(classes=3))
    for text, name in (
        ("cat\ndog\nowl\n", "names.txt"),
        ('["cat", "dog", "owl"]', "list.json"),
        ('{"0": ["n1", "cat"], "2": ["n3", "owl"], "1": ["n2", "dog"]}', "index.json"),
    ):
        (tmp_path / name).write_text(text)
        trained = loaded(tmp_path, "dit", held, *HEADS, out=f"{name}.d", classes=tmp_path / name)
        assert trained.facts["class_names"] == ["cat", "dog", "owl"]
    (tmp_path / "twice.txt").write_text("crane\ncrane\nowl")
    events, _ = convert(tmp_path, "dit", held, *HEADS, classes=tmp_path / "twice.txt")
    assert 'several classes are named "crane"' in notes(events)
    for text, name, sentence in (
        ("{", "bad.json", "is not valid JSON"),
        ('{"a": "cat"}', "keys.json", "is not a list of names"),
        ('{"0": "a", "5": "b", "6": "c"}', "gap.json", "the indices are not 0 to 2"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(MdtError, match=sentence):
            convert(tmp_path, "dit", held, *HEADS, out="no", classes=tmp_path / name)
    with pytest.raises(MdtError, match="cannot be read"):
        convert(tmp_path, "dit", held, *HEADS, out="no", classes=tmp_path / "none")


def test_the_report_and_the_header(tmp_path: Path) -> None:
    state = official.filled(official.dit())
    half = {name: tensor.half() for name, tensor in state.items()}
    half["pos_embed"] = state["pos_embed"]
    arguments = argparse.Namespace(vae="mse", data_path="/somewhere")
    events, out = convert(tmp_path, "dit", {"ema": half, "args": arguments}, *HEADS)
    done = events[-1]
    assert isinstance(done, ImportDone)
    report = json.loads((out / "import.json").read_text())
    assert report == done.report
    assert report["round_trip"]["bit_for_bit"]
    assert report["round_trip"]["dtypes"] == ["float16"]
    assert report["round_trip"]["computed"].keys() == {"pos_embed"}
    assert report["round_trip"]["computed"]["pos_embed"] < 1e-6
    assert report["parameters"] == report["round_trip"]["values"]
    assert report["parameters"] == sum(t.numel() for t in state.values()) - 16 * 32
    assert report["assumed"] == {"model.num_heads": 2}
    assert report["source"]["weights"] == "ema"
    assert report["forward"]["shape"] == [4, 8, 8, 8]
    header = read_header(out / "weights.safetensors")
    assert (header.stage, header.step, header.ema) == ("import", 0, "0.9999")
    assert header.data["codec"]["id"] == "stabilityai/sd-vae-ft-mse"
    ours = read_tensors(out / "weights.safetensors")
    assert torch.equal(ours["head.linear.weight"], half["final_layer.linear.weight"].float())
    assert "somewhere" not in (out / "import.json").read_text() + str(header)


def test_a_file_with_a_report_beside_it(tmp_path: Path) -> None:
    held = {"model": official.filled(official.dit())}
    events, out = convert(tmp_path, "dit", held, *HEADS, out="dit.safetensors")
    assert events[-1].report_path == str(tmp_path / "dit.import.json")
    assert load_trained(out, None, CPU).ema == "online"
    assert find_weights(out, "online") == out
    # The same weights as in a folder, byte for byte.
    _, folder = convert(tmp_path, "dit", held, *HEADS, out="folder")
    assert (folder / "weights.safetensors").read_bytes() == out.read_bytes()
    assert find_weights(folder, None) == folder / "weights.safetensors"
    with pytest.raises(MdtError, match=r"holds the weights online, not 0\.9999"):
        find_weights(folder, "0.9999")


def broken(kind: str) -> tuple[str, dict, tuple[str, ...], str]:
    """family, state dict, assignments, the sentence."""
    state = official.filled(official.dit())
    match kind:
        case "nan":
            state["blocks.1.mlp.fc1.bias"][3] = float("nan")
            return "dit", state, HEADS, r"blocks.1.mlp.fc1.bias contains NaN or infinity"
        case "infinity":
            state["final_layer.linear.weight"][0, 0] = float("inf")
            return "dit", state, HEADS, "final_layer.linear.weight contains NaN or infinity"
        case "integers":
            state["blocks.1.mlp.fc1.bias"] = torch.zeros(128, dtype=torch.int64)
            return "dit", state, HEADS, "has dtype torch.int64; expected floating point"
        case "missing":
            state["blocks.1.mlp.fc1.bais"] = state.pop("blocks.1.mlp.fc1.bias")
            sentence = (
                r"does not fit DiT: of 42 tensors 1 missing, 0 with a wrong shape; 1 "
                r"unexpected\n  missing: blocks.1.mlp.fc1.bias \(found blocks.1.mlp.fc1.bais\)\n"
                r"  unexpected: blocks.1.mlp.fc1.bais"
            )
            return "dit", state, HEADS, sentence
        case "many":
            state = {k: v for k, v in state.items() if not k.startswith("blocks.1.")}
            return "dit", state, HEADS, r"10 missing(.|\n)*missing: ... and 4 more"
        case "shape":
            state["blocks.2.attn.proj.weight"] = torch.zeros(32, 31)
            return "dit", state, HEADS, r"proj.weight has shape \[32, 31\], expected \[32, 32\]"
        case "no size":
            del state["pos_embed"]
            return (
                "dit",
                state,
                HEADS,
                "has no pos_embed, from which the size of the network is read",
            )
        case "oblong":
            state["pos_embed"] = torch.zeros(1, 15, 32)
            return "dit", state, HEADS, "has 15 position embeddings, not a square grid"
        case "answer":
            state["final_layer.linear.weight"] = torch.zeros(48, 32)
            return (
                "dit",
                state,
                HEADS,
                "output layer has 48 values per patch; expected 16, or 32 with learned",
            )
        case "axes":
            state["x_embedder.proj.weight"] = torch.zeros(32, 16)
            return (
                "dit",
                state,
                HEADS,
                r"x_embedder.proj.weight has shape \[32, 16\]; expected 4 dimensions",
            )
        case "unknown":
            return "dit", {"conv1.weight": torch.ones(2)}, (), "does not have the layout of DiT"
        case "wrong value":
            return "dit", state, ("model.depth=7", *HEADS), r"--set model.depth=7: .* has 3"
        case "no key":
            return "dit", state, ("model.dept=7", *HEADS), "no such key; did you mean model.depth"
        case "head size":
            return "dit", state, ("model.num_heads=5",), "is not a multiple of num_heads 5"
        case "index":
            state = official.filled(official.mdt(depth=6, decoder=2))
            name = "en_inblocks.0.attn.rel_pos_bias.relative_position_index"
            state[name] = state[name].t().contiguous()
            return "mdtv2", state, (), "numbers relative positions in another order than MDT"
        case "halves":
            state = official.filled(official.mdt(depth=6, decoder=2))
            state = {k: v for k, v in state.items() if not k.startswith("en_outblocks.1")}
            return "mdtv2", state, (), "has 2 en_inblocks, 1 en_outblocks and 2 de_blocks"
        case "no middle":
            state = official.filled(official.uvit(), fixed_positions=False)
            state = {k: v for k, v in state.items() if not k.startswith("out_blocks.1")}
            return "uvit", state, HEADS, "has 2 in_blocks, 1 mid_block and 1 out_blocks"
        case "huge":
            for tensor in state.values():
                tensor.fill_(3e38)
            return "dit", state, HEADS, "a forward pass gives NaN or infinity"
        case _:
            raise AssertionError(kind)


FILES = ("nan", "infinity", "integers", "missing", "many", "shape", "no size", "oblong", "answer")
MORE_FILES = ("axes", "unknown", "index", "halves", "no middle", "huge")
WORDS = ("wrong value", "no key", "head size")


@pytest.mark.parametrize("kind", [*FILES, *MORE_FILES, *WORDS])
def test_what_does_not_fit_is_told_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    family, state, assignments, sentence = broken(kind)
    for out in ("ours", "ours.safetensors"):
        with pytest.raises(MdtError, match=sentence):
            convert(tmp_path, family, state, *assignments, out=out)
        assert [path.name for path in tmp_path.iterdir()] == ["official.pt"]


@pytest.mark.parametrize("family", [entry[0] for entry in PUBLISHED])
def test_another_family_is_named(tmp_path: Path, family: str) -> None:
    others = [entry for entry in PUBLISHED if entry[0] != family]
    for name, shapes, _, _, _ in others:
        held = {key: torch.zeros(shape) for key, shape in shapes.items()}
        with pytest.raises(MdtError, match=r"has the layout of [\w -]+, not of") as caught:
            convert(tmp_path, family, held)
        assert caught.value.hint == f"use --family {name}"


def test_words_and_places(tmp_path: Path) -> None:
    held = official.filled(official.dit())
    with pytest.raises(MdtError, match="--family: no maskdti; did you mean maskdit"):
        convert(tmp_path, "maskdti", held)
    with pytest.raises(MdtError, match="no such file"):
        list(import_checkpoint(ImportRequest(tmp_path / "no.pt", tmp_path / "out", "dit")))
    (tmp_path / "there").mkdir()
    with pytest.raises(MdtError, match="exists already"):
        convert(tmp_path, "dit", held, *HEADS, out="there")
    three = official.filled(official.dit(channels=3))
    with pytest.raises(MdtError, match="have 4 channels, but the network takes 3"):
        convert(tmp_path, "dit", three, *HEADS, codec="stabilityai/sd-vae-ft-mse")


def test_a_malicious_file_runs_nothing_and_writes_nothing(tmp_path: Path) -> None:
    write_malicious(tmp_path / "evil.pt", tmp_path / "trap", "zip")
    with pytest.raises(MdtError, match="which may run code"):
        list(import_checkpoint(ImportRequest(tmp_path / "evil.pt", tmp_path / "out", "dit")))
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_a_codec_known_by_name_alone_fits_a_cache_made_with_it(tmp_path: Path) -> None:
    """An import without the autoencoder at hand does not know the digest of its weights."""
    trained = loaded(tmp_path, "dit", official.filled(official.dit()), *HEADS)
    assert trained.facts["codec"]["weights_sha256"] is None
    codec = {**trained.facts["codec"], "weights_sha256": "a" * 64}

    def check(**changes: object) -> str | None:
        header = {**trained.facts, "codec": {**codec, **changes}}
        cache = SimpleNamespace(facts=SimpleNamespace(header=lambda: header))
        check_same_data(trained.facts, cache, trained.path)
        return codec_doubt(trained.facts, cache)

    assert check() is None
    assert "weights cannot be compared" in (check(id="/a/copy/of/it") or "")
    for changes in ({"kind": "VQModel"}, {"scale": [1.0] * 4}, {"downsampling": 4}):
        with pytest.raises(MdtError, match="trained on another codec than the cache holds"):
            check(**changes)
    # Where neither knows a digest, the name is all there is.
    with pytest.raises(MdtError, match="trained on another codec than the cache holds"):
        check(id="stabilityai/sd-vae-ft-mse", weights_sha256=None)
